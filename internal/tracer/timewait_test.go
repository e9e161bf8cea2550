package tracer

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// exactTimeWait: the hooks that see mini-sockets are attached.
func exactTimeWait(tr *Tracer) bool {
	return attached(tr, factTimeWait) != "" && attached(tr, factMiniBefore) != "" && attached(tr, factMiniAfter) != ""
}

// closes: a connection is at its end.
func closes(e *event.Transition) bool { return e.New == event.Close && e.Old != event.Listen }

func toTimeWait(e *event.Transition) bool { return e.New == event.TimeWait }

// Each way to TIME_WAIT is told once, when it is reached, with the owner; each way around it is not.
func TestTimeWaitIsToldOnce(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true})
	l := listen(t, ns, "127.0.0.1:0")
	want := map[uint16]int{}
	var none []uint16
	for range n {
		waits, direct := closeLate(t, ns, l), closeAfterBoth(t, ns, l)
		want[waits], want[direct] = want[waits]+1, want[direct]+1
		none = append(none, abortInFinWait2(t, ns, l), closeWithUnread(t, ns, l))
	}
	awaitTable(t, ns, "connections are open", func(r testenv.TCPRow) bool {
		return r.State != event.TimeWait && r.State != event.Listen
	}, 0)
	all := collect(t, tr, func(got []event.Transition) bool { return count(got, toTimeWait) >= 2*n })
	got := map[uint16]int{}
	for i := range all {
		e := &all[i]
		if e.New != event.TimeWait {
			continue
		}
		got[e.Flow.Local.Port()]++
		if e.Old != event.FinWait2 || e.InBound != event.Exact || e.InState <= 0 || e.Owner.Pid != uint32(os.Getpid()) ||
			e.Direction != event.Out || e.Cookie == 0 || e.Inferred == exactTimeWait(tr) {
			t.Errorf("%+v", e)
		}
	}
	for port, times := range want {
		if got[port] != times {
			t.Errorf("port %d: %d transitions to TIME_WAIT, want %d", port, got[port], times)
		}
	}
	for _, port := range none {
		if got[port] > 0 && want[port] == 0 {
			t.Errorf("port %d is told to be in TIME_WAIT, and is closed", port)
		}
	}
}

// one makes a connection and returns its client's port.
func one(t *testing.T, ns *testenv.Netns, l net.Listener) (pair, uint16) {
	t.Helper()
	p := connect(t, ns, l, 1)[0]
	return p, uint16(p.client.LocalAddr().(*net.TCPAddr).Port)
}

func readEOF(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Fatalf("read %d bytes from nowhere", n)
	}
}

// closeLate: the client is a mini-socket in FIN_WAIT2 before the FIN comes.
func closeLate(t *testing.T, ns *testenv.Netns, l net.Listener) uint16 {
	t.Helper()
	p, port := one(t, ns, l)
	p.client.Close()
	readEOF(t, p.server)
	p.server.Close()
	return port
}

// closeAfterBoth: the FIN comes while the client is still open.
func closeAfterBoth(t *testing.T, ns *testenv.Netns, l net.Listener) uint16 {
	t.Helper()
	p, port := one(t, ns, l)
	must(t, p.client.(*net.TCPConn).CloseWrite())
	readEOF(t, p.server)
	p.server.Close()
	readEOF(t, p.client)
	p.client.Close()
	return port
}

// abortInFinWait2 sends a reset instead of waiting for the FIN.
func abortInFinWait2(t *testing.T, ns *testenv.Netns, l net.Listener) uint16 {
	t.Helper()
	p, port := one(t, ns, l)
	must(t, p.client.(*net.TCPConn).CloseWrite())
	readEOF(t, p.server)
	must(t, p.client.(*net.TCPConn).SetLinger(0))
	p.client.Close()
	readEOF(t, p.server)
	p.server.Close()
	return port
}

// closeWithUnread: data that nobody has read makes a close() in FIN_WAIT2 a reset.
func closeWithUnread(t *testing.T, ns *testenv.Netns, l net.Listener) uint16 {
	t.Helper()
	p, port := one(t, ns, l)
	must(t, p.client.(*net.TCPConn).CloseWrite())
	readEOF(t, p.server)
	_, err := p.server.Write([]byte("late"))
	must(t, err)
	awaitUnread(t, p.client)
	p.client.Close()
	readEOF(t, p.server)
	p.server.Close()
	return port
}

