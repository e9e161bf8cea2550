package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// Each sentence of advice, and each cure that is none: the situation is made, the advice is
// followed, and the difference is counted. internal/ports names these tests.

// room is how many ports there are, twice a prime: of an odd number Linux can leave one unused.
const (
	lowPort, highPort = 40001, 40226
	room              = highPort - lowPort + 1
)

// plenty is more than room: a loop that gets there does not run out of ports.
const plenty = 3 * room

// outside is an address that is not a loopback one, on a loopback interface.
var loopback, second, outside = netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("192.0.2.1")

// narrow is a namespace with few ports, where nothing is taken over from TIME_WAIT.
type narrow struct {
	*testenv.Netns
	t        *testing.T
	lastPort uint16
}

func newNarrow(t *testing.T) *narrow {
	t.Helper()
	built(t)
	w := &narrow{Netns: testNetns(t), t: t, lastPort: 8000}
	w.set("ip_local_port_range", fmt.Sprint(lowPort, " ", highPort))
	w.set("tcp_tw_reuse", "0")
	// Else a reset ends some of the TIME_WAIT: on several processors an ACK of the client can come
	// when the server's socket is gone already (RFC 1337).
	w.set("tcp_rfc1337", "1")
	return w
}

func (w *narrow) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *narrow) set(name, value string) {
	w.t.Helper()
	w.must(w.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0) }))
}

func (w *narrow) get(name string) string {
	w.t.Helper()
	var text []byte
	w.must(w.Do(func() (err error) { text, err = os.ReadFile("/proc/sys/net/ipv4/" + name); return err }))
	return strings.TrimSpace(string(text))
}

// server has accepted connections at an address and port.
type server struct {
	netip.AddrPort
	mu   sync.Mutex
	held []net.Conn
}

// serve accepts at a port of its own and hands each connection to talk.
func (w *narrow) serve(addr netip.Addr, talk func(*server, net.Conn)) *server {
	w.t.Helper()
	w.lastPort++
	s := &server{AddrPort: netip.AddrPortFrom(addr, w.lastPort)}
	var l net.Listener
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	w.must(w.Do(func() (err error) { l, err = plain.Listen(context.Background(), "tcp", s.String()); return err }))
	w.t.Cleanup(func() { _ = l.Close(); s.release() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			talk(s, c)
		}
	}()
	return s
}

// What servers do.

// closesSecond reads to the end and closes; meanwhile it answers each byte.
func closesSecond(_ *server, c net.Conn) {
	go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
}

func closesFirst(_ *server, c net.Conn) { _ = c.Close() }

// saysEOF ends its own direction and keeps the connection.
func saysEOF(s *server, c net.Conn) { _ = c.(*net.TCPConn).CloseWrite(); holds(s, c) }

func holds(s *server, c net.Conn) {
	s.mu.Lock()
	s.held = append(s.held, c)
	s.mu.Unlock()
}

func (s *server) holding() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

func (s *server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.held {
		_ = c.Close()
	}
	s.held = nil
}

// from is how a client gets its local address: bind() is called if it is set.
type from struct {
	addr netip.Addr
	// noPort: IP_BIND_ADDRESS_NO_PORT.
	noPort bool
}

// connect runs in the namespace. Go's own Dial would try again when there is no port.
func connect(by from, to netip.AddrPort) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, err
	}
	if by.noPort {
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}
	if by.addr.IsValid() && err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: by.addr.As4()})
	}
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	}
	if err != nil {
		_ = unix.Close(fd)
	}
	return fd, err
}

