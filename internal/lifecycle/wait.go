package lifecycle

import (
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Wait is one stay of one socket in CLOSE_WAIT that has not ended.
type Wait struct {
	Cookie event.Cookie
	Flow   event.Flow
	// Since, Bound and Earliest mean what they mean in event.Socket: Since is the
	// moment of entry (Exact) or the latest it can have been (AtLeast).
	Since    event.KTime
	Bound    event.Bound
	Earliest event.KTime
	// Opened is the moment the connection was established, 0 unknown.
	Opened event.KTime
	// LastSeen is the last moment the socket was known to be in CLOSE_WAIT: its entry
	// or the latest snapshot row.
	LastSeen  event.KTime
	Direction event.Direction
	Owner     event.Task
	Evidence  event.Evidence
	Cgroup    uint64
	// Baseline: the socket was there before us.
	Baseline bool
}

// Dwell is the time spent in CLOSE_WAIT until at, never negative. w.Bound says
// whether it is exact or a lower bound.
func (w *Wait) Dwell(at event.KTime) time.Duration { return max(0, at.Sub(w.Since)) }

// Finished is a wait that has ended.
type Finished struct {
	Wait
	Dwell time.Duration
	// Bound is the dwell's and hides Wait.Bound, which is that of Since: where the end
	// was missed, Since can be exact and Dwell only a lower bound.
	Bound event.Bound
	// Next is the state that followed, StateUnknown if nobody saw it.
	Next event.State
	// At is the moment of leaving; where Missed, the first moment the socket was known
	// to be gone.
	At event.KTime
	// Missed: the leaving was not seen but concluded.
	Missed bool
	// Exiting: nobody called close(), the kernel did when process Closer ended. Never set where
	// Missed.
	Exiting bool
	// Closer is the pid of the process whose doing the leaving was, 0 unknown.
	Closer uint32
}

// adopt takes over what a row or a transition knows better. Unknown never
// overwrites known: in its last transitions a socket has lost its port.
func (w *Wait) adopt(f event.Flow, d event.Direction, owner *event.Task, ev event.Evidence, cgroup uint64) {
	if f.Local.Port() != 0 && f.Remote.Port() != 0 || !w.Flow.Local.IsValid() {
		w.Flow = f
	}
	if d != event.DirectionUnknown {
		w.Direction = d
	}
	if owner.Known() {
		w.Owner, w.Evidence = *owner, ev
	}
	if cgroup != 0 {
		w.Cgroup = cgroup
	}
}

// refresh tightens the wait by a snapshot row of the same stay.
func (w *Wait) refresh(s *event.Socket) {
	w.LastSeen = max(w.LastSeen, s.At)
	w.adopt(s.Flow, s.Direction, &s.Owner, s.Evidence, s.Cgroup)
	w.Baseline = s.Baseline
	switch {
	case s.Bound == event.Exact && s.Since != 0:
		w.Since, w.Bound = s.Since, event.Exact
	case w.Bound == event.Exact:
	case s.Bound == event.AtLeast && (w.Bound == event.BoundUnknown || s.Since < w.Since):
		// Traffic moves a baseline socket's Since forward; the smallest seen is the truth.
		w.Since, w.Bound = s.Since, event.AtLeast
	}
	w.Earliest = min(max(w.Earliest, s.Earliest), w.Since)
}
