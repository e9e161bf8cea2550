package tracer

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// ends are both ends of connections that this process holds.
type ends struct {
	listener         net.Listener
	clients, servers []*net.TCPConn
}

func hold(t *testing.T, ns *testenv.Netns, n int) *ends {
	t.Helper()
	c := &ends{}
	t.Cleanup(func() {
		for _, conn := range append(c.clients, c.servers...) {
			_ = conn.Close()
		}
	})
	err := ns.Do(func() error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		c.listener = l
		t.Cleanup(func() { l.Close() })
		for range n {
			client, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			c.clients = append(c.clients, client.(*net.TCPConn))
			server, err := l.Accept()
			if err != nil {
				return err
			}
			c.servers = append(c.servers, server.(*net.TCPConn))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func closeAll(t *testing.T, conns []*net.TCPConn) {
	t.Helper()
	for _, c := range conns {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// youngIn counts the records of ns among those of young sockets. None is held by anybody.
func youngIn(t *testing.T, tr *Tracer, ns *testenv.Netns) int {
	t.Helper()
	var place uint32
	var y bpfYoung
	n := 0
	it := tr.maps.Maps["youngs"].Iterate()
	for it.Next(&place, &y) {
		// The record of a free place is what it was.
		if y.Name == 0 || y.Rec.Flow.Netns != ns.Inode {
			continue
		}
		n++
		if held := y.Name & 0xffff; held != 0 {
			t.Errorf("place %d is held %d times", place, held)
		}
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// noneYoung waits until the last record has left.
func noneYoung(t *testing.T, tr *Tracer, ns *testenv.Netns) {
	t.Helper()
	end := time.Now().Add(patience)
	for youngIn(t, tr, ns) > 0 {
		if time.Now().After(end) {
			t.Fatalf("%d records of closed sockets are still there", youngIn(t, tr, ns))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Every place is free again when its socket is gone, whoever ended it.
func TestYoungRecordsLeave(t *testing.T) {
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true, Users: true})
	c := hold(t, ns, n)
	if got := youngIn(t, tr, ns); got < n {
		t.Errorf("%d records of young sockets with %d connections", got, n)
	}
	for i := range c.clients {
		if _, err := c.clients[i].Write([]byte("request")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.servers[i].Read(make([]byte, 64)); err != nil {
			t.Fatal(err)
		}
	}
	closeAll(t, c.servers[:n/2])
	closeAll(t, c.clients)
	closeAll(t, c.servers[n/2:])
	noneYoung(t, tr, ns)
	s, err := tr.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.RecordFailed != 0 {
		t.Errorf("%d records could not be made", s.RecordFailed)
	}
}

// A socket that is still held when its connection has been reset keeps what is known of it.
func TestResetSocketsKeepTheirRecord(t *testing.T) {
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true})
	c := hold(t, ns, n)
	for _, s := range c.servers {
		if err := s.SetLinger(0); err != nil {
			t.Fatal(err)
		}
	}
	closeAll(t, c.servers)
	collect(t, tr, func(got []event.Transition) bool {
		return count(got, func(e *event.Transition) bool { return e.New == event.Close && e.Direction == event.Out }) >= n
	})
	noneYoung(t, tr, ns)
	snap, err := tr.Snapshot(t.Context(), SnapshotOptions{States: event.SetOf(event.Close), Holders: true})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for i := range snap.Sockets {
		s := &snap.Sockets[i]
		if s.Owner.Pid != uint32(os.Getpid()) || s.Evidence != event.EvidenceConnect || s.Bound != event.Exact {
			t.Errorf("socket %d: owner %d (%v), since %v (%v)", s.Cookie, s.Owner.Pid, s.Evidence, s.Since, s.Bound)
		}
		found++
	}
	if found != n {
		t.Errorf("%d closed sockets found, want %d", found, n)
	}
}

// With more sockets than places nothing is known less well of those that found theirs taken.
func TestMoreSocketsThanPlaces(t *testing.T) {
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true})
	many := int(tr.maps.Maps["youngs"].MaxEntries())/2 + 7*n
	c := hold(t, ns, many)
	young := youngIn(t, tr, ns)
	if young < many/2 || young >= 2*many {
		t.Errorf("%d of %d records are of young sockets", young, 2*many)
	}
	closeAll(t, c.servers)
	collect(t, tr, func(got []event.Transition) bool { return count(got, entersCloseWait) >= many })
	awaitTable(t, ns, "mini-sockets have taken the servers' places", func(r testenv.TCPRow) bool {
		return r.State == event.FinWait2 && r.Inode == 0
	}, many)
	found := waits(t, tr).Sockets
	for i := range found {
		s := &found[i]
		if s.Owner.Pid != uint32(os.Getpid()) || s.Evidence != event.EvidenceConnect || s.Bound != event.Exact {
			t.Fatalf("socket %d: owner %d (%v), since %v (%v)", s.Cookie, s.Owner.Pid, s.Evidence, s.Since, s.Bound)
		}
	}
	if len(found) != many {
		t.Errorf("%d waits found, want %d", len(found), many)
	}
	closeAll(t, c.clients)
	for _, e := range collect(t, tr, func(got []event.Transition) bool { return count(got, leavesCloseWait) >= many }) {
		if leavesCloseWait(&e) && (e.InBound != event.Exact || e.Owner.Pid != uint32(os.Getpid())) {
			t.Fatalf("%v: lasted %v (%v), owner %d", e, e.InState, e.InBound, e.Owner.Pid)
		}
	}
	noneYoung(t, tr, ns)
}
