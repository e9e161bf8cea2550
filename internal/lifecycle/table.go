package lifecycle

import (
	"iter"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Defaults of Options. A wait takes about 200 bytes, a tombstone about 60.
const (
	DefaultMax        = 1 << 18
	DefaultTombstones = 1 << 14
)

// Options bound the table's memory. Zero fields take the defaults.
type Options struct {
	// Max is the number of open waits kept. A full table refuses newcomers and
	// counts them as evicted: the old waits are the ones worth explaining, and a
	// refused one still gives a Finished when it leaves.
	Max int
	// Tombstones is the number of finished waits remembered to recognise late,
	// repeated and reordered input. It should exceed what can finish while one
	// snapshot is taken.
	Tombstones int
	// Untold: transitions into CLOSE_WAIT are not told, so none that a snapshot finds was missed.
	Untold bool
}

// Stats are monotonic totals. Open waits = Opened - Finished - Evicted, always.
type Stats struct {
	// Opened counts waits that began or were found, Finished those that ended.
	Opened, Finished uint64
	// Evicted counts waits refused because the table was full. One that leaves
	// later, or is found again by a snapshot, counts as opened again.
	Evicted uint64
	// Missed counts entries and leavings nobody saw: found by a snapshot or by a later
	// transition.
	Missed uint64
	// Unseen counts leavings whose entry was not seen; the record carried the dwell.
	Unseen uint64
	// Duplicates and Reordered count input that changed nothing: told before, or
	// older than what is known.
	Duplicates, Reordered uint64
	// Stale counts snapshot rows overtaken by transitions; Doubtful those too old to tell
	// because tombstones ran out (the next snapshot tells).
	Stale, Doubtful uint64
	// Reopened counts waits that an incomplete snapshot had declared gone.
	Reopened uint64
	// Unkeyed counts input without a cookie.
	Unkeyed uint64
}

// Table holds the open waits. It is not safe for concurrent use.
type Table struct {
	max    int
	untold bool
	index  map[event.Cookie]int32
	// slab never moves a live wait while the table is not changed; free are the unused
	// places in it. Together they keep the steady state free of allocation.
	slab   []slot
	free   []int32
	graves graves
	pass   uint32
	// complete is the start of the last snapshot that read everything: it knows
	// all waits that began earlier and had not ended.
	complete event.KTime
	stats    Stats
	last     Finished
}

// slot is a place for a wait. A zero cookie marks it free.
type slot struct {
	Wait
	// pass is the number of the last reconcile that found the wait.
	pass uint32
}

// New returns an empty table.
func New(o Options) *Table {
	if o.Max <= 0 {
		o.Max = DefaultMax
	}
	if o.Tombstones <= 0 {
		o.Tombstones = DefaultTombstones
	}
	return &Table{max: o.Max, untold: o.Untold, index: make(map[event.Cookie]int32), graves: newGraves(o.Tombstones)}
}

// Reserve makes room for n waits at once, where they are known to come.
func (t *Table) Reserve(n int) {
	n = min(n, t.max)
	if len(t.index) > 0 || n <= cap(t.slab) {
		return
	}
	t.slab = slices.Grow(t.slab, n-len(t.slab))
	t.index = make(map[event.Cookie]int32, n)
}

// Len is the number of open waits.
func (t *Table) Len() int { return len(t.index) }

// Stats returns the totals so far.
func (t *Table) Stats() Stats { return t.stats }

// Loss is the table's contribution to the loss totals.
func (t *Table) Loss() event.Loss {
	return event.Loss{Evicted: t.stats.Evicted, Missed: t.stats.Missed}
}

// Get returns the open wait of a socket. The pointer is valid until the table changes.
func (t *Table) Get(c event.Cookie) (*Wait, bool) {
	i, ok := t.index[c]
	if !ok {
		return nil, false
	}
	return &t.slab[i].Wait, true
}

// All yields the open waits in no particular order. The table must not change
// meanwhile; the pointers are valid until it does.
func (t *Table) All() iter.Seq[*Wait] {
	return func(yield func(*Wait) bool) {
		for i := range t.slab {
			if t.slab[i].Cookie != 0 && !yield(&t.slab[i].Wait) {
				return
			}
		}
	}
}

// insert makes a wait of w and returns its place, or nil if the table is full.
func (t *Table) insert(w *Wait) *slot {
	t.stats.Opened++
	if len(t.index) >= t.max {
		t.stats.Evicted++
		return nil
	}
	var i int32
	if n := len(t.free); n > 0 {
		i, t.free = t.free[n-1], t.free[:n-1]
	} else {
		i = int32(len(t.slab))
		t.slab = append(t.slab, slot{})
	}
	t.index[w.Cookie] = i
	s := &t.slab[i]
	*s = slot{Wait: *w, pass: t.pass}
	return s
}

// end is how a wait ended.
type end struct {
	// at is the moment of leaving, or of being known gone.
	at    event.KTime
	dwell time.Duration
	bound event.Bound
	next  event.State
	// missed: concluded, not seen.
	missed bool
	// exiting and closer say who made it end, see Finished.
	exiting bool
	closer  uint32
}

// finish takes the wait at s out of the table. The result is valid until the next call.
func (t *Table) finish(s *slot, e end) *Finished {
	t.last = Finished{
		Wait: s.Wait, Dwell: max(0, e.dwell), Bound: e.bound, Next: e.next, At: e.at, Missed: e.missed,
		Exiting: e.exiting, Closer: e.closer,
	}
	t.free = append(t.free, t.index[s.Cookie])
	delete(t.index, s.Cookie)
	*s = slot{}
	t.stats.Finished++
	if e.missed {
		t.stats.Missed++
	}
	t.graves.bury(t.last.Cookie, grave{left: e.at, guessed: e.missed})
	return &t.last
}
