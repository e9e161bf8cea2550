package tracer

import (
	"net"
	"os"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// endAtOnce makes n waits, each over as soon as the peer has closed, at one port.
func endAtOnce(t *testing.T, ns *testenv.Netns) (port uint16) {
	t.Helper()
	c := hold(t, ns, n)
	for i := range c.clients {
		closeAll(t, c.servers[i:i+1])
		// A FIN that ksoftirqd delivers can come after a close() that waits for nothing.
		readEOF(t, c.clients[i])
		closeAll(t, c.clients[i:i+1])
	}
	return uint16(c.servers[0].LocalAddr().(*net.TCPAddr).Port)
}

// told are the ends of waits in the rings.
func told(t *testing.T, tr *Tracer) (ends []event.Transition) {
	t.Helper()
	if err := tr.Drain(func(e *event.Transition) error {
		if !leavesCloseWait(e) {
			t.Errorf("%v is told", e)
		}
		ends = append(ends, *e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return ends
}

// short is how many waits of this process at a port were counted.
func short(t *testing.T, tr *Tracer, port uint16) (n int) {
	t.Helper()
	all, err := tr.ShortWaits()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Port != port {
			continue
		}
		n += int(s.N)
		if s.Owner.Pid != uint32(os.Getpid()) || s.Owner.Comm == (event.Comm{}) || s.Direction != event.Out {
			t.Errorf("%+v: want %d, which opened them", s, os.Getpid())
		}
		if s.Longest <= 0 || s.Longest >= event.ShortWait {
			t.Errorf("the longest took %v", s.Longest)
		}
	}
	return n
}

// A wait that is over at once is counted, any other told: each is one of both.
func TestShortWaitsAreCounted(t *testing.T) {
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true, Ends: true, Filter: event.Filter{States: event.SetOf(event.CloseWait)}})
	countedOrTold(t, tr, endAtOnce(t, ns))
}

func countedOrTold(t *testing.T, tr *Tracer, port uint16) {
	t.Helper()
	ends := told(t, tr)
	for _, e := range ends {
		if e.InState < event.ShortWait {
			t.Errorf("one that took %v (%v) is told", e.InState, e.InBound)
		}
	}
	if counted := short(t, tr, port); counted+len(ends) != n {
		t.Errorf("%d counted and %d told, want %d together", counted, len(ends), n)
	}
}

// The end of what a look can have found open is told, however short the wait was.
func TestWaitsOfALookAreTold(t *testing.T) {
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true, Ends: true, Filter: event.Filter{States: event.SetOf(event.CloseWait)}})
	end, err := tr.noteLook()
	if err != nil {
		t.Fatal(err)
	}
	port := endAtOnce(t, ns)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if ends, counted := told(t, tr), short(t, tr, port); len(ends) != n || counted != 0 {
		t.Errorf("%d told and %d counted, want %d told", len(ends), counted, n)
	}
	// Once the look is over they are counted again.
	countedOrTold(t, tr, endAtOnce(t, ns))
}

// What the filter keeps back is not counted either.
func TestShortWaitsElsewhere(t *testing.T) {
	ns, other := testenv.NewNetns(t), testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true, Ends: true, Filter: event.Filter{States: event.SetOf(event.CloseWait)}})
	port := endAtOnce(t, other)
	if ends, counted := told(t, tr), short(t, tr, port); len(ends) != 0 || counted != 0 {
		t.Errorf("%d told and %d counted of another namespace", len(ends), counted)
	}
}