// churn connects up to limit times and counts how often it got a port.
func (w *narrow) churn(limit int, by from, to *server, then func(fd int) error) int {
	w.t.Helper()
	got := 0
	err := w.Do(func() error {
		for ; got < limit; got++ {
			fd, err := connect(by, to.AddrPort)
			if err == nil {
				err = then(fd)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	// bind() says EADDRINUSE.
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.EADDRINUSE) {
		w.t.Fatalf("connect %d to %s: %v", got, to, err)
	}
	return got
}

// What clients do.

// hangUpFirst is what the advice is against.
func hangUpFirst(fd int) error { return unix.Close(fd) }

// hangUpSecond waits for the other end to.
func hangUpSecond(fd int) error {
	if err := awaitEOF(fd); err != nil {
		return err
	}
	return unix.Close(fd)
}

func awaitEOF(fd int) error {
	switch k, err := unix.Read(fd, make([]byte, 1)); {
	case err != nil:
		return err
	case k > 0:
		return errors.New("data where the end should be")
	default:
		return nil
	}
}

// keep leaves the connections open until the test ends.
func (w *narrow) keep(fd int) error {
	w.t.Cleanup(func() { _ = unix.Close(fd) })
	return nil
}

// tcpRow is a line of /proc/net/tcp: left is what is left of its timer, in clock ticks.
type tcpRow struct {
	lport, rport uint16
	state        event.State
	left         int64
}

// rows are the namespace's sockets.
func (w *narrow) rows() []tcpRow {
	w.t.Helper()
	var text []byte
	w.must(w.Do(func() (err error) { text, err = os.ReadFile("/proc/thread-self/net/tcp"); return err }))
	var rows []tcpRow
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if i == 0 {
			continue // headings
		}
		f := strings.Fields(line)
		hex := func(s string) int64 {
			n, err := strconv.ParseInt(s[strings.LastIndexByte(s, ':')+1:], 16, 64)
			w.must(err)
			return n
		}
		rows = append(rows, tcpRow{uint16(hex(f[1])), uint16(hex(f[2])), event.State(hex(f[3])), hex(f[5])})
	}
	return rows
}

// clients are the client's sockets of a server in a state, servers those at the other end.
func (w *narrow) clients(s *server, state event.State) (found []tcpRow) {
	w.t.Helper()
	for _, r := range w.rows() {
		if r.rport == s.Port() && r.state == state {
			found = append(found, r)
		}
	}
	return found
}

func (w *narrow) servers(s *server, state event.State) (found []tcpRow) {
	w.t.Helper()
	for _, r := range w.rows() {
		if r.lport == s.Port() && r.state == state {
			found = append(found, r)
		}
	}
	return found
}

func (w *narrow) awaitClients(s *server, state event.State, want int) {
	w.t.Helper()
	waitFor(w.t, func() string {
		if got := len(w.clients(s, state)); got != want {
			return fmt.Sprintf("%d of the clients in %v, want %d", got, state, want)
		}
		return ""
	})
}

func (w *narrow) awaitServers(s *server, state event.State, want int) {
	w.t.Helper()
	waitFor(w.t, func() string {
		if got := len(w.servers(s, state)); got != want {
			return fmt.Sprintf("%d of the servers in %v, want %d", got, state, want)
		}
		return ""
	})
}

// awaitAge waits until each TIME_WAIT of the server's clients is older than a new one may be
// taken over.
func (w *narrow) awaitAge(s *server) {
	w.t.Helper()
	const ticks, age = 100, 2
	waitFor(w.t, func() string {
		for _, r := range w.clients(s, event.TimeWait) {
			if r.left > (60-age)*ticks {
				return fmt.Sprintf("a TIME_WAIT has %d ticks left", r.left)
			}
		}
		return ""
	})
}

func (w *narrow) wantCount(what string, got, want int) {
	w.t.Helper()
	if got != want {
		w.t.Fatalf("%s: %d, want %d", what, got, want)
	}
}

// exhaust churns until there is no port left, all of them in TIME_WAIT.
func (w *narrow) exhaust(s *server) {
	w.t.Helper()
	w.wantCount("ports until none is left", w.churn(plenty, from{}, s, hangUpFirst), room)
	w.awaitClients(s, event.TimeWait, room)
	w.wantCount("ports when none is left", w.churn(1, from{}, s, hangUpFirst), 0)
}

// advised fails unless timewait says so, now.
func (w *narrow) advised(want ...string) {
	w.t.Helper()
	r := run(w.t, "timewait", "--for", "0", "-o", "json", "--netns", inode(w.Netns)).want(w.t, 0)
	w.says(r, want...)
}

// says fails unless the advice is three sentences at most that contain want, in that order.
func (w *narrow) says(r result, want ...string) {
	w.t.Helper()
	got := decode[struct{ Advice []string }](w.t, r.stdout).Advice
	rest := strings.Join(got, "\n")
	for _, text := range want {
		_, after, found := strings.Cut(rest, text)
		if !found || len(got) > 3 {
			w.t.Errorf("advice %q, want %q", got, want)
			return
		}
		rest = after
	}
}

// counter is one of TcpExt in /proc/net/netstat.
func (w *narrow) counter(name string) int {
	w.t.Helper()
	var text []byte
	w.must(w.Do(func() (err error) { text, err = os.ReadFile("/proc/thread-self/net/netstat"); return err }))
	var names []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != "TcpExt:" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		for i, value := range f {
			if names[i] == name {
				n, err := strconv.Atoi(value)
				w.must(err)
				return n
			}
		}
	}
	w.t.Fatalf("no counter %s", name)
	return 0
}

// addOutside gives lo an address that is not a loopback one.
func (w *narrow) addOutside() {
	w.t.Helper()
	w.must(w.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		ifr, err := unix.NewIfreq("lo:1")
		if err != nil {
			return err
		}
		if err := ifr.SetInet4Addr(outside.AsSlice()); err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, ifr)
	}))
}

