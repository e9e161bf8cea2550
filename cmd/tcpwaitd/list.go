package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/report"
)

// listStates is the default: waits, and closed sockets that are still held.
const listStates = "close-wait,close"

// byStack is the one grouping of list.
const byStack = "stack"

// listFlags are the flags of list.
type listFlags struct {
	filterFlags
	stacks         stackFlags
	watch, stuckAt time.Duration
	by             string
}

func listCommand(a *app) *cobra.Command {
	var lf listFlags
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

--for watches before it looks, so that the stacks of what happens meanwhile are known.
--by stack puts the sockets of a process that stand at the same place in the code
together and shows the whole stack, the most sockets first; -o pprof and -o folded make
a profile of them.

-o json is one document, -o jsonl one socket a line.`,
		Example: `  tcpwaitd list
  tcpwaitd list --for 30s --by stack
  tcpwaitd list --for 30s -o pprof > waits.pb.gz
  tcpwaitd list --min-dwell 5m --sort -recv_q
  tcpwaitd list --state all -p 1234 -o wide
  tcpwaitd list -o csv --fields owner.pid,owner.comm,dwell_ns,cause
  tcpwaitd list --where 'cause == "eof_ignored" && owner.comm == "java"'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lf.watch == 0 && cmd.Flags().Changed("stacks") && lf.stacks.mode != string(pipeline.StacksOff) {
				return usagef("--stacks %s needs --for: stacks are taken while watching", lf.stacks.mode)
			}
			return a.list(&lf)
		},
	}
	lf.bind(cmd, listStates)
	a.hookFlags(cmd)
	lf.stacks.bind(cmd, pipeline.StacksOn)
	thresholdFlag(cmd, &lf.stuckAt)
	cmd.Flags().DurationVar(&lf.watch, "for", 0, "how long to watch before looking, so that stacks are known; 0 looks at once")
	cmd.Flags().StringVar(&lf.by, "by", "", "stack: put the sockets at the same place in the code together")
	complete(cmd, "by", []string{byStack})
	return cmd
}

// check refuses what makes no sense.
func (lf *listFlags) check() error {
	if lf.by != "" && lf.by != byStack {
		return usagef("invalid value %q for --by: want %s", lf.by, byStack)
	}
	return errors.Join(notNegative("for", lf.watch), notNegative("threshold", lf.stuckAt), lf.stacks.check())
}

func (a *app) list(lf *listFlags) error {
	if err := lf.check(); err != nil {
		return err
	}
	o, err := a.report(lf.stuckAt, report.ProfileFormats()...)
	if err != nil {
		return err
	}
	f, err := lf.parse(a, filter.Sockets)
	if err != nil {
		return err
	}
	// A look without watching hooks nothing.
	if a.stacks = lf.stacks; lf.watch == 0 {
		a.stacks.mode = string(pipeline.StacksOff)
	}
	o.Stacks = a.stacks.mode != string(pipeline.StacksOff)
	out, err := newListWriter(o, lf.by)
	if err != nil {
		return err
	}
	if !o.Stacks && (lf.by == byStack || o.Format.Profile()) {
		fmt.Fprintln(a.stderr, withoutWatching)
	}
	return a.withBackend(func(ctx context.Context, b backend) error {
		q := pipeline.ListQuery{Query: query(f, lf.stuckAt, out.needsFacts), For: lf.watch}
		q.Peers = out.needsPeers || strings.Contains(lf.Where, "peer")
		l, err := b.List(ctx, q)
		if err != nil {
			return err
		}
		if err := f.Err(); err != nil {
			return err
		}
		if l.Cases.Len() == 0 && (o.Format == report.Table || o.Format == report.Wide) {
			fmt.Fprintln(a.stderr, nothingFound(&lf.filterFlags))
		}
		err = out.write(a.stdout, l)
		if err == nil && (o.Format != report.JSON || o.Format.Profile()) {
			a.reservations(l.Loss, l.UnreadNetns)
		}
		return err
	})
}

// listWriter writes sockets, groups of them, or a profile.
type listWriter struct {
	write                  func(io.Writer, *pipeline.Listing) error
	needsFacts, needsPeers bool
}

func newListWriter(o report.Options, by string) (listWriter, error) {
	switch {
	case o.Format.Profile():
		out, err := report.NewProfile(o)
		return listWriter{write: func(w io.Writer, l *pipeline.Listing) error {
			return out.Write(w, diagnosis.All(l.Cases), &l.Facts, 0)
		}}, err
	case by == byStack:
		out, err := report.NewGroups(o)
		return listWriter{write: func(w io.Writer, l *pipeline.Listing) error {
			r := record.NewGroups(diagnosis.Collect(l.Cases, func(*diagnosis.Case) bool { return true }), o.Threshold, &l.Facts, l.Loss, l.UnreadNetns)
			return out.Write(w, &r)
		}}, err
	default:
		out, err := report.NewList(o)
		if err != nil {
			return listWriter{}, err
		}
		return listWriter{needsFacts: out.NeedsFacts(), needsPeers: out.NeedsPeers(), write: func(w io.Writer, l *pipeline.Listing) error {
			return out.Write(w, &report.Sockets{Facts: &l.Facts, Cases: l.Cases, Loss: l.Loss, UnreadNetns: l.UnreadNetns})
		}}, nil
	}
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