// awaitUnread waits until there is something to read, and leaves it there.
func awaitUnread(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	must(t, err)
	var peeked error
	must(t, raw.Read(func(fd uintptr) bool {
		_, _, peeked = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return peeked != unix.EAGAIN
	}))
	must(t, peeked)
}

// A mini-socket in FIN_WAIT2 is no TIME_WAIT: only one whose peer closes becomes it, be it older
// than the tracer or not.
func TestFinWait2IsNoTimeWait(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	l := listen(t, ns, "127.0.0.1:0")
	older, _ := one(t, ns, l)
	older.client.Close()
	awaitTable(t, ns, "mini-sockets in FIN_WAIT2", func(r testenv.TCPRow) bool {
		return r.State == event.FinWait2 && r.Inode == 0
	}, 1)
	tr := openIn(t, ns, Config{Live: true})
	if !exactTimeWait(tr) {
		testenv.Skip(t, "mini-socket hooks", "fentry and fexit are refused here")
	}
	var pairs []pair
	ports := map[uint16]int{}
	for i := range 2 * n {
		p, port := one(t, ns, l)
		p.client.Close()
		readEOF(t, p.server)
		if i%2 == 0 {
			// Dies of the reset.
			must(t, p.server.(*net.TCPConn).SetLinger(0))
			p.server.Close()
			continue
		}
		pairs, ports[port] = append(pairs, p), 0
	}
	// All clients, and of the servers those that reset.
	before := collect(t, tr, func(got []event.Transition) bool { return count(got, closes) >= 3*n })
	if told := count(before, toTimeWait); told != 0 {
		t.Errorf("%d in FIN_WAIT2 are told to be in TIME_WAIT", told)
	}
	for _, p := range append(pairs, older) {
		p.server.Close()
	}
	for _, e := range collect(t, tr, func(got []event.Transition) bool { return count(got, toTimeWait) > n }) {
		if e.New != event.TimeWait {
			continue
		}
		if port := e.Flow.Local.Port(); ports[port] == 0 && e.Owner.Pid != 0 {
			ports[port]++
		} else if e.Owner.Pid != 0 || e.InBound != event.BoundUnknown || e.Flow.Remote != addrPort(l) {
			t.Errorf("%+v", e)
		}
	}
	for port, times := range ports {
		if times != 1 {
			t.Errorf("port %d: %d times in TIME_WAIT, want 1", port, times)
		}
	}
	if snap := snapshot(t, tr, event.TimeWait); len(snap.Sockets) != n+1 {
		t.Errorf("%d in TIME_WAIT, want %d", len(snap.Sockets), n+1)
	}
}

// awaitTable waits until just want rows of the kernel's table are ok.
func awaitTable(t *testing.T, ns *testenv.Netns, what string, ok func(testenv.TCPRow) bool, want int) {
	t.Helper()
	found := -1
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(time.Millisecond) {
		found = 0
		for _, row := range testenv.TCPTable(t, ns.Path) {
			if ok(row) {
				found++
			}
		}
		if found == want {
			return
		}
	}
	t.Fatalf("%d %s, want %d", found, what, want)
}

// Where there is no room for a mini-socket none is told.
func TestTimeWaitOverflow(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	must(t, ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_max_tw_buckets", []byte("0"), 0) }))
	tr := openIn(t, ns, Config{Live: true})
	if !exactTimeWait(tr) {
		testenv.Skip(t, "mini-socket hooks", "fentry and fexit are refused here")
	}
	churn(t, ns, listen(t, ns, "127.0.0.1:0"), n)
	all := collect(t, tr, func(got []event.Transition) bool {
		return count(got, func(e *event.Transition) bool { return e.New == event.Close }) >= 2*n
	})
	told, made := count(all, toTimeWait), len(snapshot(t, tr, event.TimeWait, event.FinWait2).Sockets)
	if told != made || told == n {
		t.Errorf("%d told, %d made of %d", told, made, n)
	}
}

func addrPort(l net.Listener) netip.AddrPort { return l.Addr().(*net.TCPAddr).AddrPort() }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
