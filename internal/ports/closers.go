package ports

import (
	"cmp"
	"slices"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Closer is a process and what it did to connections.
type Closer struct {
	// Task is who closed. Without a pid it is not known: the kernel closed by itself.
	Task   event.Task
	Cgroup uint64
	// ClosedFirst are connections of which it closed its end before it had the peer's FIN,
	// except those that both ends closed at the same time: these are Simultaneous. Exiting
	// are those of ClosedFirst and Simultaneous that the kernel closed because the process
	// ended.
	ClosedFirst, Simultaneous, Exiting int
	// Resets are connections it has cut off by a reset: no TIME_WAIT follows.
	Resets int
	// Sites are where in the code it closed first.
	Sites map[Site]int
	// Destinations are where those went that it had opened itself.
	Destinations map[Destination]int
}

// Site is a place in the code and the kind of connections that are closed there.
type Site struct {
	Stack     event.StackID
	Direction event.Direction
	// Port is the local port of accepted connections, the remote one of connected ones, 0 where
	// the direction is not known.
	Port uint16
}

// Failure is a process whose connect() failed with EADDRNOTAVAIL.
type Failure struct {
	Task   event.Task
	Cgroup uint64
	Destination
	// N is how often; Bound of these found the port in use that bind() had chosen before, the
	// others no port at all.
	N, Bound int
}

const (
	// maxDestinations bounds the destinations of one closer.
	maxDestinations = 1024
	// maxSites bounds the sites of one closer: further ones, as many again, count without a place,
	// and the others together.
	maxSites = 1024
)

// Tally counts who closes first, from transitions. The zero Tally is empty.
type Tally struct {
	closers  map[uint32]*Closer
	gone     []*Closer
	failures map[failed]*Failure
}

type failed struct {
	pid   uint32
	start event.BootTime
	to    Destination
}

// Add takes one transition. who is the process behind it: the closer, or who called connect().
// Subflows of MPTCP sockets are left out, these have transitions of their own.
func (t *Tally) Add(tr *event.Transition, who event.Task) {
	if tr.Subflow {
		return
	}
	switch {
	case tr.New == event.FinWait1:
		t.closer(tr, who).first(tr, 1)
	case tr.Old == event.FinWait1 && tr.New == event.Closing && tr.Closer != 0:
		// Who that is, is known from before; if not, it was not counted either.
		if c := t.closers[who.Pid]; c != nil && c.ClosedFirst > 0 {
			c.first(tr, -1)
			c.Simultaneous++
		}
	case IsFailure(tr):
		t.fail(tr, who)
	case tr.New == event.Close && tr.Closer != 0 && (tr.Old == event.Established || tr.Old == event.CloseWait):
		t.closer(tr, who).Resets++
	}
}

// IsFailure reports whether the transition tells of a connect() that failed with EADDRNOTAVAIL.
func IsFailure(tr *event.Transition) bool {
	return tr.NoPort && tr.Flow.Protocol == event.TCP
}

func (t *Tally) closer(tr *event.Transition, who event.Task) *Closer {
	if t.closers == nil {
		t.closers = map[uint32]*Closer{}
	}
	c := t.closers[who.Pid]
	if c != nil && !sameStart(c.Task.Start, who.Start) {
		// The pid is another process by now.
		t.gone = append(t.gone, c)
		c = nil
	}
	if c == nil {
		c = &Closer{Cgroup: tr.Cgroup, Sites: map[Site]int{}, Destinations: map[Destination]int{}}
		t.closers[who.Pid] = c
	}
	// The last name is the right one: a child has its parent's until it calls exec.
	c.Task = who
	return c
}

// sameStart allows for one that is known to a tick only, or not at all.
func sameStart(a, b event.BootTime) bool {
	return a == 0 || b == 0 || a == b || a.Ticks()-b.Ticks()+1 <= 2
}

// first counts a close, or takes one back.
func (c *Closer) first(tr *event.Transition, n int) {
	c.ClosedFirst += n
	if n > 0 && tr.Exiting {
		c.Exiting++
	}
	site := Site{Stack: tr.Stacks[event.StackClose], Direction: tr.Direction}
	switch tr.Direction {
	case event.In:
		site.Port = tr.Flow.Local.Port()
	case event.Out:
		site.Port = tr.Flow.Remote.Port()
	default:
	}
	addTo(c.Sites, c.bounded(site), n)
	d := DestinationOf(&tr.Flow)
	if _, seen := c.Destinations[d]; tr.Direction == event.Out && (seen || len(c.Destinations) < maxDestinations) {
		addTo(c.Destinations, d, n)
	}
}

// bounded leaves the place out, and then the rest, where there are too many sites: until its
// unwind tables are read, a program has as many stacks as closes.
func (c *Closer) bounded(s Site) Site {
	for i := range 2 {
		if _, seen := c.Sites[s]; seen || len(c.Sites) < (i+1)*maxSites {
			return s
		}
		s.Stack = 0
	}
	return Site{}
}

func addTo[K comparable](counts map[K]int, key K, n int) {
	if counts[key] += n; counts[key] <= 0 {
		delete(counts, key)
	}
}

func (t *Tally) fail(tr *event.Transition, who event.Task) {
	if t.failures == nil {
		t.failures = map[failed]*Failure{}
	}
	key := failed{who.Pid, who.Start, DestinationOf(&tr.Flow)}
	f := t.failures[key]
	if f == nil {
		f = &Failure{Task: who, Cgroup: tr.Cgroup, Destination: key.to}
		t.failures[key] = f
	}
	f.N++
	if tr.Flow.Local.Port() != 0 {
		f.Bound++
	}
}

// Closers are those that closed first or reset anything, the busiest first.
func (t *Tally) Closers() []*Closer {
	all := slices.Clone(t.gone)
	for _, c := range t.closers {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *Closer) int {
		return cmp.Or(
			cmp.Compare(b.ClosedFirst+b.Simultaneous, a.ClosedFirst+a.Simultaneous), cmp.Compare(b.Resets, a.Resets),
			cmp.Compare(a.Task.Pid, b.Task.Pid), cmp.Compare(a.Task.Start, b.Task.Start),
		)
	})
	return all
}

// Failures are the connects that found no port, the most first.
func (t *Tally) Failures() []Failure {
	all := make([]Failure, 0, len(t.failures))
	for _, f := range t.failures {
		all = append(all, *f)
	}
	slices.SortFunc(all, func(a, b Failure) int {
		return cmp.Or(
			cmp.Compare(b.N, a.N), cmp.Compare(a.Task.Pid, b.Task.Pid), cmp.Compare(a.Task.Start, b.Task.Start),
			a.Raddr.Compare(b.Raddr), cmp.Compare(a.Rport, b.Rport), a.Laddr.Compare(b.Laddr), cmp.Compare(a.Netns, b.Netns),
		)
	})
	return all
}
