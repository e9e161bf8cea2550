package pipeline

import (
	"cmp"
	"context"
	"slices"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// States counts sockets by state, as the kernel's own tables have them: a request socket
// is SYN_RECV, an MPTCP connection counts by its TCP subflows. CLOSE are closed sockets
// a descriptor still refers to; no table lists these.
func (e *Engine) States(ctx context.Context, q StatesQuery) (*StateCounts, error) {
	t, err := e.open(tracer.Config{Filter: q.Filter.Kernel()})
	if err != nil {
		return nil, err
	}
	defer t.Close()
	snap, err := e.snapshot(ctx, t, tracer.SnapshotOptions{States: tabled(q.Filter.States()), Holders: true})
	if err != nil {
		return nil, err
	}
	counts := counter{by: q.By, groups: map[record.StatesGroup]*record.StateCounts{}}
	cases, facts := e.countable(snap, &q.Query)
	for i := range cases {
		counts.add(&cases[i], &facts)
	}
	return &StateCounts{
		Clock: facts.Clock, All: counts.all, Groups: counts.sorted(), UnreadNetns: snap.UnreadNetns,
	}, nil
}

// tabled: who asks for SYN_RECV means the request sockets too.
func tabled(states event.StateSet) event.StateSet {
	if states.Has(event.SynRecv) {
		states |= event.SetOf(event.NewSynRecv)
	}
	return states
}

func (e *Engine) countable(snap *event.Snapshot, q *Query) ([]diagnosis.Case, record.Facts) {
	for i := range snap.Sockets {
		if s := &snap.Sockets[i]; s.State == event.NewSynRecv {
			s.State = event.SynRecv
		}
	}
	snap.Sockets = slices.DeleteFunc(snap.Sockets, func(s event.Socket) bool {
		return s.Flow.Protocol == event.MPTCP
	})
	return e.casesWith(snap, q, tracer.ReadClock(e.cfg.Now), false, func(*event.Socket) bool { return true })
}

type counter struct {
	by     StatesBy
	all    record.StateCounts
	groups map[record.StatesGroup]*record.StateCounts
}

func (c *counter) add(s *diagnosis.Case, f *record.Facts) {
	c.all[s.State]++
	if c.by == ByNothing {
		return
	}
	key := c.key(s, f)
	if c.groups[key] == nil {
		c.groups[key] = &record.StateCounts{}
	}
	c.groups[key][s.State]++
}

// key is the group without counts. Nobody's sockets (TIME_WAIT, orphans) have an empty one.
func (c *counter) key(s *diagnosis.Case, f *record.Facts) record.StatesGroup {
	switch c.by {
	case ByPid:
		return record.StatesGroup{Pid: s.Blamed.Pid, Comm: record.Escape(s.Blamed.Comm.String())}
	case ByContainer:
		container := f.Cgroups[s.Cgroup].Container
		return record.StatesGroup{Container: record.Escape(cmp.Or(f.Process(s.Blamed.Pid).Container, container))}
	case ByNetns:
		return record.StatesGroup{Netns: s.Flow.Netns}
	default:
		return record.StatesGroup{}
	}
}

// sorted returns the groups, the most sockets first.
func (c *counter) sorted() []record.StatesGroup {
	var all []record.StatesGroup
	for key, counts := range c.groups {
		key.States = *counts
		key.Total = counts.Total()
		all = append(all, key)
	}
	slices.SortFunc(all, func(a, b record.StatesGroup) int {
		return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(a.Pid, b.Pid),
			cmp.Compare(a.Netns, b.Netns), cmp.Compare(a.Container, b.Container))
	})
	return all
}