func TestAdviceKeepConnections(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	bad, good := w.serve(loopback, closesSecond), w.serve(loopback, closesSecond)
	w.exhaust(bad)
	w.advised("keep connections", "What does not help: tcp_fin_timeout", "SO_LINGER 0")

	// As many requests and more, over one connection.
	var fd int
	w.wantCount("ports of one connection", w.churn(1, from{}, good, func(got int) error { fd = got; return w.keep(got) }), 1)
	for range plenty {
		b := []byte{1}
		_, err := unix.Write(fd, b)
		w.must(err)
		_, err = unix.Read(fd, b)
		w.must(err)
	}
	w.wantCount("connections", len(w.clients(good, event.Established)), 1)
	w.wantCount("TIME_WAIT", len(w.clients(good, event.TimeWait)), 0)
}

// Where the server closes first the client's ports are free at once, and the server's
// TIME_WAIT do no harm: they stand in nobody's way.
func TestAdviceOtherEndClosesFirst(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	bad, good := w.serve(loopback, closesSecond), w.serve(loopback, closesFirst)
	w.exhaust(bad)
	w.advised("let the other end close first")
	w.wantCount("ports where the server closes first", w.churn(plenty, from{}, good, hangUpSecond), plenty)
	w.wantCount("TIME_WAIT of the client", len(w.clients(good, event.TimeWait)), 0)
	if got := len(w.servers(good, event.TimeWait)); got == 0 {
		t.Error("no TIME_WAIT at the server, which closed first")
	}
}

func TestHarmlessWhereAccepted(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	good := w.serve(loopback, closesFirst)
	w.wantCount("ports", w.churn(plenty, from{}, good, hangUpSecond), plenty)
	w.awaitClients(good, event.LastAck, 0) // until then the last server is in FIN_WAIT2
	at := len(w.servers(good, event.TimeWait))
	w.advised("Nothing is wrong here", "there is nothing to tune", fmt.Sprint(at, " TIME_WAIT stand at the end that accepted"))
	// tcp_tw_reuse does not concern them.
	w.set("tcp_tw_reuse", "1")
	w.wantCount("TIME_WAIT of the server with tcp_tw_reuse", len(w.servers(good, event.TimeWait)), at)
}

func TestNothingWrong(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	w.churn(n, from{}, w.serve(loopback, holds), w.keep)
	w.advised("Nothing is wrong here", "there is nothing to tune")
}

func TestAdviceReuse(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	w.addOutside()
	s := w.serve(outside, closesSecond)
	w.exhaust(s)
	w.advised("net.ipv4.tcp_tw_reuse=1")
	w.awaitAge(s)
	w.wantCount("ports without tcp_tw_reuse", w.churn(1, from{}, s, hangUpFirst), 0)
	w.set("tcp_tw_reuse", "1")
	w.wantCount("ports with tcp_tw_reuse", w.churn(room, from{}, s, hangUpFirst), room)

	// Without timestamps it does nothing.
	w.set("tcp_timestamps", "0")
	bare := w.serve(outside, closesSecond)
	w.exhaust(bare)
	w.advised("net.ipv4.tcp_timestamps is 0")
	w.awaitAge(bare)
	w.wantCount("ports without timestamps", w.churn(1, from{}, bare, hangUpFirst), 0)
}

