package ports

import (
	"cmp"
	"slices"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Closer is a process and what it did to connections.
type Closer struct {
	// Task is who closed. Where its socket was somebody else's, only the pid is known; without
	// a pid the kernel closed by itself, on behalf of nobody it names.
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

// Failure is a process whose connect() found no port left.
type Failure struct {
	Task   event.Task
	Cgroup uint64
	Destination
	N int
}

const (
	// maxDestinations bounds the destinations of one closer.
	maxDestinations = 1024
	// maxSites bounds the sites of one closer: further ones count without a place.
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

// Add takes one transition. It returns the closer that is new by it, nil if there is none: the
// time to look what process that is, before it ends. Subflows of MPTCP sockets are left out,
// these have transitions of their own.
func (t *Tally) Add(tr *event.Transition) (found *Closer) {
	if tr.Subflow {
		return nil
	}
	switch {
	case tr.New == event.FinWait1:
		c, fresh := t.closer(tr)
		c.first(tr, 1)
		return fresh
	case tr.Old == event.FinWait1 && tr.New == event.Closing && tr.Closer != 0:
		// Who that is, is known from before; if not, it was not counted either.
		if c := t.closers[tr.Closer]; c != nil && c.ClosedFirst > 0 {
			c.first(tr, -1)
			c.Simultaneous++
		}
	case IsFailure(tr):
		t.fail(tr)
	case tr.New == event.Close && tr.Closer != 0 && (tr.Old == event.Established || tr.Old == event.CloseWait):
		c, fresh := t.closer(tr)
		c.Resets++
		return fresh
	}
	return nil
}

// IsFailure reports whether the transition tells of a connect() that found no port: it set the
// state, got no port, and took it back. With a port, or an error of the socket, connect()
// failed for another reason, or somebody gave up.
func IsFailure(tr *event.Transition) bool {
	return tr.Old == event.SynSent && tr.New == event.Close && tr.Flow.Local.Port() == 0 && tr.Flow.Protocol == event.TCP
}

func (t *Tally) closer(tr *event.Transition) (c, fresh *Closer) {
	if t.closers == nil {
		t.closers = map[uint32]*Closer{}
	}
	c = t.closers[tr.Closer]
	known := tr.Closer != 0 && tr.Owner.Pid == tr.Closer
	if c != nil && known && c.Task.Start != 0 && c.Task.Start != tr.Owner.Start {
		// The pid is another process by now.
		t.gone = append(t.gone, c)
		c = nil
	}
	if c == nil {
		c = &Closer{
			Task: event.Task{Pid: tr.Closer}, Cgroup: tr.Cgroup,
			Sites: map[Site]int{}, Destinations: map[Destination]int{},
		}
		t.closers[tr.Closer] = c
		fresh = c
	}
	if known {
		// The last name is the right one: a child closes under its parent's until exec.
		c.Task = tr.Owner
	}
	return c, fresh
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
	if _, seen := c.Sites[site]; !seen && len(c.Sites) >= maxSites {
		site = Site{}
	}
	addTo(c.Sites, site, n)
	d := DestinationOf(&tr.Flow)
	if _, seen := c.Destinations[d]; tr.Direction == event.Out && (seen || len(c.Destinations) < maxDestinations) {
		addTo(c.Destinations, d, n)
	}
}

func addTo[K comparable](counts map[K]int, key K, n int) {
	if counts[key] += n; counts[key] <= 0 {
		delete(counts, key)
	}
}

func (t *Tally) fail(tr *event.Transition) {
	if t.failures == nil {
		t.failures = map[failed]*Failure{}
	}
	key := failed{tr.Owner.Pid, tr.Owner.Start, DestinationOf(&tr.Flow)}
	f := t.failures[key]
	if f == nil {
		f = &Failure{Task: tr.Owner, Cgroup: tr.Cgroup, Destination: key.to}
		t.failures[key] = f
	}
	f.N++
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
