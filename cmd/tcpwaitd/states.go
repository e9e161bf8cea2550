package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/report"
)

func statesCommand(a *app) *cobra.Command {
	var (
		ff filterFlags
		by string
	)
	cmd := &cobra.Command{
		Use:   "states",
		Short: "Count the sockets in each state, over all network namespaces",
		Long: `Count the sockets in each TCP state, over all network namespaces. Every state is
shown, zeros included, except for two rare ones in the table. --by splits the count by
process, container or namespace; its table leaves out states without sockets and adds
those that do not fit up as OTHER. -o wide shows every state.

Unlike the summary of ss, CLOSE_WAIT is not counted as established.`,
		Example: `  tcpwaitd states
  tcpwaitd states --by pid --sort -states.CLOSE_WAIT
  tcpwaitd states -o json | jq .states.CLOSE_WAIT`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return a.states(&ff, by) },
	}
	ff.bind(cmd, "all")
	cmd.Flags().StringVar(&by, "by", "", "pid, container or netns")
	complete(cmd, "by", groupings())
	return cmd
}

func groupings() []string {
	return []string{string(pipeline.ByPid), string(pipeline.ByContainer), string(pipeline.ByNetns)}
}

func (a *app) states(ff *filterFlags, by string) error {
	if by != "" && !slices.Contains(groupings(), by) {
		return usagef("invalid value %q for --by: want one of %s", by, strings.Join(groupings(), ", "))
	}
	o, err := a.report(0)
	if err != nil {
		return err
	}
	f, err := ff.parse(a, filter.Sockets)
	if err != nil {
		return err
	}
	out, err := report.NewStates(o, by)
	if err != nil {
		return err
	}
	return a.withBackend(func(ctx context.Context, b backend) error {
		c, err := b.States(ctx, pipeline.StatesQuery{Query: query(f, 0, by != ""), By: pipeline.StatesBy(by)})
		if err != nil {
			return err
		}
		if err := f.Err(); err != nil {
			return err
		}
		r := record.NewStates(record.Time{Time: c.Clock.Wall}, c.All, c.Groups, c.UnreadNetns)
		if o.Format != report.JSON && o.Format != report.JSONL {
			a.reservations(event.Loss{}, c.UnreadNetns)
		}
		return out.Write(a.stdout, &r)
	})
}
