package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// pairedSocket is a socket record with its other end.
type pairedSocket struct {
	Cookie, Inode uint64
	Netns         uint32
	Protocol      string
	Lport, Rport  uint16
	State, Cause  string
	Peer          *struct {
		Pid       int
		Comm      string
		State     string
		Gone      bool
		Cookie    uint64
		Netns     uint32
		NetnsName string `json:"netns_name"`
		Laddr     netip.Addr
		Lport     uint16
		MatchedBy string `json:"matched_by"`
		Holders   []struct{ Pid, FD int }
	}
}

// paired lists the waits of namespaces with their other ends.
func paired(t *testing.T, args ...string) []pairedSocket {
	t.Helper()
	r := run(t, append([]string{"list", "--state", "close-wait", "-o", "json"}, args...)...).want(t, 0)
	return decode[struct{ Sockets []pairedSocket }](t, r.stdout).Sockets
}

// becomes waits for a fact.
func becomes(t *testing.T, what string, fact func() bool) {
	t.Helper()
	waitFor(t, func() string {
		if fact() {
			return ""
		}
		return fmt.Sprintf("not within %v: %s", patience, what)
	})
}

// ends is a connection of which the test holds both ends, -1 where it is closed.
type ends struct {
	// ns is where the server's end is, clientNS where the client's.
	ns, clientNS             *testenv.Netns
	listener, client, server int
	lport, from              uint16
}

// must is for system calls of the test itself.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dialEnds connects from a namespace to an address in another (or the same) one and accepts. from
// 0 takes any port.
func dialEnds(t *testing.T, clientNS, serverNS *testenv.Netns, listen, target netip.AddrPort, from uint16) *ends {
	t.Helper()
	e := &ends{ns: serverNS, clientNS: clientNS, listener: -1, client: -1, server: -1, from: from}
	t.Cleanup(func() {
		for _, fd := range []*int{&e.listener, &e.client, &e.server} {
			e.close(t, fd)
		}
	})
	must(t, serverNS.Do(func() (err error) {
		if e.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(e.listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		if err := errors.Join(unix.Bind(e.listener, sockaddr(listen)), unix.Listen(e.listener, 8)); err != nil {
			return err
		}
		e.lport = localPort(t, e.listener)
		return nil
	}))
	if target.Port() == 0 {
		target = netip.AddrPortFrom(target.Addr(), e.lport)
	}
	must(t, clientNS.Do(func() (err error) {
		if e.client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if from != 0 {
			if err := unix.Bind(e.client, sockaddr(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), from))); err != nil {
				return err
			}
		}
		return unix.Connect(e.client, sockaddr(target))
	}))
	e.from = localPort(t, e.client)
	return e
}

func (e *ends) accept(t *testing.T) {
	t.Helper()
	fd, _, err := unix.Accept4(e.listener, unix.SOCK_CLOEXEC)
	must(t, err)
	e.server = fd
}

