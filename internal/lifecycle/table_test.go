package lifecycle_test

import (
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/lifecycle"
)

// Shorthand for lists of transitions.
func enter(at event.KTime, c event.Cookie) event.Transition {
	return event.Transition{At: at, Cookie: c, Old: event.Established, New: event.CloseWait}
}

func leave(at event.KTime, c event.Cookie) event.Transition {
	return event.Transition{At: at, Cookie: c, Old: event.CloseWait, New: event.LastAck}
}

func in(tr event.Transition, d time.Duration, b event.Bound) event.Transition {
	tr.InState, tr.InBound = d, b
	return tr
}

func after(at event.KTime, c event.Cookie) event.Transition {
	return event.Transition{At: at, Cookie: c, Old: event.LastAck, New: event.Close}
}

func row(at event.KTime, c event.Cookie, since event.KTime, b event.Bound) event.Socket {
	return event.Socket{At: at, Cookie: c, State: event.CloseWait, Since: since, Bound: b, Baseline: b == event.AtLeast}
}

func snap(from, to event.KTime, rows ...event.Socket) event.Snapshot {
	return event.Snapshot{From: from, To: to, Sockets: rows}
}

// ended is the part of a Finished that the tables compare.
type ended struct {
	cookie event.Cookie
	dwell  time.Duration
	bound  event.Bound
	next   event.State
	at     event.KTime
}

func end(f *lifecycle.Finished) ended {
	return ended{f.Cookie, f.Dwell, f.Bound, f.Next, f.At}
}