// The default, 2, is for loopback addresses alone.
func TestReuseOfLoopbackOnly(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	w.addOutside()
	near, far := w.serve(loopback, closesSecond), w.serve(outside, closesSecond)
	w.exhaust(near)
	w.exhaust(far)
	w.awaitAge(near)
	w.awaitAge(far)
	w.set("tcp_tw_reuse", "2")
	w.wantCount("ports to a loopback address", w.churn(room, from{}, near, hangUpFirst), room)
	w.wantCount("ports to another address", w.churn(1, from{}, far, hangUpFirst), 0)
}

func TestAdviceWiderRange(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	s := w.serve(loopback, holds)
	w.wantCount("ports", w.churn(plenty, from{}, s, w.keep), room)
	w.advised(fmt.Sprintf("gives %d ports, \"1024 65535\" gives 64512", room))
	w.set("ip_local_port_range", fmt.Sprint(lowPort, " ", highPort+room))
	w.wantCount("ports more in a range twice as large", w.churn(plenty, from{}, s, w.keep), room)
}

// Ports that a server may want to listen on later are named in ip_local_reserved_ports.
func TestReservedPortsAreNotChosen(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	w.set("ip_local_reserved_ports", fmt.Sprintf("%d-%d", lowPort, lowPort+n-1))
	s := w.serve(loopback, holds)
	w.wantCount("ports without those reserved", w.churn(plenty, from{}, s, w.keep), room-n)
	for _, r := range w.clients(s, event.Established) {
		if r.lport < lowPort+n {
			t.Errorf("port %d was chosen", r.lport)
		}
	}
}

func TestAdviceMoreAddresses(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	// The range cannot be made wider, yet there are no more ports than before.
	w.set("ip_local_port_range", "1024 65535")
	w.set("ip_local_reserved_ports", fmt.Sprintf("1024-%d,%d-65535", lowPort-1, highPort+1))
	s := w.serve(loopback, holds)
	w.wantCount("ports of one address", w.churn(plenty, from{}, s, w.keep), room)
	w.advised("More source addresses multiply the ports")
	w.wantCount("ports of a second address", w.churn(plenty, from{second, true}, s, w.keep), room)
}

func TestAdviceBindAddressNoPort(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	one, two := w.serve(loopback, holds), w.serve(loopback, holds)
	w.wantCount("ports by bind()", w.churn(plenty, from{addr: second}, one, w.keep), room)
	w.wantCount("ports by bind() to another destination", w.churn(1, from{addr: second}, two, w.keep), 0)
	w.advised("set IP_BIND_ADDRESS_NO_PORT")

	free := newNarrow(t)
	one, two = free.serve(loopback, holds), free.serve(loopback, holds)
	for _, s := range []*server{one, two} {
		free.wantCount("ports to each destination", free.churn(plenty, from{second, true}, s, free.keep), room)
	}
}

// One port serves one connection to a destination, however many ports are free.
func TestAdviceLetConnectChoose(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	s := w.serve(loopback, holds)
	watch := startUntil(t, "fact=transitions", "timewait", "-o", "json", "--for", patience.String(), "--netns", inode(w.Netns))
	made := w.fromOnePort(n, s, lowPort)
	if made != 1 {
		t.Errorf("%d connections from one port, want 1", made)
	}
	if v := portsSeen(t, watch); len(v.Advice) == 0 || !strings.Contains(v.Advice[0], "bind the address without a port") {
		t.Errorf("advice %q", v.Advice)
	}
	w.wantCount("connections without a port of their own", w.churn(n, from{second, true}, s, w.keep), n)
}

// fromOnePort tries to connect from one local port, and counts how often it succeeds.
func (w *narrow) fromOnePort(times int, to *server, port int) (made int) {
	w.t.Helper()
	w.must(w.Do(func() error {
		for range times {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			w.t.Cleanup(func() { _ = unix.Close(fd) })
			at, there := &unix.SockaddrInet4{Addr: second.As4(), Port: port}, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
			if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, at)); err != nil {
				return err
			}
			switch err := unix.Connect(fd, there); {
			case err == nil:
				made++
			case !errors.Is(err, unix.EADDRNOTAVAIL):
				return err
			}
		}
		return nil
	}))
	return made
}

