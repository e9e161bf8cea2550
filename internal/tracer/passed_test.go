package tracer

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// unixPair is two connected unix sockets; what is sent by one waits in the other.
func unixPair(t *testing.T, kind int) (from, to int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return fds[0], fds[1]
}

func pass(t *testing.T, over int, fds ...int) {
	t.Helper()
	if err := unix.Sendmsg(over, []byte{0}, unix.UnixRights(fds...), nil, 0); err != nil {
		t.Fatal(err)
	}
}

// waiting is one connection whose server end, f, is in CLOSE_WAIT.
func waiting(t *testing.T, ns *testenv.Netns) (f *os.File, port uint16) {
	t.Helper()
	p := connect(t, ns, listen(t, ns, "127.0.0.1:0"), 1)[0]
	f = fileOf(t, p.server.(interface{ File() (*os.File, error) }))
	p.server.Close()
	port = localPort(p.client)
	p.client.Close()
	awaitCloseWait(t, ns, port)
	return f, port
}

var unixKinds = map[string]int{"stream": unix.SOCK_STREAM, "datagrams": unix.SOCK_DGRAM, "packets": unix.SOCK_SEQPACKET}

func TestPassed(t *testing.T) {
	for name, kind := range unixKinds {
		t.Run(name, func(t *testing.T) {
			ns := testenv.NewNetns(t)
			tr := openIn(t, ns, Config{})
			f, port := waiting(t, ns)
			from, to := unixPair(t, kind)
			for range 5 {
				if _, err := unix.Write(from, []byte("without")); err != nil {
					t.Fatal(err)
				}
			}
			other, _ := waiting(t, ns)
			pass(t, from, int(other.Fd()), int(f.Fd()))
			f.Close()

			snap := snapshot(t, tr, event.CloseWait)
			s := socketTo(t, snap, port)
			var found int
			for _, p := range snap.Passed {
				if p.Cookie != s.Cookie {
					continue
				}
				found++
				if p.Inode != s.Inode || p.Receiver.Pid != uint32(os.Getpid()) || p.Receiver.Start == 0 || p.FD != int32(to) || p.Sender != 0 {
					t.Errorf("%+v; want socket %d of descriptor %d", p, s.Inode, to)
				}
			}
			if found != 1 || len(snap.Passed) != 2 || snap.PassedCut {
				t.Errorf("found %d times: %+v, cut %v", found, snap.Passed, snap.PassedCut)
			}
			if got := snapshot(t, tr, event.Established).Passed; len(got) != 0 {
				t.Errorf("in another state: %+v", got)
			}
			receive(t, to)
			if got := snapshot(t, tr, event.CloseWait).Passed; len(got) != 0 {
				t.Errorf("after it was received: %+v", got)
			}
		})
	}
}

// receive takes messages until descriptors have come.
func receive(t *testing.T, from int) {
	t.Helper()
	for {
		var data [7]byte
		oob := make([]byte, unix.CmsgSpace(4*253))
		_, n, _, _, err := unix.Recvmsg(from, data[:], oob, 0)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			continue
		}
		all, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil {
			t.Fatal(err)
		}
		fds, err := unix.ParseUnixRights(&all[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			t.Cleanup(func() { unix.Close(fd) })
		}
		return
	}
}

// Whoever can receive the message is named, once; with credentials its sender as well.
func TestPassedToSeveral(t *testing.T) {
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true})
	f, port := waiting(t, ns)
	from, to := unixPair(t, unix.SOCK_STREAM)
	if err := unix.SetsockoptInt(to, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		t.Fatal(err)
	}
	second, err := unix.Dup(to)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(second), "unix")
	t.Cleanup(func() { file.Close() })
	c := startChild(t, file)
	pass(t, from, int(f.Fd()))
	f.Close()
	snap := snapshot(t, tr, event.CloseWait)
	s := socketTo(t, snap, port)
	fds := map[uint32]int32{}
	for _, p := range snap.Passed {
		fds[p.Receiver.Pid] = p.FD
		if p.Cookie != s.Cookie || p.Sender != uint32(os.Getpid()) {
			t.Errorf("%+v, want cookie %d, sender %d", p, s.Cookie, os.Getpid())
		}
	}
	if len(snap.Passed) != 2 || fds[uint32(os.Getpid())] != int32(min(to, second)) || fds[c.pid] != 3 {
		t.Errorf("%+v, want descriptor %d here and 3 in %d", snap.Passed, to, c.pid)
	}
}