func TestTable(t *testing.T) {
	const exact, atLeast = event.Exact, event.AtLeast
	type steps = []any // event.Transition or event.Snapshot
	tests := []struct {
		name  string
		steps steps
		ended []ended
		open  map[event.Cookie]event.KTime // cookie → since
		stats lifecycle.Stats
	}{
		{
			"one wait",
			steps{enter(10, 1), leave(25, 1)},
			[]ended{{1, 15, exact, event.LastAck, 25}},
			nil,
			lifecycle.Stats{Opened: 1, Finished: 1},
		},
		{
			"stays open",
			steps{enter(10, 1), enter(11, 2), leave(12, 1)},
			[]ended{{1, 2, exact, event.LastAck, 12}},
			map[event.Cookie]event.KTime{2: 11},
			lifecycle.Stats{Opened: 2, Finished: 1},
		},
		{
			"repeated input",
			steps{enter(10, 1), enter(10, 1), leave(25, 1), leave(25, 1), enter(10, 1)},
			[]ended{{1, 15, exact, event.LastAck, 25}},
			nil,
			lifecycle.Stats{Opened: 1, Finished: 1, Duplicates: 2, Reordered: 1},
		},
		{
			"leave before enter",
			steps{in(leave(25, 1), 15, exact), enter(10, 1)},
			[]ended{{1, 15, exact, event.LastAck, 25}},
			nil,
			lifecycle.Stats{Opened: 1, Finished: 1, Unseen: 1, Reordered: 1},
		},
		{
			"enter lost, baseline dwell",
			steps{in(leave(25, 1), 7, atLeast)},
			[]ended{{1, 7, atLeast, event.LastAck, 25}},
			nil,
			lifecycle.Stats{Opened: 1, Finished: 1, Unseen: 1},
		},
		{
			"enter lost, dwell unknown or negative",
			steps{in(leave(25, 1), 7, event.BoundUnknown), in(leave(25, 2), -7, exact)},
			[]ended{{1, 0, event.BoundUnknown, event.LastAck, 25}, {2, 0, exact, event.LastAck, 25}},
			nil,
			lifecycle.Stats{Opened: 2, Finished: 2, Unseen: 2},
		},
		{
			"leave lost, the socket's record still knows",
			steps{enter(10, 1), in(after(40, 1), 10, exact)},
			[]ended{{1, 20, exact, event.LastAck, 30}},
			nil,
			lifecycle.Stats{Opened: 1, Finished: 1, Missed: 1},
		},
		{
			"leave lost, nothing known",
			steps{enter(10, 1), after(40, 1)},
			[]ended{{1, 0, atLeast, event.StateUnknown, 40}},
			nil,
			lifecycle.Stats{Opened: 1, Finished: 1, Missed: 1},
		},
		{
			"a late older transition closes nothing",
			steps{enter(10, 1), after(9, 1)},
			nil,
			map[event.Cookie]event.KTime{1: 10},
			lifecycle.Stats{Opened: 1, Reordered: 1},
		},
		{
			"reconnected socket waits again",
			steps{enter(10, 1), leave(20, 1), enter(30, 1), leave(35, 1)},
			[]ended{{1, 10, exact, event.LastAck, 20}, {1, 5, exact, event.LastAck, 35}},
			nil,
			lifecycle.Stats{Opened: 2, Finished: 2},
		},
		{
			"reconnected socket, leave lost",
			steps{enter(10, 1), enter(30, 1)},
			[]ended{{1, 0, atLeast, event.StateUnknown, 30}},
			map[event.Cookie]event.KTime{1: 30},
			lifecycle.Stats{Opened: 2, Finished: 1, Missed: 1},
		},
		{
			"baseline",
			steps{snap(100, 110, row(105, 1, 50, atLeast)), in(leave(130, 1), 80, atLeast)},
			[]ended{{1, 80, atLeast, event.LastAck, 130}},
			nil,
			lifecycle.Stats{Opened: 1, Finished: 1},
		},
		{
			"baseline that gets younger rows keeps the older",
			steps{
				snap(100, 110, row(105, 1, 50, atLeast)), snap(200, 210, row(205, 1, 150, atLeast)),
			},
			nil,
			map[event.Cookie]event.KTime{1: 50},
			lifecycle.Stats{Opened: 1},
		},
		{
			"enter lost, found",
			steps{snap(100, 110, row(105, 1, 50, exact))},
			nil,
			map[event.Cookie]event.KTime{1: 50},
			lifecycle.Stats{Opened: 1, Missed: 1},
		},
		{
			"leave lost, not found",
			steps{enter(10, 1), snap(20, 30, row(25, 1, 10, exact)), snap(100, 110)},
			[]ended{{1, 15, atLeast, event.StateUnknown, 100}},
			nil,
			lifecycle.Stats{Opened: 1, Finished: 1, Missed: 1},
		},
		{
			"leave comes after the snapshot closed it",
			steps{enter(10, 1), snap(100, 110), leave(90, 1)},
			[]ended{{1, 0, atLeast, event.StateUnknown, 100}},
			nil,
			lifecycle.Stats{Opened: 1, Finished: 1, Missed: 1, Reordered: 1},
		},
		{
			"found in a later state",
			steps{enter(10, 1), snap(100, 110,
				event.Socket{At: 105, Cookie: 1, State: event.LastAck, Since: 90, Bound: exact})},
			[]ended{{1, 80, exact, event.LastAck, 90}},
			nil,
			lifecycle.Stats{Opened: 1, Finished: 1, Missed: 1},
		},
		{
			"entered during the pass",
			steps{enter(105, 1), snap(100, 110)},
			nil,
			map[event.Cookie]event.KTime{1: 105},
			lifecycle.Stats{Opened: 1},
		},
		{
			"left during the pass",
			steps{enter(10, 1), leave(107, 1), snap(100, 110, row(105, 1, 10, exact))},
			[]ended{{1, 97, exact, event.LastAck, 107}},
			nil,
			lifecycle.Stats{Opened: 1, Finished: 1, Stale: 1},
		},
		{
			"left between the row's state and its time",
			steps{enter(10, 1), leave(104, 1), snap(100, 110, row(105, 1, 10, exact))},
			[]ended{{1, 94, exact, event.LastAck, 104}},
			nil,
			lifecycle.Stats{Opened: 1, Finished: 1, Stale: 1},
		},
		{
			"enter of a wait the snapshot did not find",
			steps{snap(100, 110), enter(10, 1)},
			nil, nil,
			lifecycle.Stats{Reordered: 1},
		},
		{
			"an incomplete snapshot is put right",
			steps{enter(10, 1), snap(100, 110), snap(200, 210, row(205, 1, 10, exact))},
			[]ended{{1, 0, atLeast, event.StateUnknown, 100}},
			map[event.Cookie]event.KTime{1: 10},
			lifecycle.Stats{Opened: 2, Finished: 1, Missed: 2, Reopened: 1},
		},
		{"no cookie", steps{enter(10, 0), leave(11, 0)}, nil, nil, lifecycle.Stats{Unkeyed: 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := lifecycle.New(lifecycle.Options{})
			var got []ended
			for _, step := range tt.steps {
				switch s := step.(type) {
				case event.Transition:
					if f := table.Transition(&s).Finished; f != nil {
						got = append(got, end(f))
					}
				case event.Snapshot:
					gone := table.Reconcile(&s, s.All())
					for i := range gone {
						got = append(got, end(&gone[i]))
					}
				}
			}
			check(t, table, got, tt.ended, tt.open, tt.stats)
		})
	}
}