// No setting for TIME_WAIT frees the port of a connection that is open.
func TestAdviceShareConnections(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	s := w.serve(loopback, holds)
	w.wantCount("ports", w.churn(plenty, from{}, s, w.keep), room)
	w.advised("held by connections that are open", "What does not help: tcp_tw_reuse")
	w.set("tcp_tw_reuse", "1")
	w.set("tcp_fin_timeout", "1")
	w.wantCount("ports with tcp_tw_reuse", w.churn(1, from{}, s, w.keep), 0)

	// Two users of one connection: half the ports.
	shared := w.serve(loopback, closesSecond)
	users, fd := 0, -1
	for ; users < 2*room; users++ {
		if users%2 == 0 {
			w.wantCount("port for two", w.churn(1, from{}, shared, func(got int) error { fd = got; return w.keep(got) }), 1)
		}
		_, err := unix.Write(fd, []byte{1})
		w.must(err)
	}
	w.wantCount("ports for twice as many users", len(w.clients(shared, event.Established)), room)
}

func TestAdviceCloseYourSide(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	s := w.serve(loopback, saysEOF)
	var fds []int
	w.wantCount("ports", w.churn(plenty, from{}, s, func(fd int) error { fds = append(fds, fd); return awaitEOF(fd) }), room)
	w.awaitClients(s, event.CloseWait, room)
	w.advised("are held by connections in CLOSE_WAIT", "What does not help:", "keepalive")
	for _, fd := range fds {
		w.must(unix.Close(fd))
	}
	s.release()
	w.awaitClients(s, event.CloseWait, 0)
	w.awaitClients(s, event.LastAck, 0) // which keep their ports as well
	w.wantCount("ports after close()", w.churn(1, from{}, s, hangUpFirst), 1)
}

// A port in FIN_WAIT2 waits for the other end: once that has closed it is in TIME_WAIT, from
// which it can be taken over.
func TestAdviceOtherEndMustClose(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	s := w.serve(loopback, holds)
	w.wantCount("ports", w.churn(plenty, from{}, s, hangUpFirst), room)
	w.awaitClients(s, event.FinWait2, room)
	w.awaitServers(s, event.CloseWait, room)
	w.advised("are held by FIN_WAIT2", "CLOSE_WAIT")
	waitFor(t, func() string {
		if got := s.holding(); got != room {
			return fmt.Sprintf("%d accepted", got)
		}
		return ""
	})
	s.release()
	w.awaitClients(s, event.TimeWait, room)
	w.awaitAge(s)
	w.set("tcp_tw_reuse", "1")
	w.wantCount("ports after the other end has closed", w.churn(room, from{}, s, hangUpFirst), room)
}

// tcp_fin_timeout is for FIN_WAIT2 whose process has closed. TIME_WAIT has its 60 s.
func TestNoCureFinTimeout(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	w.set("tcp_fin_timeout", "3")
	done, open := w.serve(loopback, closesSecond), w.serve(loopback, holds)
	w.exhaust(done)
	w.churn(n, from{}, open, hangUpFirst)
	w.advised("What does not help: tcp_fin_timeout")
	for _, r := range w.clients(done, event.TimeWait) {
		// In clock ticks. An emulated machine is slow.
		if r.left <= 3000 || r.left > 6000 {
			t.Fatalf("a TIME_WAIT has %d ticks left, want nearly 6000", r.left)
		}
	}
	for _, r := range w.clients(open, event.FinWait2) {
		if r.left > 300 {
			t.Fatalf("a FIN_WAIT2 has %d ticks left, want 300 at most", r.left)
		}
	}
	// And FIN_WAIT2 ends without a TIME_WAIT.
	w.awaitClients(open, event.FinWait2, 0)
	w.wantCount("TIME_WAIT", len(w.clients(open, event.TimeWait)), 0)
	w.wantCount("TIME_WAIT whose time is not up", len(w.clients(done, event.TimeWait)), room)
}

func TestNoCureRecycle(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	err := w.Do(func() error { _, err := os.Stat("/proc/sys/net/ipv4/tcp_tw_recycle"); return err })
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("tcp_tw_recycle: %v, want it to be gone", err)
	}
}

