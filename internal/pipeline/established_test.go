package pipeline

import (
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// Kernels differ in whether CLOSE_WAIT counts as established: the numbers must tell.
func TestKernelCountsCloseWait(t *testing.T) {
	type space struct{ before, after, established, closeWait uint64 }
	for name, tt := range map[string]struct {
		spaces         []space
		counted, known bool
	}{
		"counted":                 {[]space{{30, 30, 7, 23}}, true, true},
		"not counted":             {[]space{{7, 7, 7, 23}}, false, true},
		"no CLOSE_WAIT":           {[]space{{7, 7, 7, 0}}, false, false},
		"a few more came":         {[]space{{1000, 1040, 400, 600}}, true, true},
		"too many came":           {[]space{{7, 30, 7, 23}}, false, false},
		"one quiet one will do":   {[]space{{7, 30, 7, 23}, {30, 30, 7, 23}}, true, true},
		"they contradict":         {[]space{{7, 7, 7, 23}, {30, 30, 7, 23}}, false, false},
		"the numbers fit neither": {[]space{{500, 500, 7, 23}}, false, false},
	} {
		before, after, tables := map[uint32]stateSpace{}, map[uint32]stateSpace{}, map[uint32]*tabledSockets{}
		for i, s := range tt.spaces {
			inode := uint32(i + 1)
			before[inode], after[inode] = stateSpace{currEstab: s.before}, stateSpace{currEstab: s.after}
			tables[inode] = &tabledSockets{s.established, s.closeWait}
		}
		if counted, known := countsCloseWait(before, after, tables); known != tt.known || known && counted != tt.counted {
			t.Errorf("%s: counted %v, known %v", name, counted, known)
		}
	}
}

// A namespace of which it cannot be told leaves the sum open; those without CLOSE_WAIT do not.
func TestEstablishedThatCannotBeTold(t *testing.T) {
	cases := []diagnosis.Case{{Socket: event.Socket{State: event.CloseWait, Flow: event.Flow{Netns: 1}}}}
	spaces := map[uint32]stateSpace{1: {currEstab: 100}, 2: {currEstab: 5}, 3: {}}
	e := establishedOf(spaces, spaces, cases, &record.Facts{})
	if e.CurrEstab != 105 || e.CloseWait != nil || len(e.Netns) != 2 || e.Netns[0].CloseWait != nil || *e.Netns[1].CloseWait != 0 {
		t.Errorf("%+v", e)
	}
}

func FuzzParseCurrEstab(f *testing.F) {
	f.Add([]byte("Tcp: RtoAlgorithm CurrEstab InSegs\nTcp: 1 23 5\n"))
	f.Add([]byte("Tcp: CurrEstab\nTcp:\n"))
	f.Fuzz(func(_ *testing.T, text []byte) { _, _ = parseCurrEstab(text) })
}

func TestParseCurrEstab(t *testing.T) {
	const text = "Ip: Forwarding\nIp: 1\nTcp: RtoAlgorithm MaxConn CurrEstab InSegs\nTcp: 1 -1 23 5\nUdp: A\nUdp: 1\n"
	if got, err := parseCurrEstab([]byte(text)); got != 23 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
	for _, bad := range []string{"", "Tcp: CurrEstab\n", "Tcp: CurrEstab\nTcp: x\n", "Tcp: A\nTcp: 1\n"} {
		if _, err := parseCurrEstab([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestDepartures(t *testing.T) {
	q := &StatesQuery{ByFlow: true, Query: Query{Filter: &filter.Filter{}}}
	d := departures{query: q}
	for i := 1; i <= 200; i++ {
		for _, tr := range []event.Transition{
			{Old: event.SynSent, New: event.Established, InState: time.Duration(i), InBound: event.Exact},
			// Beside the one that ends the socket.
			{Old: event.FinWait2, New: event.TimeWait, InState: 1, InBound: event.Exact},
			{Old: event.FinWait2, New: event.Close, InState: 1, InBound: event.AtLeast},
			{Old: event.Close, New: event.SynSent, InState: 1, InBound: event.Exact},
			{Old: event.CloseWait, New: event.LastAck},
		} {
			if err := d.transition(&tr); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := d.record()
	if len(got) != 2 || got[0] != (record.Left{State: "SYN_SENT", N: 200, MedianNS: 100, P99NS: 198, MaxNS: 200}) ||
		got[1] != (record.Left{State: "FIN_WAIT2", N: 200, AtLeast: 200, MedianNS: 1, P99NS: 1, MaxNS: 1}) {
		t.Errorf("%+v", got)
	}
	for range maxTimes {
		d.from[event.SynSent].add(&event.Transition{InState: time.Hour})
	}
	if l := d.from[event.SynSent]; len(l.times) != maxTimes || l.n != maxTimes+200 {
		t.Errorf("%d times of %d", len(l.times), l.n)
	}
}
