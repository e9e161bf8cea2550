package main

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
)

// filterFlags are the flags that choose sockets; most commands have them.
type filterFlags struct{ filter.Options }

// bind adds the flags. states is the default of --state.
func (ff *filterFlags) bind(cmd *cobra.Command, states string) {
	f := cmd.Flags()
	f.StringSliceVarP(&ff.Pids, "pid", "p", nil, "processes that own or hold the socket")
	f.StringArrayVar(&ff.Comms, "comm", nil, "process name, exact or a glob such as 'nginx*'; repeatable")
	f.StringSliceVarP(&ff.Lports, "lport", "L", nil, "local ports and ranges (80,8000-8100)")
	f.StringSliceVarP(&ff.Rports, "rport", "D", nil, "remote ports and ranges")
	f.StringSliceVar(&ff.Laddrs, "laddr", nil, "local address or network (10.0.0.0/8)")
	f.StringSliceVar(&ff.Raddrs, "raddr", nil, "remote address or network")
	f.BoolVarP(&ff.IPv4, "ipv4", "4", false, "IPv4 only, as on the wire")
	f.BoolVarP(&ff.IPv6, "ipv6", "6", false, "IPv6 only")
	f.StringSliceVar(&ff.States, "state", strings.Split(states, ","), "TCP states (close-wait,last-ack), or all")
	f.StringSliceVar(&ff.Netns, "netns", nil, "network namespace: inode number, name or path")
	f.StringSliceVar(&ff.Containers, "container", nil, "container: beginning of the id, or name, or a glob such as 'web*'")
	f.StringSliceVar(&ff.Cgroups, "cgroup", nil, "control group and all below it (/system.slice)")
	f.StringVar(&ff.Direction, "direction", "", "in (accepted) or out (connected)")
	f.DurationVar(&ff.MinDwell, "min-dwell", 0, "at least this long in the state")
	f.StringVar(&ff.Where, "where", "", "an expression over the record's fields")
	complete(cmd, "state", append(filter.StateNames(), "all"))
	complete(cmd, "direction", []string{"in", "out"})
}

// parse makes the filter.
func (ff *filterFlags) parse(a *app, target filter.Target) (*filter.Filter, error) {
	ff.NetnsInode = a.netnsInode
	f, err := filter.New(&ff.Options, target)
	if err != nil {
		return nil, err
	}
	// A mistyped pid must not pass for a clean process.
	for _, pid := range f.Pids() {
		if a.pidExists != nil && !a.pidExists(strconv.FormatUint(uint64(pid), 10)) {
			return nil, usagef("no process %d", pid)
		}
	}
	return f, nil
}

// narrow reports whether any flag but --state chooses among the sockets, or --state does.
func (ff *filterFlags) narrow() bool {
	o := ff.Options
	states := o.States
	o.States, o.NetnsInode = nil, nil
	return !reflect.ValueOf(o).IsZero() || !slices.Equal(states, []string{"all"})
}

// noEmptyValues refuses a flag that was given nothing: an unset variable in a script
// (-p "$PID") must not widen the choice to everything.
func noEmptyValues(cmd *cobra.Command) error {
	var err error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		empty := f.Value.Type() == "string" && f.Value.String() == ""
		if list, ok := f.Value.(pflag.SliceValue); ok {
			empty = len(list.GetSlice()) == 0 || slices.Contains(list.GetSlice(), "")
		}
		if empty && err == nil {
			err = usagef("empty value for --%s: %s", f.Name, f.Usage)
		}
	})
	return err
}

const defaultThreshold = 60 * time.Second

func thresholdFlag(cmd *cobra.Command, d *time.Duration) {
	cmd.Flags().DurationVar(d, "threshold", defaultThreshold, "age from which a wait counts as stuck")
}

// hookFlags are for commands that watch: what they may hook besides the default.
func (a *app) hookFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.syscallAccept, "syscall-accept", false,
		"where accept() cannot be hooked otherwise, hook the exit of system calls: slows all of them a little")
}

func notNegative(flag string, d time.Duration) error {
	if d < 0 {
		return usagef("invalid value %q for --%s: want a duration such as 30s", d, flag)
	}
	return nil
}

// query puts a query together.
func query(f *filter.Filter, threshold time.Duration, facts bool) pipeline.Query {
	return pipeline.Query{Filter: f, Threshold: threshold, Facts: facts}
}
