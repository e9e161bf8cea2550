package lifecycle_test

import (
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/lifecycle"
)

// What is known of how a wait began and ended comes with it, whether or not its entry was
// seen.
func TestOpenedAndExit(t *testing.T) {
	exits := func(tr event.Transition) event.Transition {
		tr.Closer, tr.Exiting = 10, true
		return tr
	}
	closes := func(tr event.Transition) event.Transition {
		tr.Closer = 11
		return tr
	}
	type ended struct {
		opened  event.KTime
		exiting bool
		closer  uint32
	}
	for name, tt := range map[string]struct {
		steps []event.Transition
		want  ended
	}{
		"exit":                 {[]event.Transition{in(enter(50, 1), 20, event.Exact), exits(leave(70, 1))}, ended{30, true, 10}},
		"close":                {[]event.Transition{in(enter(50, 1), 20, event.Exact), closes(leave(70, 1))}, ended{30, false, 11}},
		"reset":                {[]event.Transition{in(enter(50, 1), 20, event.Exact), leave(70, 1)}, ended{30, false, 0}},
		"established since":    {[]event.Transition{in(enter(50, 1), 20, event.AtLeast), exits(leave(70, 1))}, ended{0, true, 10}},
		"entry not seen":       {[]event.Transition{exits(in(leave(70, 1), 20, event.Exact))}, ended{0, true, 10}},
		"leaving was not seen": {[]event.Transition{in(enter(50, 2), 20, event.Exact), exits(after(70, 2))}, ended{30, false, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			table := lifecycle.New(lifecycle.Options{})
			var f *lifecycle.Finished
			for i := range tt.steps {
				f = table.Transition(&tt.steps[i]).Finished
			}
			if f == nil {
				t.Fatal("no wait ended")
			}
			if got := (ended{f.Opened, f.Exiting, f.Closer}); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

// A snapshot that was quicker than the record does not know when the connection began.
func TestOpenedAfterSnapshot(t *testing.T) {
	table := lifecycle.New(lifecycle.Options{})
	rows := snap(55, 65, row(60, 1, 55, event.AtLeast))
	table.Reconcile(&rows, rows.All())
	late := in(enter(50, 1), 20, event.Exact)
	table.Transition(&late)
	if w, open := table.Get(1); !open || w.Opened != 30 || w.Bound != event.Exact || w.Dwell(60) != 10*time.Nanosecond {
		t.Errorf("open %v, %+v", open, w)
	}
}
