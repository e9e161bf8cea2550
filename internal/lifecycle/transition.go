package lifecycle

import "github.com/tcpwaitd/tcpwaitd/internal/event"

// Change is what one transition did. Both are nil if no wait was touched. Both are
// set if a wait ended unseen before a new one of the same socket began. The
// pointers are valid until the next call on the table.
type Change struct {
	Opened   *Wait
	Finished *Finished
}

// Transition applies one state change.
func (t *Table) Transition(tr *event.Transition) Change {
	if tr.Subflow {
		return Change{}
	}
	enters, leaves := tr.New == event.CloseWait, tr.Old == event.CloseWait
	if tr.Cookie == 0 {
		if enters != leaves {
			t.stats.Unkeyed++
		}
		return Change{}
	}
	switch {
	case enters && leaves:
		return Change{}
	case enters:
		return t.enter(tr)
	case leaves:
		return Change{Finished: t.leave(tr)}
	default:
		return Change{Finished: t.between(tr)}
	}
}

// enter handles the change into CLOSE_WAIT.
func (t *Table) enter(tr *event.Transition) Change {
	if i, open := t.index[tr.Cookie]; open {
		return t.enterAgain(&t.slab[i], tr)
	}
	if g, ok := t.graves.find(tr.Cookie); ok && tr.At <= g.left || tr.At < t.complete {
		// Its end is known, or a snapshot taken since did not find it.
		t.stats.Reordered++
		return Change{}
	}
	return Change{Opened: t.open(tr)}
}

func (t *Table) open(tr *event.Transition) *Wait {
	w := Wait{
		Cookie: tr.Cookie, Flow: tr.Flow, Since: tr.At, Bound: event.Exact, Earliest: tr.At, LastSeen: tr.At,
		Direction: tr.Direction, Owner: tr.Owner, Evidence: tr.Evidence, Cgroup: tr.Cgroup, Opened: opened(tr),
	}
	if s := t.insert(&w); s != nil {
		return &s.Wait
	}
	return nil
}

// opened is when the connection of a socket that enters CLOSE_WAIT was established.
func opened(tr *event.Transition) event.KTime {
	if tr.Old != event.Established || tr.InBound != event.Exact || tr.InState < 0 {
		return 0
	}
	return tr.At.Add(-tr.InState)
}

// enterAgain handles an entry of a socket that is in the table already.
func (t *Table) enterAgain(s *slot, tr *event.Transition) Change {
	if tr.At > s.LastSeen {
		// It left and came back, and nobody saw it leave.
		f := t.finish(s, end{at: tr.At, dwell: s.LastSeen.Sub(s.Since), bound: event.AtLeast, missed: true})
		return Change{Finished: f, Opened: t.open(tr)}
	}
	if s.Bound != event.Exact && tr.At <= s.Since && tr.At >= s.Earliest {
		// A snapshot was quicker than the record, which knows the moment.
		s.Since, s.Earliest, s.Bound, s.Opened = tr.At, tr.At, event.Exact, opened(tr)
		t.stats.Reordered++
		return Change{}
	}
	t.stats.Duplicates++
	return Change{}
}

// leave handles the change out of CLOSE_WAIT.
func (t *Table) leave(tr *event.Transition) *Finished {
	i, open := t.index[tr.Cookie]
	if !open {
		return t.leaveUnseen(tr)
	}
	s := &t.slab[i]
	if tr.At < s.Since {
		t.stats.Reordered++
		return nil
	}
	s.adopt(tr.Flow, tr.Direction, &tr.Owner, tr.Evidence, tr.Cgroup)
	e := end{at: tr.At, dwell: tr.At.Sub(s.Since), bound: s.Bound, next: tr.New, exiting: tr.Exiting, closer: tr.Closer}
	if better(tr, &e) {
		if entered := tr.At.Add(-tr.InState); tr.InBound == event.Exact && entered > s.LastSeen {
			// A later stay of the same socket: the end of ours and its entry were lost.
			t.stats.Missed++
		}
		e.dwell, e.bound = tr.InState, tr.InBound
		s.Since, s.Bound = tr.At.Add(-tr.InState), tr.InBound
	}
	return t.finish(s, e)
}

// better reports whether the record's own dwell is worth more than the table's. It is
// kept in the kernel and misses nothing: if exact it wins, of two lower bounds the
// higher does.
func better(tr *event.Transition, e *end) bool {
	if tr.InBound == event.BoundUnknown || tr.InState < 0 {
		return false
	}
	return tr.InBound == event.Exact || e.bound != event.Exact && tr.InState > e.dwell
}

// leaveUnseen handles a leaving of a socket that is not in the table: its entry was
// lost, refused or before us. The record says how long it stayed.
func (t *Table) leaveUnseen(tr *event.Transition) *Finished {
	stayed := max(0, tr.InState)
	if tr.InBound == event.BoundUnknown {
		stayed = 0
	}
	if g, ok := t.graves.find(tr.Cookie); ok {
		entered := tr.At.Add(-stayed)
		if tr.InBound != event.Exact || entered < g.left || tr.At <= g.left {
			t.countLate(tr, g)
			return nil
		}
	}
	t.stats.Opened++
	t.stats.Finished++
	t.stats.Unseen++
	since := tr.At.Add(-stayed)
	t.last = Finished{
		Wait: Wait{
			Cookie: tr.Cookie, Flow: tr.Flow, Since: since, Bound: tr.InBound, LastSeen: tr.At,
			Direction: tr.Direction, Owner: tr.Owner, Evidence: tr.Evidence, Cgroup: tr.Cgroup,
		},
		Dwell: stayed, Bound: tr.InBound, Next: tr.New, At: tr.At, Exiting: tr.Exiting, Closer: tr.Closer,
	}
	t.graves.bury(tr.Cookie, grave{left: tr.At})
	return &t.last
}

// countLate counts a leaving whose wait is finished already.
func (t *Table) countLate(tr *event.Transition, g grave) {
	if g.guessed || tr.At != g.left {
		t.stats.Reordered++
		return
	}
	t.stats.Duplicates++
}

// between handles a change between other states: nearly all of them, hence one
// look-up and out. If the socket is in the table its leaving was lost.
func (t *Table) between(tr *event.Transition) *Finished {
	i, open := t.index[tr.Cookie]
	if !open {
		return nil
	}
	s := &t.slab[i]
	if tr.At <= s.LastSeen {
		t.stats.Reordered++
		return nil
	}
	e := end{at: tr.At, dwell: s.LastSeen.Sub(s.Since), bound: event.AtLeast, missed: true}
	if left := tr.At.Add(-tr.InState); tr.Old == event.LastAck && tr.InBound == event.Exact && left >= s.LastSeen {
		// The socket's own record was kept when the ring was full: it entered LAST_ACK,
		// which follows CLOSE_WAIT directly, at that moment.
		e = end{at: left, dwell: left.Sub(s.Since), bound: s.Bound, next: event.LastAck, missed: true}
	}
	return t.finish(s, e)
}
