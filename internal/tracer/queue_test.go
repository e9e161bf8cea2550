package tracer

import (
	"errors"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// listenWith makes a listener inside ns with socket options that Go does not offer.
func listenWith(t *testing.T, ns *testenv.Netns, addr string, mptcp bool, options ...int) net.Listener {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var errs []error
		err := c.Control(func(fd uintptr) {
			for _, option := range options {
				errs = append(errs, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, 1))
			}
		})
		return errors.Join(append(errs, err)...)
	}}
	lc.SetMultipathTCP(mptcp)
	var l net.Listener
	err := ns.Do(func() (err error) {
		l, err = lc.Listen(t.Context(), "tcp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// inodeOf is what the kernel calls the listener's socket.
func inodeOf(t *testing.T, l net.Listener) uint64 {
	t.Helper()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	var statErr error
	if err := raw.Control(func(fd uintptr) { statErr = unix.Fstat(int(fd), &st) }); err != nil || statErr != nil {
		t.Fatal(err, statErr)
	}
	return st.Ino
}

// dialOnly makes connections that nobody accepts, and returns their ports. Its end of a connection
// is there a moment before the other one.
func dialOnly(t *testing.T, ns *testenv.Netns, addr string, count int) []uint16 {
	t.Helper()
	var ports []uint16
	for range count {
		if err := ns.Do(func() error {
			d := net.Dialer{}
			d.SetMultipathTCP(false)
			c, err := d.Dial("tcp", addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			ports = append(ports, localPort(c))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	awaitTable(t, ns, "are in the middle of their birth", func(r testenv.TCPRow) bool { return r.State == event.SynRecv }, 0)
	return ports
}

// listeners gives for each port of a client the listener in whose queue its peer is, by
// the cookie that the listener's holder has.
func listeners(t *testing.T, tr *Tracer, list ...net.Listener) map[uint16]int {
	t.Helper()
	snap := snapshot(t, tr, event.Established, event.CloseWait)
	cookies := map[event.Cookie]int{}
	for i, l := range list {
		inode := inodeOf(t, l)
		for _, h := range snap.Holders {
			if h.Accepts().Inode == inode && h.Pid == uint32(os.Getpid()) {
				cookies[h.Cookie] = i
			}
		}
	}
	if len(cookies) != len(list) {
		t.Fatalf("%d listeners are held, want %d: %+v", len(cookies), len(list), snap.Holders)
	}
	found := map[uint16]int{}
	for i := range snap.Sockets {
		s := &snap.Sockets[i]
		if s.Listener == 0 {
			continue
		}
		which, ok := cookies[s.Listener]
		if !ok || s.Inode != 0 {
			t.Errorf("socket %+v is in the queue of nobody", s)
		}
		found[s.Flow.Remote.Port()] = which
	}
	return found
}

func TestListenerOfTheUnaccepted(t *testing.T) {
	for name, mptcp := range map[string]bool{"tcp": false, "mptcp": true} {
		for mode, cfg := range map[string]Config{"once": {}, "live": {Live: true}} {
			t.Run(name+" "+mode, func(t *testing.T) {
				ns := testenv.NewNetns(t)
				l, other := listenWith(t, ns, "127.0.0.1:0", mptcp), listen(t, ns, "127.0.0.1:0")
				tr := openIn(t, ns, cfg)
				ports := dialOnly(t, ns, l.Addr().String(), n)
				elsewhere := dialOnly(t, ns, other.Addr().String(), 1)
				c, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				// Not always the first of them: two processors can bring ACKs into the queue out of order.
				accepted := uint16(c.RemoteAddr().(*net.TCPAddr).Port)
				found := listeners(t, tr, l, other)
				if len(found) != n || found[elsewhere[0]] != 1 {
					t.Errorf("%d sockets have a listener, want %d: %v", len(found), n, found)
				}
				for _, port := range ports {
					which, ok := found[port]
					switch {
					case port == accepted && ok:
						t.Error("an accepted socket has a listener")
					case port != accepted && (!ok || which != 0):
						t.Errorf("port %d: listener %d, %v", port, which, ok)
					}
				}
				if !slices.Contains(ports, accepted) {
					t.Errorf("accepted port %d of %v", accepted, ports)
				}
			})
		}
	}
}

// Of several listeners on one port the one that will get the connection is named: truth is
// what accept() returns. When one closes, its connections go to another.
func TestListenerOfAGroup(t *testing.T) {
	ns := testenv.NewNetns(t)
	if err := ns.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/tcp_migrate_req", []byte("1"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	tr := openIn(t, ns, Config{})
	list := []net.Listener{listenWith(t, ns, "127.0.0.1:0", false, unix.SO_REUSEPORT)}
	for range 2 {
		list = append(list, listenWith(t, ns, list[0].Addr().String(), false, unix.SO_REUSEPORT))
	}
	ports := dialOnly(t, ns, list[0].Addr().String(), 5*n)
	if err := list[0].Close(); err != nil {
		t.Fatal(err)
	}
	list = list[1:]
	found := listeners(t, tr, list...)
	if len(found) != len(ports) {
		t.Errorf("%d sockets have a listener, want %d", len(found), len(ports))
	}
	queues := map[int]int{}
	for _, which := range found {
		queues[which]++
	}
	if queues[0] == 0 || queues[1] == 0 {
		t.Errorf("all in one queue: %v", queues)
	}
	for i, l := range list {
		for range queues[i] {
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			port := uint16(c.RemoteAddr().(*net.TCPAddr).Port)
			if which, ok := found[port]; !ok || which != i {
				t.Errorf("port %d was in the queue of %d (%v), said %d", port, i, ok, which)
			}
		}
	}
	if found := listeners(t, tr, list...); len(found) != 0 {
		t.Errorf("after accept(): %v", found)
	}
}

// As long a queue as the kernel's default allows, and longer.
func TestLongQueue(t *testing.T) {
	const many = 4801
	ns := testenv.NewNetns(t)
	var fd int
	var addr unix.Sockaddr
	if err := ns.Do(func() (err error) {
		if err := os.WriteFile("/proc/sys/net/core/somaxconn", []byte("65535"), 0); err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		if addr, err = unix.Getsockname(fd); err != nil {
			return err
		}
		if err := unix.Listen(fd, many); err != nil {
			return err
		}
		for range many {
			if err := connectAndClose(addr); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	awaitTable(t, ns, "are told of the end", func(r testenv.TCPRow) bool { return r.State == event.CloseWait }, many)
	tr := openIn(t, ns, Config{})
	snap := snapshot(t, tr, event.CloseWait)
	found := count(snap.Sockets, func(s *event.Socket) bool { return s.Listener != 0 && s.Listener == snap.Sockets[0].Listener })
	if found != many {
		t.Errorf("%d of %d have the listener", found, many)
	}
	var left int
	var child, listener uint64
	for it := tr.maps.Maps["queued"].Iterate(); it.Next(&child, &listener); {
		left++
	}
	if left != 0 {
		t.Errorf("%d addresses are kept", left)
	}
}

func connectAndClose(addr unix.Sockaddr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, addr)
}
