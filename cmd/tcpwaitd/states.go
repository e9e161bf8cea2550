package main

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/report"
)

// statesFlags are the flags of states.
type statesFlags struct {
	filterFlags
	by    string
	dwell bool
	watch time.Duration
}

func statesCommand(a *app) *cobra.Command {
	var sf statesFlags
	cmd := &cobra.Command{
		Use:   "states",
		Short: "Count the sockets in each state, over all network namespaces",
		Long: `Count the sockets in each TCP state, over all network namespaces, as the kernel's own
tables have them: SYN_RECV are requests for connections, an MPTCP connection counts by
its TCP subflows. CLOSE are closed sockets and BOUND_INACTIVE bound ones (which neither
listen nor have a peer) that a program has open; no table lists these. Every state is
shown, zeros included.

--by splits the count by process, container or network namespace; its table leaves out
states without sockets and adds those that do not fit up as OTHER. -o wide shows every
state. The line with - has the sockets of nobody known: the kernel's own (TIME_WAIT,
requests for connections, what a program has closed) and those that several processes
hold.

Below stands how many of the connections that ss -s calls established (estab) are in
CLOSE_WAIT, if the choice leaves out nothing but network namespaces.

--dwell says instead how long sockets stand in the states that they pass through or must
not stay in: the oldest one (a + marks a lower bound), when the kernel ends it by itself
(by the settings of its network namespace), how many have stood longer for certain, and
what it means. It watches --for so long first, and tells how long those that left
meanwhile had been there. Of a socket in FIN_WAIT2 that its program closed, that is the
time until a mini-socket took over, which stays unseen.`,
		Example: `  tcpwaitd states
  tcpwaitd states --by pid --sort -states.CLOSE_WAIT
  tcpwaitd states --by container
  tcpwaitd states --dwell --for 1m
  tcpwaitd states -o json | jq .states.CLOSE_WAIT`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("for") && !sf.dwell {
				return usagef("--for needs --dwell: a count takes one look")
			}
			return a.states(&sf)
		},
	}
	sf.bind(cmd, "all")
	cmd.Flags().StringVar(&sf.by, "by", "", "pid, container or netns")
	cmd.Flags().BoolVar(&sf.dwell, "dwell", false, "how long sockets stand in each state, and when the kernel ends it")
	cmd.Flags().DurationVar(&sf.watch, "for", 10*time.Second, "with --dwell: how long to watch; 0 looks at once")
	complete(cmd, "by", groupings())
	return cmd
}

// check refuses what makes no sense.
func (sf *statesFlags) check() error {
	switch {
	case sf.by != "" && !slices.Contains(groupings(), sf.by):
		return usagef("invalid value %q for --by: want one of %s", sf.by, strings.Join(groupings(), ", "))
	case sf.by != "" && sf.dwell:
		return usagef("--by and --dwell exclude each other: choose with a filter such as -p or --container")
	default:
		return notNegative("for", sf.watch)
	}
}

// whole reports whether nothing is left out but network namespaces.
func (sf *statesFlags) whole() bool {
	o := sf.Options
	o.Netns = nil
	return !(&filterFlags{o}).narrow()
}

// byFlow reports whether transitions can be chosen as sockets are.
func (sf *statesFlags) byFlow() bool {
	o := sf.Options
	o.Netns, o.States = nil, []string{"all"}
	o.Lports, o.Rports, o.Laddrs, o.Raddrs, o.IPv4, o.IPv6 = nil, nil, nil, nil, false, false
	return !(&filterFlags{o}).narrow()
}

func groupings() []string {
	return []string{string(pipeline.ByPid), string(pipeline.ByContainer), string(pipeline.ByNetns)}
}

// statesWriter writes counts, or how long sockets stand in their states.
type statesWriter interface {
	Write(w io.Writer, r *record.States) error
}

func newStatesWriter(o report.Options, sf *statesFlags) (statesWriter, error) {
	if sf.dwell {
		return report.NewDwell(o)
	}
	return report.NewStates(o, sf.by)
}

func (a *app) states(sf *statesFlags) error {
	if err := sf.check(); err != nil {
		return err
	}
	o, err := a.report(0)
	if err != nil {
		return err
	}
	f, err := sf.parse(a, filter.Sockets)
	if err != nil {
		return err
	}
	out, err := newStatesWriter(o, sf)
	if err != nil {
		return err
	}
	return a.withBackend(func(ctx context.Context, b backend) error {
		c, err := b.States(ctx, pipeline.StatesQuery{
			Query: query(f, 0, sf.by != ""), By: pipeline.StatesBy(sf.by),
			Whole: sf.whole(), ByFlow: sf.byFlow(), Dwell: sf.dwell, For: sf.watch,
		})
		if err != nil {
			return err
		}
		if err := f.Err(); err != nil {
			return err
		}
		r := statesRecord(c, sf)
		if o.Format != report.JSON && o.Format != report.JSONL {
			a.reservations(c.Loss, c.UnreadNetns)
		}
		return out.Write(a.stdout, &r)
	})
}

func statesRecord(c *pipeline.StateCounts, sf *statesFlags) record.States {
	r := record.NewStates(record.Time{Time: c.Clock.Wall}, c.All, c.Groups, c.UnreadNetns)
	r.Established = c.Established
	if !sf.dwell {
		return r
	}
	r.Dwell, r.Left = c.Dwell, c.Left
	r.ObservedNS, r.Loss = new(int64(c.Observed)), new(record.LossOf(c.Loss))
	return r
}