// SO_LINGER 0 makes no TIME_WAIT, and no delivery either.
func TestNoCureLinger(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	for _, linger := range []bool{false, true} {
		got := make(chan received, 1)
		begin := make(chan bool)
		s := w.serve(loopback, func(_ *server, c net.Conn) {
			go func() {
				<-begin
				text, err := io.ReadAll(c)
				got <- received{len(text), err}
				_ = c.Close()
			}()
		})
		sent := 0
		w.churn(1, from{}, s, func(fd int) (err error) {
			sent, err = stuff(fd)
			if linger && err == nil {
				err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			}
			return errors.Join(err, unix.Close(fd))
		})
		if sent == 0 {
			t.Fatal("nothing was sent")
		}
		close(begin)
		r := <-got
		switch {
		case !linger && (r.n != sent || r.err != nil):
			t.Errorf("close(): %d of %d bytes arrived, %v", r.n, sent, r.err)
		case linger && (r.n >= sent || !errors.Is(r.err, unix.ECONNRESET)):
			t.Errorf("SO_LINGER 0: %d of %d bytes arrived, %v; want less, and a reset", r.n, sent, r.err)
		case linger:
			w.wantCount("TIME_WAIT after a reset", len(w.clients(s, event.TimeWait)), 0)
		default:
			w.awaitClients(s, event.TimeWait, 1)
		}
	}
}

type received struct {
	n   int
	err error
}

// stuff writes until the buffers of both ends are full.
func stuff(fd int) (sent int, err error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return 0, err
	}
	for {
		k, err := unix.Write(fd, make([]byte, 1<<16))
		if errors.Is(err, unix.EAGAIN) {
			return sent, nil
		}
		if err != nil {
			return sent, err
		}
		sent += k
	}
}

// A lower tcp_max_tw_buckets makes no room: the TIME_WAIT are left out, and counted.
func TestNoCureFewerBuckets(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	usual := w.get("tcp_max_tw_buckets")
	w.set("tcp_max_tw_buckets", fmt.Sprint(n))
	s := w.serve(loopback, closesSecond)
	watch := start(t, "timewait", "-o", "json", "--for", patience.String(), "--netns", inode(w.Netns))
	made := 0
	// A port may be taken until the server's goroutine has come to run.
	becomes(t, fmt.Sprint(plenty, " connections"), func() bool {
		made += w.churn(plenty-made, from{}, s, hangUpFirst)
		return made == plenty
	})
	waitFor(t, func() string {
		if got := w.counter("TCPTimeWaitOverflow"); got != made-n {
			return fmt.Sprintf("%d left out, want %d", got, made-n)
		}
		return ""
	})
	w.wantCount("TIME_WAIT", len(w.clients(s, event.TimeWait)), n)
	w.says(watch.interrupt(t).want(t, 0), fmt.Sprintf("TIME_WAIT were left out because net.ipv4.tcp_max_tw_buckets (%d) was reached", n),
		"What does not help: ", "a lower tcp_max_tw_buckets")

	// Raised again, each gets its own.
	w.set("tcp_max_tw_buckets", usual)
	again := w.serve(loopback, closesSecond)
	w.exhaust(again)
	w.wantCount("TIME_WAIT left out", w.counter("TCPTimeWaitOverflow"), made-n)
}

// A peer that has closed its direction only answers the probes. One that has forgotten the
// connection resets it: that ends CLOSE_WAIT, and leaves the descriptor.
func TestNoCureKeepalive(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	w.set("tcp_keepalive_time", "1")
	w.set("tcp_keepalive_intvl", "1")
	w.set("tcp_keepalive_probes", "1")
	w.set("tcp_fin_timeout", "1")
	alive, forgetful := w.serve(loopback, saysEOF), w.serve(loopback, closesFirst)
	for _, s := range []*server{alive, forgetful} {
		w.wantCount("connections", w.churn(n, from{}, s, func(fd int) error {
			return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1), awaitEOF(fd), w.keep(fd))
		}), n)
	}
	w.awaitClients(forgetful, event.CloseWait, 0)
	// One probe without an answer would be enough.
	waitFor(t, func() string {
		if got := w.counter("TCPKeepAlive"); got < 5*n {
			return fmt.Sprintf("%d probes", got)
		}
		return ""
	})
	w.wantCount("CLOSE_WAIT after the probes", len(w.clients(alive, event.CloseWait)), n)
	left := decode[list](t, run(t, "list", "--state", "close", "-o", "json", "--netns", inode(w.Netns)).want(t, 0).stdout)
	w.wantCount("descriptors left open", len(left.Sockets), n)
	for _, s := range left.Sockets {
		if s.Cause != "zombie_fd" {
			t.Fatalf("left open: %+v", s)
		}
	}
}

