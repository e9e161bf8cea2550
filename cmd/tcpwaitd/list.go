package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/report"
)

// listStates is the default: waits, and closed sockets that are still held.
const listStates = "close-wait,close"

func listCommand(a *app) *cobra.Command {
	var (
		ff        filterFlags
		threshold time.Duration
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the sockets that exist now, with age, owner, holders and cause",
		Long: `List the sockets that exist now in all network namespaces, the oldest first: those
in CLOSE_WAIT, and closed ones that a process still holds a descriptor of (which no
socket lister shows), unless --state says otherwise.

AGE is the time in the state; a + marks a lower bound and a < an upper one, for sockets
that are older than the watching. CAUSE says why the socket is not closed: unaccepted,
unread_data, unread_eof, eof_ignored, half_close, held_elsewhere, in_flight or zombie_fd.
COMM in parentheses is one of several processes that could accept, with the number of
the others. RECV-Q counts the peer's FIN as one. -o wide shows everything.

-o json is one document, -o jsonl one socket a line.`,
		Example: `  tcpwaitd list
  tcpwaitd list --min-dwell 5m --sort -recv_q
  tcpwaitd list --state all -p 1234 -o wide
  tcpwaitd list -o csv --fields owner.pid,owner.comm,dwell_ns,cause
  tcpwaitd list --where 'cause == "eof_ignored" && owner.comm == "java"'`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return a.list(&ff, threshold) },
	}
	ff.bind(cmd, listStates)
	thresholdFlag(cmd, &threshold)
	return cmd
}

func (a *app) list(ff *filterFlags, threshold time.Duration) error {
	if err := notNegative("threshold", threshold); err != nil {
		return err
	}
	o, err := a.report(threshold)
	if err != nil {
		return err
	}
	f, err := ff.parse(a, filter.Sockets)
	if err != nil {
		return err
	}
	out, err := report.NewList(o)
	if err != nil {
		return err
	}
	return a.withBackend(func(ctx context.Context, b backend) error {
		l, err := b.List(ctx, query(f, threshold, out.NeedsFacts()))
		if err != nil {
			return err
		}
		if err := f.Err(); err != nil {
			return err
		}
		if len(l.Cases) == 0 && (o.Format == report.Table || o.Format == report.Wide) {
			fmt.Fprintln(a.stderr, nothingFound(ff))
		}
		err = out.Write(a.stdout, &report.Sockets{
			Facts: &l.Facts, Cases: l.Cases, Loss: l.Loss, UnreadNetns: l.UnreadNetns,
		})
		if err == nil && o.Format != report.JSON {
			a.reservations(l.Loss, l.UnreadNetns)
		}
		return err
	})
}

// nothingFound says which sockets there are none of.
func nothingFound(ff *filterFlags) string {
	text := "no socket"
	switch states := strings.Join(ff.States, ","); {
	case states == listStates:
		text += " in CLOSE_WAIT"
	case !strings.EqualFold(states, "all"):
		text += " in " + strings.ReplaceAll(strings.ToUpper(strings.ReplaceAll(states, "-", "_")), ",", " or ")
	}
	chosen := ff.Options
	chosen.States = []string{"all"}
	if (&filterFlags{chosen}).narrow() {
		text += " passes the filter"
	}
	return text
}

// reservations say on stderr what the output cannot show. JSON documents carry it.
func (a *app) reservations(l event.Loss, unread map[uint32]string) {
	if l.Any() {
		fmt.Fprintln(a.stderr, report.LossText(l))
	}
	for _, ns := range slices.Sorted(maps.Keys(unread)) {
		fmt.Fprintf(a.stderr, "network namespace %d could not be read: %s\n", ns, unread[ns])
	}
}
