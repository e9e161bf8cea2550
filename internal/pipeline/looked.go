package pipeline

import (
	"slices"
	"sync"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// looked are the cases of one look, each made when it is asked for: kept, a million of them
// would take a gigabyte.
type looked struct {
	sockets   event.Rows
	snap      *event.Snapshot
	index     *owner.Index
	explainer *diagnosis.Explainer
	// fixed are the slots of io_urings, by inode.
	fixed  map[uint64][]event.Holder
	chosen []chosenRow
	// made is the case that At gave last.
	made diagnosis.Case
}

var _ diagnosis.Cases = (*looked)(nil)

// chosenRow is a socket by its number, its dwell, -1 unknown, and the number of its first
// descriptor: to find that again would take as long as the rest of making its case.
type chosenRow struct {
	dwell  time.Duration
	row    uint32
	holder int32
}

func newLooked(from event.Rows, snap *event.Snapshot, threshold time.Duration) *looked {
	return &looked{
		sockets: from, snap: snap, index: owner.NewSnapshotIndex(snap),
		explainer: diagnosis.NewExplainer(threshold),
	}
}

func (l *looked) Len() int { return len(l.chosen) }

func (l *looked) At(i int) *diagnosis.Case {
	chosen := &l.chosen[i]
	c := l.read(int(chosen.row))
	l.join(c, int(chosen.holder))
	return c
}

// Again implements diagnosis.Cases.
func (l *looked) Again() diagnosis.Cases { return l.again() }

func (l *looked) again() *looked {
	return &looked{
		sockets: l.sockets, snap: l.snap, index: l.index.Again(), explainer: l.explainer.Again(),
		fixed: l.fixed, chosen: l.chosen,
	}
}

func (l *looked) Dwell(i int) (time.Duration, bool) {
	d := l.chosen[i].dwell
	return max(0, d), d >= 0
}

func (l *looked) read(row int) *diagnosis.Case {
	l.made = diagnosis.Case{HoldersKnown: l.snap.HoldersKnown}
	l.sockets.Socket(row, &l.made.Socket)
	return &l.made
}

func (l *looked) join(c *diagnosis.Case, holder int) {
	l.index.Join(c, holder)
	l.explainer.Explain(c)
	if c.Cause == diagnosis.InFlight && l.fixed[c.Inode] != nil {
		c.Fixed = l.fixed[c.Inode]
		l.explainer.Explain(c)
	}
}

// choose applies the filter and looks the facts up, if possible in one pass.
func (l *looked) choose(e *Engine, q *Query, clock event.Clock) record.Facts {
	var facts record.Facts
	early := q.Filter.NeedsProcesses() || q.Filter.NeedsCgroups()
	if early {
		l.findLost(e, q)
		facts = e.facts(l, clock, false)
		e.names.warn(q.Filter)
		facts.Peers = q.peers
		l.pass(q, func(c *diagnosis.Case) bool { return q.Filter.MatchCase(c, &facts) })
		return facts
	}
	x, lost := l.choosePass(e, q, clock)
	if len(lost.inodes) > 0 {
		l.fixed = e.fixedFiles(lost)
		x, _ = l.choosePass(e, q, clock)
	}
	facts = x.done()
	facts.Peers = q.peers
	return facts
}

// choosePass chooses without facts, so another processor does a half.
func (l *looked) choosePass(e *Engine, q *Query, clock event.Clock) (*factFinder, *lostSockets) {
	middle, other := l.sockets.Len()/2, l.again()
	l.chosen, other.chosen = slices.Grow(l.chosen[:0], l.sockets.Len()), nil
	var lost, otherLost lostSockets
	var seen, otherSeen distinct
	var wg sync.WaitGroup
	wg.Go(func() { other.chooseRows(q, middle, l.sockets.Len(), &otherSeen, &otherLost) })
	l.chooseRows(q, 0, middle, &seen, &lost)
	wg.Wait()
	l.chosen = append(l.chosen, other.chosen...)
	lost.join(&otherLost)
	x := e.findFacts(clock, false)
	for _, c := range append(seen.cases, otherSeen.cases...) {
		x.add(&c)
	}
	return x, &lost
}

func (l *looked) chooseRows(q *Query, first, end int, seen *distinct, lost *lostSockets) {
	l.passRows(q, first, end, func(c *diagnosis.Case) bool {
		lost.add(c)
		if !q.Filter.MatchCase(c, nil) {
			return false
		}
		seen.add(c)
		return true
	})
}

// distinct are cases of which no two need the same facts.
type distinct struct {
	cases []diagnosis.Case
	known map[factKey]bool
	last  factKey
}

type factKey struct {
	cgroup     uint64
	netns, pid uint32
}

func (d *distinct) add(c *diagnosis.Case) {
	key := factKey{c.Cgroup, c.Flow.Netns, c.Blamed.Pid}
	if key == d.last && len(d.cases) > 0 {
		return
	}
	d.last = key
	if d.known == nil {
		d.known = map[factKey]bool{}
	}
	if !d.known[key] {
		d.known[key] = true
		d.cases = append(d.cases, *c)
	}
}

// findLost chooses all sockets there are, and looks where those are that nobody holds.
func (l *looked) findLost(e *Engine, q *Query) {
	lost := &lostSockets{}
	l.pass(q, func(c *diagnosis.Case) bool {
		lost.add(c)
		return true
	})
	l.fixed = e.fixedFiles(lost)
}

// pass chooses the sockets that the filter of sockets and f let through. The subflows of an
// MPTCP socket are shown as that socket, and a closed socket that never had a connection is
// nobody's concern.
func (l *looked) pass(q *Query, f func(*diagnosis.Case) bool) {
	l.chosen = slices.Grow(l.chosen[:0], l.sockets.Len())
	l.passRows(q, 0, l.sockets.Len(), f)
}

// passRows is pass for some of the sockets: the chosen are added.
func (l *looked) passRows(q *Query, first, end int, f func(*diagnosis.Case) bool) {
	for row := first; row < end; row++ {
		c := l.read(row)
		if c.Subflow || !q.Filter.MatchSocket(&c.Socket) {
			continue
		}
		holder := l.index.First(c.Cookie)
		l.join(c, holder)
		if c.State == event.Close && c.Cause != diagnosis.ZombieFD || !f(c) {
			continue
		}
		dwell := time.Duration(-1)
		if c.Bound != event.BoundUnknown {
			dwell = c.Dwell()
		}
		l.chosen = append(l.chosen, chosenRow{dwell, uint32(row), int32(holder)})
	}
}