// TIME_WAIT is the kernel's alone: no inode, so no descriptor.
func TestTimeWaitHasNoDescriptor(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	s := w.serve(loopback, closesSecond)
	w.exhaust(s)
	found := 0
	for _, r := range testenv.TCPTable(t, w.Path) {
		if r.State != event.TimeWait {
			continue
		}
		found++
		if r.Inode != 0 {
			t.Fatalf("a TIME_WAIT has the inode %d", r.Inode)
		}
	}
	w.wantCount("TIME_WAIT", found, room)
}

// A server's TIME_WAIT does not keep out the client it was made for.
func TestSamePortComesAgain(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	s := w.serve(loopback, closesFirst)
	for again := range n {
		w.must(w.Do(func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			err = errors.Join(
				unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback.As4(), Port: lowPort}),
				unix.Connect(fd, &unix.SockaddrInet4{Addr: loopback.As4(), Port: int(s.Port())}),
				awaitEOF(fd))
			return errors.Join(err, unix.Close(fd))
		}))
		// There is one at each return of the client, and never more.
		w.awaitServers(s, event.TimeWait, 1)
		// Its ACK may not have come yet, and bind() would not give the client's port again.
		w.awaitClients(s, event.LastAck, 0)
		if t.Failed() {
			t.Fatalf("after %d", again)
		}
	}
}

// How long a port must have been in TIME_WAIT is a setting since 6.14. Before, it is a second.
func TestReuseDelay(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	s := w.serve(loopback, closesSecond)
	w.exhaust(s)
	w.set("tcp_tw_reuse", "1")
	err := w.Do(func() error { _, err := os.Stat("/proc/sys/net/ipv4/tcp_tw_reuse_delay"); return err })
	switch {
	case errors.Is(err, os.ErrNotExist):
		w.awaitAge(s)
	case err != nil:
		t.Fatal(err)
	default:
		w.set("tcp_tw_reuse_delay", "60000")
		w.awaitAge(s)
		w.wantCount("ports within the delay", w.churn(1, from{}, s, hangUpFirst), 0)
		w.set("tcp_tw_reuse_delay", "1000")
	}
	w.wantCount("ports after the delay", w.churn(1, from{}, s, hangUpFirst), 1)
}

// doctor tells of settings that somebody has changed, wherever that is.
func TestDoctorFindsChangedSettings(t *testing.T) {
	outsideGuests(t)
	w := newNarrow(t)
	w.set("tcp_fin_timeout", "15")
	w.set("tcp_max_tw_buckets", fmt.Sprint(n))
	type setting struct {
		Name, Value, Default, Note string
		Changed                    bool
		NamespacesChanged          int `json:"namespaces_changed"`
	}
	r := run(t, "doctor", "-o", "json").want(t, 0)
	found := map[string]setting{}
	for _, s := range decode[struct {
		Misleading []setting `json:"misleading_sysctls"`
	}](t, r.stdout).Misleading {
		found[s.Name] = s
	}
	for _, name := range []string{"tcp_fin_timeout", "tcp_tw_reuse"} {
		host, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
		if err != nil {
			t.Fatal(err)
		}
		s := found["net.ipv4."+name]
		if s.Value != strings.TrimSpace(string(host)) || s.Changed != (s.Value != s.Default) || s.NamespacesChanged == 0 || s.Note == "" {
			t.Errorf("%s: %+v; the host has %s", name, s, host)
		}
	}
	// The default of this one is told by a setting that is there since 6.1.
	if s := found["net.ipv4.tcp_max_tw_buckets"]; s.Value == "" || s.Default != "" && s.NamespacesChanged == 0 {
		t.Errorf("tcp_max_tw_buckets: %+v", s)
	}
	if s, ok := found["net.ipv4.tcp_tw_recycle"]; ok {
		t.Errorf("tcp_tw_recycle is there only where a file names it: %+v", s)
	}
}
