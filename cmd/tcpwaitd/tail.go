package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
	"github.com/tcpwaitd/tcpwaitd/internal/report"
)

func tailCommand(a *app) *cobra.Command {
	var (
		ff      filterFlags
		stacks  stackFlags
		stuckAt time.Duration
	)
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print every TCP state transition as it happens",
		Long: `Print every TCP state transition of the host, one line each, as it happens.

The process shown is the one that accepted, connected or uses the socket, never
the one that happened to run. IN-STATE is the time spent in the old state; a +
marks a lower bound, for sockets that are older than this command. A --state
chooses transitions into and out of it. Ctrl-C ends with a summary.

TIME_WAIT is told once for each connection that gets there: when it begins, or, where the
kernel refuses the hooks for that, inferred when the socket ends ("inferred").

With --stacks on the place in the code is shown below: where a connection was opened
or first used, where EOF was read, and the close() that ended a stuck wait; with
--stacks all every close(). -v shows whole stacks.`,
		Example: `  tcpwaitd tail --state close-wait
  tcpwaitd tail --stacks all -p 1234 -v
  tcpwaitd tail -L 8080 -o json | jq -r '[.time, .owner.comm, .new_state] | @tsv'
  tcpwaitd tail --where 'old_state == "CLOSE_WAIT" && in_state_ns > 60e9'`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			a.stacks = stacks
			return a.tail(&ff, stuckAt)
		},
	}
	ff.bind(cmd, "all")
	a.hookFlags(cmd)
	stacks.bind(cmd, pipeline.StacksOff)
	thresholdFlag(cmd, &stuckAt)
	return cmd
}

func (a *app) tail(ff *filterFlags, threshold time.Duration) error {
	if err := errors.Join(notNegative("threshold", threshold), a.stacks.check()); err != nil {
		return err
	}
	o, err := a.report(threshold)
	if err != nil {
		return err
	}
	f, err := ff.parse(a, filter.Transitions)
	if err != nil {
		return err
	}
	out, err := report.NewTail(a.stdout, o)
	if err != nil {
		return err
	}
	return a.withBackend(func(ctx context.Context, b backend) error {
		start := a.now()
		if err := b.Tail(ctx, query(f, threshold, o.Format != report.Table), &checkedTail{out, f}); err != nil {
			return err
		}
		if err := out.Flush(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			a.tailSummary(out, a.now().Sub(start))
		}
		return nil
	})
}

// checkedTail ends the stream when the filter cannot be evaluated.
type checkedTail struct {
	*report.Tail
	filter *filter.Filter
}

// Flush comes after each batch of transitions.
func (t *checkedTail) Flush() error {
	return errors.Join(t.Tail.Flush(), t.filter.Err())
}

func (a *app) tailSummary(out *report.Tail, took time.Duration) {
	fmt.Fprintf(a.stderr, "%d transitions in %v\n", out.Count(), took.Round(time.Millisecond))
	if l := out.Lost(); l.Any() {
		fmt.Fprintln(a.stderr, report.LossText(l))
	}
}
