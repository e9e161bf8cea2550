package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/report"
)

func timewaitCommand(a *app) *cobra.Command {
	var (
		ff     filterFlags
		stacks stackFlags
		watch  time.Duration
	)
	cmd := &cobra.Command{
		Use:   "timewait",
		Short: "Say who closes first, and how many local ports are left to each destination",
		Long: `Watch for a while, then say which processes close connections first, how fast and where
in the code; how much of the ephemeral port range is used for each destination and when it
runs out; which connect() failed for want of a port (EADDRNOTAVAIL); and what would help.

TIME_WAIT is the state of the end that closed first: it holds no descriptor, but a local
port to its destination for 60 s. A budget counts the ports of the range that have a
socket of ours there, in whatever state (in use), and those that the next connect()
cannot have (unavailable): without the ones it may take over, with the ones that others
have bound. Where sockets are bound before they connect, a budget of their local address
for all destinations is shown, too. Ports chosen with the
socket option IP_LOCAL_PORT_RANGE are counted by the range of the namespace.

--for 0 tells the present: the budgets, but not who closes. TIME_WAIT belongs to no
process any more, so -p and the like choose closers, failures and the budgets of
destinations these have to do with; the totals are of all. Ctrl-C ends the watching.`,
		Example: `  tcpwaitd timewait
  tcpwaitd timewait --for 1m -v
  tcpwaitd timewait --for 0 -o json | jq '.budgets[] | select(.ratio > 0.5)'
  tcpwaitd timewait --fields laddr,raddr,rport,in_use,range --sort -in_use`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("state") {
				return usagef("--state has nothing to choose here: timewait is about all states that use a port")
			}
			a.stacks = stacks
			return a.timewait(&ff, watch)
		},
	}
	ff.bind(cmd, "all")
	a.hookFlags(cmd)
	stacks.bind(cmd, pipeline.StacksAll)
	cmd.Flags().DurationVar(&watch, "for", 10*time.Second, "how long to watch; 0 tells the present")
	return cmd
}

func (a *app) timewait(ff *filterFlags, watch time.Duration) error {
	if err := errors.Join(notNegative("for", watch), a.stacks.check()); err != nil {
		return err
	}
	o, err := a.report(0)
	if err != nil {
		return err
	}
	f, err := ff.parse(a, filter.Transitions)
	if err != nil {
		return err
	}
	out, err := report.NewTimewait(o)
	if err != nil {
		return err
	}
	return a.withBackend(func(ctx context.Context, b backend) error {
		q := pipeline.TimewaitQuery{Query: query(f, 0, true), For: watch, Processes: ff.byProcess()}
		if watch > 0 && a.isTerminal() {
			fmt.Fprintf(a.stderr, "watching for %v (Ctrl-C tells what was seen so far)\n", watch)
		}
		r, err := b.Timewait(ctx, q)
		if err != nil {
			return err
		}
		if err := f.Err(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			fmt.Fprintf(a.stderr, "interrupted: watched for %v of %v\n", time.Duration(r.ObservedNS).Round(time.Millisecond), watch)
		}
		if o.Format == report.CSV || len(o.Fields) > 0 && (o.Format == report.Table || o.Format == report.Wide) {
			a.timewaitReservations(r)
		}
		return out.Write(a.stdout, r)
	})
}

// timewaitReservations: rows have no place for them.
func (a *app) timewaitReservations(r *record.Timewait) {
	if l := r.Loss; l.Any() {
		fmt.Fprintln(a.stderr, report.LossText(event.Loss{Lost: l.Lost, Dropped: l.Dropped, Evicted: l.Evicted, Missed: l.Missed}))
	}
	for _, ns := range r.UnreadNetns {
		fmt.Fprintf(a.stderr, "network namespace %d could not be read: %s\n", ns.Netns, ns.Reason)
	}
}

// byProcess reports whether a flag chooses by process.
func (ff *filterFlags) byProcess() bool {
	return len(ff.Pids)+len(ff.Comms)+len(ff.Containers)+len(ff.Cgroups) > 0 || ff.Where != ""
}