func check(t *testing.T, table *lifecycle.Table, got, want []ended, open map[event.Cookie]event.KTime, stats lifecycle.Stats) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("finished %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("finished %d: %v, want %v", i, got[i], want[i])
		}
	}
	if table.Len() != len(open) {
		t.Errorf("%d waits open, want %d", table.Len(), len(open))
	}
	for w := range table.All() {
		if since, ok := open[w.Cookie]; !ok || since != w.Since {
			t.Errorf("open wait %d since %d, want %v", w.Cookie, w.Since, open)
		}
	}
	if table.Stats() != stats {
		t.Errorf("stats %+v, want %+v", table.Stats(), stats)
	}
}

func TestFullTableRefusesNewcomers(t *testing.T) {
	table := lifecycle.New(lifecycle.Options{Max: 2})
	for _, tr := range []event.Transition{enter(1, 1), enter(2, 2), enter(3, 3), in(leave(9, 3), 6, event.Exact), leave(10, 1), enter(11, 4)} {
		table.Transition(&tr)
	}
	s := table.Stats()
	if s.Evicted != 1 || s.Finished != 2 || table.Len() != 2 {
		t.Errorf("stats %+v, %d open; want 1 evicted, 2 finished, 2 open", s, table.Len())
	}
	if open := s.Opened - s.Finished - s.Evicted; open != uint64(table.Len()) {
		t.Errorf("opened - finished - evicted = %d, open %d", open, table.Len())
	}
	if l := table.Loss(); l != (event.Loss{Evicted: 1}) {
		t.Errorf("loss %+v, want 1 evicted", l)
	}
}

func TestTombstonesRunOut(t *testing.T) {
	table := lifecycle.New(lifecycle.Options{Tombstones: 1})
	for _, tr := range []event.Transition{enter(10, 1), enter(10, 2), leave(105, 1), leave(106, 2)} {
		table.Transition(&tr)
	}
	s := snap(100, 110, row(104, 1, 10, event.Exact))
	table.Reconcile(&s, s.All())
	if table.Len() != 0 || table.Stats().Doubtful != 1 {
		t.Errorf("%d open, stats %+v; a row older than what was forgotten must not open a wait", table.Len(), table.Stats())
	}
}

func TestUnreadNamespaceIsLeftAlone(t *testing.T) {
	table := lifecycle.New(lifecycle.Options{})
	tr := enter(10, 1)
	tr.Flow.Netns = 7
	table.Transition(&tr)
	s := snap(100, 110)
	s.UnreadNetns = map[uint32]string{7: "permission denied"}
	table.Reconcile(&s, s.All())
	if table.Len() != 1 {
		t.Error("a wait in a namespace that could not be read was closed")
	}
}

func TestUnknownNeverOverwritesKnown(t *testing.T) {
	table := lifecycle.New(lifecycle.Options{})
	open := enter(10, 1)
	open.Flow = flow(t, "10.0.0.1:8080", "10.0.0.2:40000")
	open.Direction, open.Cgroup = event.In, 5
	open.Owner, open.Evidence = event.Task{Pid: 42}, event.EvidenceAccept
	table.Transition(&open)
	shut := leave(20, 1)
	shut.Flow = flow(t, "10.0.0.1:0", "10.0.0.2:0")
	f := table.Transition(&shut).Finished
	if f.Flow != open.Flow || f.Owner != open.Owner || f.Evidence != open.Evidence || f.Direction != event.In || f.Cgroup != 5 {
		t.Errorf("facts of the wait were lost: %+v", f)
	}
}

func TestRowRefreshesFacts(t *testing.T) {
	table := lifecycle.New(lifecycle.Options{})
	s := snap(100, 110, row(105, 1, 50, event.AtLeast))
	s.Sockets[0].Earliest = 20
	table.Reconcile(&s, s.All())
	s = snap(200, 210, row(205, 1, 60, event.AtLeast))
	s.Sockets[0].Earliest = 40
	s.Sockets[0].Owner, s.Sockets[0].Evidence = event.Task{Pid: 9}, event.EvidenceRead
	before := table.Stats()
	if gone := table.Reconcile(&s, s.All()); len(gone) > 0 || table.Stats() != before {
		t.Fatalf("finished %+v, %+v of a table that was right", gone, table.Stats())
	}
	w, ok := table.Get(1)
	if !ok || w.Since != 50 || w.Earliest != 40 || w.LastSeen != 205 || w.Owner.Pid != 9 || w.Evidence != event.EvidenceRead {
		t.Errorf("wait %+v, want since 50, earliest 40, last seen 205, owner 9 by read", w)
	}
	if d := w.Dwell(300); d != 250 {
		t.Errorf("dwell %v, want 250ns", d)
	}
}
