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
// is SYN_RECV, an MPTCP connection counts by its TCP subflows. CLOSE are closed sockets and
// BOUND_INACTIVE bound ones that a descriptor refers to; no table lists these.
func (e *Engine) States(ctx context.Context, q StatesQuery) (*StateCounts, error) {
	t, err := e.open(tracer.Config{Filter: q.Filter.Kernel(), Live: q.Dwell && q.For > 0})
	if err != nil {
		return nil, err
	}
	defer t.Close()
	departures := &departures{query: &q}
	from := tracer.Now()
	if q.Dwell && q.For > 0 {
		if err := departures.watch(ctx, t); err != nil {
			return nil, err
		}
		// What was seen is wanted all the more when the user lost patience.
		ctx = context.WithoutCancel(ctx)
	}
	before := e.stateSpaces(&q)
	look, err := e.look(ctx, t, tracer.SnapshotOptions{States: tabled(q.Filter.States()), Holders: true})
	if err != nil {
		return nil, err
	}
	after := e.stateSpaces(&q)
	counts := counter{by: q.By, groups: map[record.StatesGroup]*record.StateCounts{}}
	cases, facts := e.countable(look, &q.Query)
	for i := range cases {
		counts.add(&cases[i], &facts)
	}
	c := &StateCounts{
		Clock: facts.Clock, All: counts.all, Groups: counts.sorted(), UnreadNetns: look.UnreadNetns,
	}
	if q.Whole {
		c.Established = establishedOf(before, after, cases, &facts)
	}
	if !q.Dwell {
		return c, nil
	}
	c.Dwell = dwellOf(cases, q.Filter.States(), after)
	if q.For > 0 {
		c.Observed, c.Left = look.From.Sub(from), departures.record()
	}
	c.Loss, err = t.Loss()
	return c, err
}

// tabled: who asks for SYN_RECV means the request sockets too.
func tabled(states event.StateSet) event.StateSet {
	if states.Has(event.SynRecv) {
		states |= event.SetOf(event.NewSynRecv)
	}
	return states
}

// countable leaves in what the kernel's tables list, and closed sockets. Who asks for
// NEW_SYN_RECV and not for SYN_RECV gets the request sockets alone, under that name.
func (e *Engine) countable(look *tracer.Look, q *Query) ([]diagnosis.Case, record.Facts) {
	states := q.Filter.States()
	asOne := states == 0 || states.Has(event.SynRecv)
	counted := where(look.All(), func(s *event.Socket) bool {
		if asOne && s.State == event.NewSynRecv {
			s.State = event.SynRecv
		}
		// A closed MPTCP connection has no subflows left to count, one that is merely bound is met
		// by itself.
		return s.Flow.Protocol != event.MPTCP || s.State == event.Close || s.State == event.BoundInactive
	})
	return e.cases(&look.Snapshot, counted, q, tracer.ReadClock(e.cfg.Now), false)
}

type counter struct {
	by     StatesBy
	all    record.StateCounts
	groups map[record.StatesGroup]*record.StateCounts
	// comms: the name of a process, whichever of its threads was met.
	comms map[uint32]string
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

// key is the group without counts. Mini-sockets, orphans and sockets that several processes
// hold are nobody's.
func (c *counter) key(s *diagnosis.Case, f *record.Facts) record.StatesGroup {
	switch c.by {
	case ByPid:
		who := belongsTo(s)
		return record.StatesGroup{Pid: who.Pid, Comm: c.comm(&who), Unknown: !who.Known()}
	case ByContainer:
		return containerOf(s, f)
	case ByNetns:
		return record.StatesGroup{Netns: s.Flow.Netns, NetnsName: f.NetnsName(s.Flow.Netns)}
	default:
		return record.StatesGroup{}
	}
}

// belongsTo is the process the socket is laid to, the one that could accept it, or nobody.
func belongsTo(s *diagnosis.Case) event.Task {
	if s.Blamed.Known() {
		for i := range s.Holders {
			// As its holder: an owner is a thread and may have a thread's name.
			if diagnosis.SameProcess(&s.Holders[i].Task, &s.Blamed) {
				return s.Holders[i].Task
			}
		}
		return s.Blamed
	}
	var who event.Task
	if s.Cookie == 0 {
		return who // a request: the listener is known by its address only
	}
	for i := range s.Listeners {
		l := &s.Listeners[i].Task
		if who.Known() && !diagnosis.SameProcess(&who, l) {
			return event.Task{}
		}
		who = *l
	}
	return who
}

func (c *counter) comm(t *event.Task) string {
	if !t.Known() {
		return ""
	}
	if c.comms == nil {
		c.comms = map[uint32]string{}
	}
	comm, ok := c.comms[t.Pid]
	if !ok {
		comm = record.Escape(t.Comm.String())
		c.comms[t.Pid] = comm
	}
	return comm
}

// containerOf: that of the process, else that of the socket's own cgroup. A process in no
// container and a socket of nobody are two different things.
func containerOf(s *diagnosis.Case, f *record.Facts) record.StatesGroup {
	group := f.Cgroups[s.Cgroup]
	p := f.Process(s.Blamed.Pid)
	id, pod := cmp.Or(p.Container, group.Container), cmp.Or(p.Pod, group.Pod)
	names := f.Names(id, pod)
	// An image is no name of one container.
	names.Image = ""
	return record.StatesGroup{
		Container: record.Escape(id), Names: names,
		Unknown: id == "" && !s.Blamed.Known() && group.Path == "",
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
