package lifecycle

import (
	"iter"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Reconcile makes the table equal to the kernel's, as of the snapshot and of the transitions applied
// so far, and returns the waits that were gone. Drain the ring after the pass and before this call:
// then a row that a transition has overtaken is recognised. Every row is compared
// by its own time, so nothing needs to be announced before the pass.
//
// rows are the sockets of the snapshot, each valid until the next: all in CLOSE_WAIT; those
// of other states may be left out. Waits in namespaces it could not read are left as they are.
func (t *Table) Reconcile(snap *event.Snapshot, rows iter.Seq[*event.Socket]) []Finished {
	var finished []Finished
	t.pass++
	for row := range rows {
		if row.Subflow {
			// It is not a wait of its own, see Transition.
			continue
		}
		if row.Cookie == 0 {
			t.stats.Unkeyed++
			continue
		}
		if row.State == event.CloseWait {
			t.waiting(row, &finished)
		} else {
			t.elsewhere(row, &finished)
		}
	}
	t.sweep(snap, &finished)
	if len(snap.UnreadNetns) == 0 {
		t.complete = max(t.complete, snap.From)
	}
	return finished
}

// waiting handles a row in CLOSE_WAIT.
func (t *Table) waiting(row *event.Socket, finished *[]Finished) {
	i, open := t.index[row.Cookie]
	if !open {
		if t.believable(row) {
			t.found(row)
		}
		return
	}
	s := &t.slab[i]
	if row.At < s.Since && s.Bound == event.Exact {
		// Read before the present stay began.
		t.stats.Stale++
		return
	}
	if row.Bound == event.Exact && row.Since > s.LastSeen {
		*finished = append(*finished, *t.finish(s, gone(s, row.Since)))
		t.found(row)
		return
	}
	s.refresh(row)
	s.pass = t.pass
}

// believable reports whether a row in CLOSE_WAIT that is not in the table is news, and not
// a wait that has ended since.
func (t *Table) believable(row *event.Socket) bool {
	g, ok := t.graves.find(row.Cookie)
	switch {
	case !ok && row.At <= t.graves.horizon:
		t.stats.Doubtful++
		return false
	case !ok:
		return true
	case row.At <= g.left || !g.guessed && row.Since <= g.left:
		// State and time of a row are not read in one instant: an entry before
		// the end we saw is that wait, whatever At says.
		t.stats.Stale++
		return false
	case g.guessed && row.Since <= g.left:
		t.stats.Reopened++
	}
	return true
}

// found opens a wait from a row.
func (t *Table) found(row *event.Socket) {
	w := Wait{Cookie: row.Cookie, Since: row.Since, Bound: row.Bound}
	if row.Bound == event.BoundUnknown {
		// Nothing bounds the age but this look.
		w.Since, w.Bound = row.At, event.AtLeast
	}
	w.LastSeen = w.Since
	w.refresh(row)
	s := t.insert(&w)
	if s == nil {
		return
	}
	if row.Bound == event.Exact && !t.untold {
		// The kernel watched it enter and we did not hear of it.
		t.stats.Missed++
	}
}

// elsewhere handles a row in another state.
func (t *Table) elsewhere(row *event.Socket, finished *[]Finished) {
	i, open := t.index[row.Cookie]
	if !open {
		return
	}
	s := &t.slab[i]
	if row.At <= s.LastSeen {
		t.stats.Stale++
		return
	}
	e := gone(s, row.At)
	e.next = row.State
	if row.State == event.LastAck && row.Bound == event.Exact && row.Since >= s.LastSeen {
		// LAST_ACK follows CLOSE_WAIT directly: its entry is the leaving.
		e.at, e.dwell, e.bound = row.Since, row.Since.Sub(s.Since), s.Bound
	}
	*finished = append(*finished, *t.finish(s, e))
}

// sweep finishes the waits that were there before the pass and were not found by it.
func (t *Table) sweep(snap *event.Snapshot, finished *[]Finished) {
	for i := range t.slab {
		s := &t.slab[i]
		if s.Cookie == 0 || s.pass == t.pass || s.LastSeen >= snap.From {
			continue
		}
		if !wasRead(snap, &s.Flow) {
			continue
		}
		*finished = append(*finished, *t.finish(s, gone(s, snap.From)))
	}
}

// wasRead: only where a table was read to the end does absence mean anything. A
// snapshot that does not say which namespaces were has read all but the unread. No
// table lists MPTCP sockets.
func wasRead(snap *event.Snapshot, f *event.Flow) bool {
	if _, unread := snap.UnreadNetns[f.Netns]; unread || f.Protocol == event.MPTCP {
		return false
	}
	return snap.ReadNetns == nil || snap.ReadNetns[f.Netns]
}

// gone is the end of a wait nobody saw leave: it lasted at least until it was last
// seen, and was over at the given moment.
func gone(s *slot, at event.KTime) end {
	return end{at: at, dwell: s.LastSeen.Sub(s.Since), bound: event.AtLeast, missed: true}
}
