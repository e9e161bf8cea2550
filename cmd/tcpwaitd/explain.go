package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
	"github.com/tcpwaitd/tcpwaitd/internal/report"
)

// explainFlags are the flags of explain.
type explainFlags struct {
	stacks         stackFlags
	watch, stuckAt time.Duration
}

func explainCommand(a *app) *cobra.Command {
	var ef explainFlags
	cmd := &cobra.Command{
		Use:   "explain PID|COOKIE",
		Short: "Tell all that is known of one process or one socket",
		Long: `Tell all that is known of one process or one socket: what happened when, who holds it,
where in the code, why it is not closed, what would end it, and what to do. The other end
of a connection is shown if it is on this host, in whatever network namespace, together
with how it is known to be that. What nobody saw is said to be unknown.

The number is a process if there is one, otherwise the cookie of a socket, as list -o
wide shows it; pid:1234 and cookie:1234 say which. A process is judged as diagnose does,
its sockets in CLOSE_WAIT and the places where its threads stand now are listed.

--for watches first, so that the stacks of what happens meanwhile are known.`,
		Example: `  tcpwaitd explain 1234
  tcpwaitd explain --for 30s pid:1234
  tcpwaitd explain cookie:5678 -o json`,
		Args: oneTarget,
		RunE: func(_ *cobra.Command, args []string) error {
			a.stacks = ef.stacks
			return a.explain(&ef, args[0])
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	a.hookFlags(cmd)
	ef.stacks.bind(cmd, pipeline.StacksOn)
	thresholdFlag(cmd, &ef.stuckAt)
	cmd.Flags().DurationVar(&ef.watch, "for", 0, "how long to watch first; 0 explains the present")
	return cmd
}

const wantTarget = "want a pid such as 1234, or the cookie of a socket such as cookie:5678"

func oneTarget(_ *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return usagef("nothing to explain: %s", wantTarget)
	case 1:
		return nil
	default:
		return usagef("unexpected argument %q: explain takes one; diagnose takes several pids", args[1])
	}
}

// parseTarget reads 1234, pid:1234 and cookie:1234; without a word it can be both.
func parseTarget(text string) (q pipeline.ExplainQuery, err error) {
	kind, number, found := strings.Cut(text, ":")
	if !found {
		kind, number = "", text
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || n == 0 || !slices.Contains([]string{"", "pid", "cookie"}, kind) {
		return q, usagef("invalid argument %q: %s", text, wantTarget)
	}
	// The kernel's largest pid is 2^22.
	const maxPid = 1 << 22
	if kind == "pid" && n > maxPid {
		return q, usagef("invalid argument %q: no pid is larger than %d", text, maxPid)
	}
	if kind != "cookie" && n <= maxPid {
		q.Pid = uint32(n)
	}
	if kind != "pid" {
		q.Cookie = event.Cookie(n)
	}
	return q, nil
}

// withoutWatching is told who asks for stacks and does not watch.
const withoutWatching = "stacks of sockets are known only of what happens while watching: add --for 30s"

func (a *app) explain(ef *explainFlags, target string) error {
	for flag, d := range map[string]time.Duration{"for": ef.watch, "threshold": ef.stuckAt} {
		if err := notNegative(flag, d); err != nil {
			return err
		}
	}
	if err := ef.stacks.check(); err != nil {
		return err
	}
	q, err := parseTarget(target)
	if err != nil {
		return err
	}
	q.For, q.Threshold = ef.watch, ef.stuckAt
	o, err := a.report(ef.stuckAt, report.ProfileFormats()...)
	if err != nil {
		return err
	}
	write, err := explainWriter(o)
	if err != nil {
		return err
	}
	return a.withBackend(func(ctx context.Context, b backend) error {
		x, err := b.Explain(ctx, q)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			fmt.Fprintf(a.stderr, "interrupted: watched for %v of %v\n", x.Observed.Round(time.Millisecond), ef.watch)
		}
		if o.Format != report.JSON && o.Format != report.JSONL {
			for _, note := range x.Notes {
				fmt.Fprintln(a.stderr, note)
			}
			if ef.watch == 0 && o.Format != report.CSV {
				fmt.Fprintln(a.stderr, withoutWatching)
			}
		}
		return write(a.stdout, x)
	})
}

func explainWriter(o report.Options) (func(io.Writer, *pipeline.Explained) error, error) {
	if o.Format.Profile() {
		out, err := report.NewProfile(o)
		return func(w io.Writer, x *pipeline.Explained) error {
			return out.Write(w, explainedCases(x), &x.Facts, x.Observed)
		}, err
	}
	out, err := report.NewExplain(o)
	return func(w io.Writer, x *pipeline.Explained) error {
		return out.Write(w, &report.Explanation{
			Process: &x.Process, Socket: x.Socket, Cases: x.Cases, States: x.States, Facts: &x.Facts, Access: x.Access,
			Observed: x.Observed, Loss: x.Loss, UnreadNetns: x.UnreadNetns, Notes: x.Notes,
		})
	}, err
}

func explainedCases(x *pipeline.Explained) iter.Seq[*diagnosis.Case] {
	if x.Socket != nil {
		return slices.Values([]*diagnosis.Case{x.Socket})
	}
	return slices.Values(x.Cases)
}