// A connection nobody has accepted has a queue, too: the listener's process gets it.
func TestPassedToAListener(t *testing.T) {
	for _, name := range []string{"stream", "packets"} {
		t.Run(name, func(t *testing.T) {
			ns := testenv.NewNetns(t)
			tr := openIn(t, ns, Config{})
			addr := &unix.SockaddrUnix{Name: "@" + ns.Name}
			l := unixSocket(t, unixKinds[name])
			if err := unix.Bind(l, addr); err != nil {
				t.Fatal(err)
			}
			if err := unix.Listen(l, n); err != nil {
				t.Fatal(err)
			}
			want := map[uint64]bool{}
			for range 3 {
				c := unixSocket(t, unixKinds[name])
				if err := unix.Connect(c, addr); err != nil {
					t.Fatal(err)
				}
				f, port := waiting(t, ns)
				want[socketTo(t, snapshot(t, tr, event.CloseWait), port).Inode] = true
				pass(t, c, int(f.Fd()))
				f.Close()
			}
			snap := snapshot(t, tr, event.CloseWait)
			for _, p := range snap.Passed {
				if !want[p.Inode] || p.FD != int32(l) || p.Receiver.Pid != uint32(os.Getpid()) || p.Cookie == 0 {
					t.Errorf("%+v, want descriptor %d", p, l)
				}
				delete(want, p.Inode)
			}
			if len(want) != 0 || snap.PassedCut {
				t.Errorf("not found: %v in %+v", want, snap.Passed)
			}
		})
	}
}

func unixSocket(t *testing.T, kind int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// Messages that come and go while they are read lead to nobody else.
func TestPassedUnderChurn(t *testing.T) {
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{})
	f, port := waiting(t, ns)
	from, to := unixPair(t, unix.SOCK_STREAM)
	pass(t, from, int(f.Fd()))
	second, err := unix.Dup(to)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(second), "unix")
	c := startChild(t, file)
	file.Close()
	f.Close()
	established := fileOf(t, connect(t, ns, listen(t, ns, "127.0.0.1:0"), 1)[0].server.(interface{ File() (*os.File, error) }))
	stop := make(chan struct{})
	done := make(chan error)
	busy, far := unixPair(t, unix.SOCK_SEQPACKET)
	go func() { done <- churnMessages(busy, far, int(established.Fd()), stop) }()
	for range n {
		snap := snapshot(t, tr, event.CloseWait)
		s := socketTo(t, snap, port)
		receivers := map[uint32]bool{}
		for _, p := range snap.Passed {
			receivers[p.Receiver.Pid] = true
			if p.Inode != s.Inode || p.Cookie != s.Cookie {
				t.Errorf("%+v is not socket %d", p, s.Inode)
			}
		}
		if len(snap.Passed) != 2 || !receivers[c.pid] || !receivers[uint32(os.Getpid())] {
			t.Errorf("%+v, want socket %d twice", snap.Passed, s.Inode)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// churnMessages sends and receives messages, some with descriptors, a few at a time.
func churnMessages(from, to, fd int, stop <-chan struct{}) error {
	rights := unix.UnixRights(fd)
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		for k := range 1 + i%5 {
			oob := rights
			if k%2 == 0 {
				oob = nil
			}
			if err := unix.Sendmsg(from, []byte{0}, oob, nil, 0); err != nil {
				return err
			}
		}
		for range 1 + i%5 {
			// Without room for it the kernel closes the descriptor.
			if _, err := unix.Read(to, make([]byte, 1)); err != nil {
				return err
			}
		}
	}
}

// More than is looked through is said to be more.
func TestPassedIsBounded(t *testing.T) {
	const most = 253
	for times, want := range map[int]int{1: most, 3: 400} {
		ns := testenv.NewNetns(t)
		tr := openIn(t, ns, Config{})
		f, _ := waiting(t, ns)
		from, _ := unixPair(t, unix.SOCK_STREAM)
		fds := make([]int, most)
		for i := range fds {
			fds[i] = int(f.Fd())
		}
		for range times {
			pass(t, from, fds...)
		}
		snap := snapshot(t, tr, event.CloseWait)
		if len(snap.Passed) != want || snap.PassedCut != (times > 1) {
			t.Errorf("%d references, cut %v; want %d", len(snap.Passed), snap.PassedCut, want)
		}
	}
}
