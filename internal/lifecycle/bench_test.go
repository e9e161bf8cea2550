package lifecycle_test

import (
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/lifecycle"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// full returns a table with n open waits, cookies from 1 on.
func full(n int) *lifecycle.Table {
	table := lifecycle.New(lifecycle.Options{})
	for c := 1; c <= n; c++ {
		tr := enter(event.KTime(c), event.Cookie(c))
		table.Transition(&tr)
	}
	return table
}

// BenchmarkUntouched is the common case: a transition of a socket that does not wait.
func BenchmarkUntouched(b *testing.B) {
	table := full(10_000)
	tr := event.Transition{At: 1 << 40, Old: event.SynRecv, New: event.Established}
	b.ReportAllocs()
	c := event.Cookie(1 << 32)
	for b.Loop() {
		c++
		tr.Cookie = c
		table.Transition(&tr)
	}
}

// BenchmarkWait is a whole wait, two transitions, with 10,000 others open.
func BenchmarkWait(b *testing.B) {
	table := full(10_000)
	// Fill the tombstones first: their map grows once.
	for i := range event.Cookie(2 * lifecycle.DefaultTombstones) {
		in, out := enter(1<<30, 1<<24+i), leave(1<<31, 1<<24+i)
		table.Transition(&in)
		table.Transition(&out)
	}
	in, out := enter(1<<40, 0), leave(1<<40+1, 0)
	b.ReportAllocs()
	c := event.Cookie(1 << 32)
	for b.Loop() {
		c++
		in.Cookie, out.Cookie = c, c
		table.Transition(&in)
		table.Transition(&out)
	}
}

// BenchmarkChurn is what a busy host sends: mostly short connections, whose servers wait
// for microseconds. Cookies and times go on, as the kernel's do.
func BenchmarkChurn(b *testing.B) {
	table := full(10_000)
	events := testenv.Churn(1023)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		tr := &events[i%len(events)]
		tr.Cookie += 1 << 20
		tr.At += 1 << 30
		table.Transition(tr)
	}
}

// BenchmarkReconcile is a snapshot of 10,000 waits that finds the table right.
func BenchmarkReconcile(b *testing.B) {
	table := full(10_000)
	s := event.Snapshot{From: 1 << 40, To: 1<<40 + 1000}
	for w := range table.All() {
		s.Sockets = append(s.Sockets, row(1<<40+1, w.Cookie, w.Since, event.Exact))
	}
	b.ReportAllocs()
	for b.Loop() {
		table.Reconcile(&s, s.All())
	}
}

func TestTransitionDoesNotAllocate(t *testing.T) {
	table := full(100)
	tr := event.Transition{At: 1 << 40, Cookie: 1 << 32, Old: event.SynRecv, New: event.Established}
	if n := testing.AllocsPerRun(1000, func() { table.Transition(&tr) }); n != 0 {
		t.Errorf("%v allocations for a transition that touches no wait, want 0", n)
	}
}