func (e *ends) close(t *testing.T, fd *int) {
	t.Helper()
	if *fd >= 0 {
		must(t, unix.Close(*fd))
	}
	*fd = -1
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

func localPort(t *testing.T, fd int) uint16 {
	t.Helper()
	sa, err := unix.Getsockname(fd)
	must(t, err)
	return uint16(sa.(*unix.SockaddrInet4).Port)
}

// stateOf asks the kernel.
func stateOf(t *testing.T, fd int) event.State {
	t.Helper()
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	must(t, err)
	return event.State(info.State)
}

func cookieOf(t *testing.T, fd int) uint64 {
	t.Helper()
	c, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	must(t, err)
	return c
}

// peerCloses ends the client's side, and waits until the server's is in CLOSE_WAIT, and the
// client's knows: the ACK may be put off.
func (e *ends) peerCloses(t *testing.T, keep bool) {
	t.Helper()
	if keep {
		must(t, unix.Shutdown(e.client, unix.SHUT_WR))
	} else {
		e.close(t, &e.client)
	}
	becomes(t, "CLOSE_WAIT", func() bool { return stateOf(t, e.server) == event.CloseWait })
	awaitRows(t, e.clientNS, 0, "with a FIN that is not acknowledged", func(r testenv.TCPRow) bool {
		return r.Lport == e.from && r.State == event.FinWait1
	})
}

func addr(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

// pairOf returns the one wait on a port.
func pairOf(t *testing.T, all []pairedSocket, netns uint32, lport uint16) pairedSocket {
	t.Helper()
	found := slices.DeleteFunc(slices.Clone(all), func(s pairedSocket) bool { return s.Netns != netns || s.Lport != lport })
	if len(found) != 1 {
		t.Fatalf("%d sockets on port %d of %d in %+v", len(found), lport, netns, all)
	}
	return found[0]
}

// Every wait of a process knows the process and the socket at the other end, also where the
// filter leaves that one out.
func TestPairsInOneNamespace(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	for _, o := range []testenv.Options{
		{Cause: "eof_ignored"}, {Cause: "out_eof"}, {Cause: "unaccepted"}, {Cause: "eof_ignored", Addr: "::1", Listen: "::1"},
	} {
		o.N, o.Netns = n, ns.Path
		leak := testenv.StartLeaker(t, o)
		acknowledged(t, ns)
		port := "-L"
		if o.Cause == "out_eof" {
			port = "-D"
		}
		seen := map[uint64]bool{}
		sockets := paired(t, port, fmt.Sprint(leak.Lport), "--netns", inode(ns))
		for i := range sockets {
			s := &sockets[i]
			p := s.Peer
			// Who has closed holds nothing and the kernel keeps a mini-socket.
			if p == nil || p.State != "FIN_WAIT2" || p.Lport != s.Rport || p.Netns != s.Netns || p.MatchedBy != "flow_and_sequence" ||
				p.NetnsName != "" || p.Gone || len(p.Holders) > 0 && p.Pid != leak.Peer {
				t.Fatalf("%+v: peer %+v", s, p)
			}
			seen[s.Cookie] = true
		}
		if len(seen) != n {
			t.Errorf("%+v: %d sockets, want %d", o, len(seen), n)
		}
		must(t, leak.Stop())
	}
}

// Two namespaces with the very same addresses and ports do not know of each other.
func TestPairsOfTwins(t *testing.T) {
	outsideGuests(t)
	const from = 40007
	twins := [2]*ends{}
	for i := range twins {
		ns := testNetns(t)
		shortFinWait(t, ns)
		twins[i] = dialEnds(t, ns, ns, addr("127.0.0.1:8087"), addr("127.0.0.1:8087"), from)
		twins[i].accept(t)
	}
	// The first one's other end is forgotten by the kernel, the second's stays.
	twins[0].peerCloses(t, false)
	twins[1].peerCloses(t, true)
	forgotten(t, twins[0])
	sockets := paired(t, "-L", "8087", "-D", fmt.Sprint(from))
	first, second := pairOf(t, sockets, twins[0].ns.Inode, 8087), pairOf(t, sockets, twins[1].ns.Inode, 8087)
	if first.Peer == nil || !first.Peer.Gone || first.Peer.Pid != 0 || first.Peer.State != "" {
		t.Errorf("the first: %+v, want it gone", first.Peer)
	}
	p := second.Peer
	if p == nil || p.Gone || p.Pid != os.Getpid() || p.Netns != second.Netns || p.Cookie != cookieOf(t, twins[1].client) {
		t.Errorf("the second: %+v, want socket %d of this process", p, cookieOf(t, twins[1].client))
	}
}

// shortFinWait lets the kernel of a namespace forget what a program has closed after a second.
func shortFinWait(t *testing.T, ns *testenv.Netns) {
	t.Helper()
	must(t, ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_fin_timeout", []byte("1"), 0) }))
}

// forgotten waits until the kernel has forgotten the client's end.
func forgotten(t *testing.T, e *ends) {
	t.Helper()
	becomes(t, "the other end is forgotten", func() bool {
		return !slices.ContainsFunc(testenv.TCPTable(t, e.clientNS.Path), func(r testenv.TCPRow) bool { return r.Lport == e.from })
	})
}

// veth joins two namespaces: 10.77.0.1 and 10.77.0.2.
func veth(t *testing.T, a, b *testenv.Netns) {
	t.Helper()
	for _, command := range []string{
		"ip -n " + a.Name + " link add va type veth peer name vb netns " + b.Name,
		"ip -n " + a.Name + " addr add 10.77.0.1/24 dev va",
		"ip -n " + b.Name + " addr add 10.77.0.2/24 dev vb",
		"ip -n " + a.Name + " link set va up",
		"ip -n " + b.Name + " link set vb up",
	} {
		shell(t, command)
	}
}

// shell runs a command that may be missing on small systems.
func shell(t *testing.T, command string) {
	t.Helper()
	words := strings.Fields(command)
	if _, err := exec.LookPath(words[0]); err != nil {
		testenv.Skip(t, "guest programs", err.Error())
	}
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
}

func TestPairsAcrossNamespaces(t *testing.T) {
	outsideGuests(t)
	a, b := testNetns(t), testNetns(t)
	veth(t, a, b)
	e := dialEnds(t, a, b, addr("10.77.0.2:0"), addr("10.77.0.2:0"), 0)
	e.accept(t)
	e.peerCloses(t, true)
	s := pairOf(t, paired(t, "--netns", inode(b)), b.Inode, e.lport)
	p := s.Peer
	if p == nil || p.Pid != os.Getpid() || p.State != "FIN_WAIT2" || p.Netns != a.Inode || p.NetnsName != a.Name ||
		p.Cookie != cookieOf(t, e.client) || p.MatchedBy != "flow_and_sequence" || len(p.Holders) != 1 || p.Holders[0].FD != e.client {
		t.Errorf("peer %+v, want socket %d of this process in %s", p, cookieOf(t, e.client), a.Name)
	}
	wide := run(t, "list", "-o", "wide", "--netns", inode(b)).want(t, 0)
	if want := fmt.Sprintf("FIN_WAIT2@%s", a.Name); !strings.Contains(wide.stdout, want) {
		t.Errorf("no %q in %s", want, wide.stdout)
	}
	told := run(t, "diagnose", "--for", "0", "--threshold", "1ms", "--netns", inode(b))
	if want := fmt.Sprintf("FIN_WAIT2, in the network namespace %s", a.Name); !strings.Contains(strings.Join(strings.Fields(told.stdout), " "), want) {
		t.Errorf("no %q in %s", want, told.stdout)
	}
}

// Behind NAT the two ends have different addresses, and only the sequence numbers tell.
func TestPairsBehindNAT(t *testing.T) {
	outsideGuests(t)
	a, b := testNetns(t), testNetns(t)
	veth(t, a, b)
	shell(t, "ip netns exec "+b.Name+" iptables -t nat -A PREROUTING -p tcp --dport 80 -j REDIRECT --to-port 8083")
	e := dialEnds(t, a, b, addr("10.77.0.2:8083"), addr("10.77.0.2:80"), 0)
	e.accept(t)
	// Something was said in both directions.
	for _, way := range [][2]int{{e.client, e.server}, {e.server, e.client}} {
		_, err := unix.Write(way[0], []byte("seven77"))
		must(t, err)
		becomes(t, "data", func() bool { got, _ := unix.IoctlGetInt(way[1], unix.SIOCINQ); return got == 7 })
	}
	e.peerCloses(t, true)
	p := pairOf(t, paired(t, "--netns", inode(b)), b.Inode, 8083).Peer
	if p == nil || p.Pid != os.Getpid() || p.Netns != a.Inode || p.Cookie != cookieOf(t, e.client) || p.MatchedBy != "sequence" {
		t.Errorf("peer %+v, want socket %d of this process in %s by sequence", p, cookieOf(t, e.client), a.Name)
	}
	// Closed with nothing unread, it leaves a mini-socket, which is recognised as well.
	_, err := unix.Read(e.client, make([]byte, 7))
	must(t, err)
	e.close(t, &e.client)
	p = pairOf(t, paired(t, "--netns", inode(b)), b.Inode, 8083).Peer
	if p == nil || p.Pid != 0 && p.Pid != os.Getpid() || p.Netns != a.Inode || p.MatchedBy != "sequence" || len(p.Holders) > 0 {
		t.Errorf("closed: peer %+v, want a mini-socket in %s by sequence", p, a.Name)
	}
}

// What is on another host, or cannot be known, has no other end.
func TestPairsNobody(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	shortFinWait(t, ns)
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	becomes(t, "the other ends are forgotten", func() bool {
		return !slices.ContainsFunc(testenv.TCPTable(t, ns.Path), func(r testenv.TCPRow) bool { return r.Rport == leak.Lport && r.Lport != 0 })
	})
	sockets := paired(t, "-p", fmt.Sprint(leak.Pid))
	for i := range sockets {
		if p := sockets[i].Peer; p == nil || !p.Gone || p.Pid != 0 || p.MatchedBy != "" {
			t.Fatalf("peer %+v, want it gone", p)
		}
	}
	if len(sockets) != n {
		t.Errorf("%d sockets, want %d", len(sockets), n)
	}
}

// proxyProgram copies between two connections in both directions, a thread each, and passes
// the end of one on to the other. The server forgets what has ended.
const proxyProgram = `
import os, socket, sys, threading
def listen():
    s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(64); return s
back, front = listen(), listen()
if os.fork() == 0:
    front.close()
    held = []
    while True:
        c = back.accept()[0]
        held.append(c)
        def forget(c=c):
            while c.recv(100): pass
        threading.Thread(target=forget).start()
server = back.getsockname()
back.close()
print(front.getsockname()[1], server[1], flush=True)
def copy(a, b):
    while True:
        data = a.recv(100)
        if not data: break
        b.sendall(data)
    b.shutdown(socket.SHUT_WR)
while True:
    a = front.accept()[0]
    b = socket.create_connection(server)
    for x, y in (a, b), (b, a): threading.Thread(target=copy, args=(x, y)).start()
`

// A proxy waits for a server that does not answer: its waits follow from the server's, and
// that is told as one story.
func TestPairsThroughProxy(t *testing.T) {
	outsideGuests(t)
	python, err := exec.LookPath("/usr/bin/python3")
	if err != nil || os.Getenv("TCPWAITD_VM") == "1" {
		testenv.Skip(t, "guest programs", "python3")
	}
	ns := testNetns(t)
	file := filepath.Join(t.TempDir(), "proxy.py")
	must(t, os.WriteFile(file, []byte(proxyProgram), 0o644))
	cmd := exec.Command(python, file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, ns.Do(cmd.Start))
	t.Cleanup(func() {
		if err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // killed
	})
	var front, back uint16
	if _, err := fmt.Fscan(stdout, &front, &back); err != nil {
		t.Fatal(err)
	}
	watching := start(t, "diagnose", "--for", "1h", "--threshold", "1ms", "--netns", inode(ns), "-o", "json")
	var clients []net.Conn
	must(t, ns.Do(func() error {
		for range n {
			c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", front))
			if err != nil {
				return err
			}
			clients = append(clients, c)
		}
		return nil
	}))
	for _, c := range clients {
		_, err := c.Write([]byte("seven77"))
		must(t, errors.Join(err, c.(*net.TCPConn).CloseWrite()))
	}
	t.Cleanup(func() {
		for _, c := range clients {
			c.Close()
		}
	})
	for _, port := range []uint16{front, back} {
		awaitRows(t, ns, n, fmt.Sprintf("in CLOSE_WAIT on port %d", port), func(r testenv.TCPRow) bool {
			return r.Lport == port && r.State == event.CloseWait && r.RecvQ == 0
		})
	}
	// The server's kernel may put off the ACK for the proxy's FIN, and it is in CLOSE_WAIT before.
	awaitRows(t, ns, n, "of the proxy with an acknowledged FIN", func(r testenv.TCPRow) bool {
		return r.Rport == back && r.State == event.FinWait2
	})
	becomes(t, "the waits are stuck", func() bool {
		sockets := paired(t, "--netns", inode(ns), "--min-dwell", "1ms")
		return len(sockets) == 2*n
	})
	r := watching.interrupt(t)
	d := decode[struct {
		SocketsCloseWait int `json:"sockets_close_wait"`
		Processes        []struct {
			Pid          int
			Verdict, Why string
			Sockets      int
			Follows      []struct{ Pid int }
			Awaits       []struct {
				Pid, N int
				State  string
			}
			Groups []struct {
				Ends []struct {
					Pid, N int
					State  string
				}
			}
		}
	}](t, r.stdout)
	if d.SocketsCloseWait != 2*n || len(d.Processes) != 2 {
		t.Fatalf("want %d sockets of two processes: %s", 2*n, r.stdout)
	}
	server, proxy := d.Processes[0], d.Processes[1] // the one to fix first
	if proxy.Pid != cmd.Process.Pid || proxy.Verdict != "suspicious" || len(proxy.Follows) != 1 || proxy.Follows[0].Pid != server.Pid ||
		!strings.Contains(proxy.Why, fmt.Sprint("pid ", server.Pid)) {
		t.Errorf("the proxy: %+v", proxy)
	}
	if len(proxy.Awaits) != 1 || proxy.Awaits[0].Pid != server.Pid || proxy.Awaits[0].N != n || proxy.Awaits[0].State != "CLOSE_WAIT" {
		t.Errorf("the proxy awaits %+v, want %d of pid %d", proxy.Awaits, n, server.Pid)
	}
	if len(server.Follows) > 0 || server.Sockets != n || !strings.Contains(server.Why, fmt.Sprintf("%d waits of pid %d", n, proxy.Pid)) {
		t.Errorf("the server: %+v", server)
	}
	for _, g := range server.Groups {
		if len(g.Ends) != 1 || g.Ends[0].Pid != proxy.Pid || g.Ends[0].State != "FIN_WAIT2" {
			t.Errorf("the server's other ends: %+v, want FIN_WAIT2 of pid %d", g.Ends, proxy.Pid)
		}
	}
}

// Of MPTCP the connections are paired, not their subflows.
func TestPairsMPTCP(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	if err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}); err != nil {
		testenv.Skip(t, "mptcp", err.Error())
	}
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "half_close_stalled", N: n, Netns: ns.Path, MPTCP: true})
	sockets := paired(t, "--netns", inode(ns), "-L", fmt.Sprint(leak.Lport))
	for i := range sockets {
		s := &sockets[i]
		if p := s.Peer; s.Protocol != "mptcp" || p == nil || p.Pid != leak.Peer || p.State != "FIN_WAIT2" || p.Lport != s.Rport || p.MatchedBy != "flow" {
			t.Fatalf("%+v: peer %+v", s, s.Peer)
		}
	}
	if len(sockets) != n {
		t.Errorf("%d sockets, want %d", len(sockets), n)
	}
}
