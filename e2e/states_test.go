package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// zoo makes sockets in every state there is, in the test's own process. Packets need not be
// dropped for that: a peer that does not read keeps our FIN behind the data, a listener with a
// full queue answers no request, and one that waits for data keeps requests.
type zoo struct {
	ns *testenv.Netns
	v6 bool
	// listener reads nothing and has small buffers.
	listener int
	addr     unix.Sockaddr
}

func newZoo(t *testing.T, ns *testenv.Netns, v6 bool) *zoo {
	t.Helper()
	// As in newNarrow.
	setting(t, ns, "tcp_rfc1337", "1")
	z := &zoo{ns: ns, v6: v6}
	z.listener, z.addr = z.listen(t, n, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
	})
	return z
}

// socket is closed at the end of the test, unless the test does.
func (z *zoo) socket(t *testing.T) int {
	t.Helper()
	family, fd := unix.AF_INET, -1
	if z.v6 {
		family = unix.AF_INET6
	}
	err := z.ns.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	})
	return fd
}

func (z *zoo) loopback() unix.Sockaddr {
	if z.v6 {
		return &unix.SockaddrInet6{Addr: [16]byte{15: 1}}
	}
	return &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
}

func (z *zoo) listen(t *testing.T, backlog int, before func(fd int) error) (fd int, addr unix.Sockaddr) {
	t.Helper()
	fd = z.socket(t)
	err := errors.Join(before(fd), unix.Bind(fd, z.loopback()), unix.Listen(fd, backlog))
	addr, failed := unix.Getsockname(fd)
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	return fd, addr
}

// pair is a connection of which both ends are ours. Descriptors that a test closes itself are
// closed by closeNow.
func (z *zoo) pair(t *testing.T) (client, server *end) {
	t.Helper()
	fd := z.socket(t)
	if err := unix.Connect(fd, z.addr); err != nil {
		t.Fatal(err)
	}
	accepted, _, err := unix.Accept4(z.listener, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	// A descriptor of our own each, so that no cleanup closes one that was given anew.
	client, server = newEnd(t, fd), &end{fd: accepted}
	t.Cleanup(server.close)
	return client, server
}

type end struct{ fd int }

func newEnd(t *testing.T, fd int) *end {
	t.Helper()
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	// The number stays taken, by a file that is no socket.
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.Dup3(null, fd, unix.O_CLOEXEC), unix.Close(null))
	}
	if err != nil {
		t.Fatal(err)
	}
	e := &end{fd: own}
	t.Cleanup(e.close)
	return e
}

func (e *end) close() {
	if e.fd >= 0 {
		_ = unix.Close(e.fd)
		e.fd = -1
	}
}

func (e *end) shutdown(t *testing.T, how int) {
	t.Helper()
	if err := unix.Shutdown(e.fd, how); err != nil {
		t.Fatal(err)
	}
}

// fill sends until the other end, which does not read, takes no more.
func (e *end) fill(t *testing.T) {
	t.Helper()
	block := make([]byte, 64<<10)
	for quiet := 0; quiet < 5; {
		_, err := unix.SendmsgN(e.fd, block, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			quiet = 0
		case errors.Is(err, unix.EAGAIN):
			quiet++
			time.Sleep(time.Millisecond)
		default:
			t.Fatal(err)
		}
	}
}

// await waits until the socket is in the state. One that is closed here cannot be asked.
func (e *end) await(t *testing.T, want event.State) {
	t.Helper()
	waitFor(t, func() string {
		info, err := unix.GetsockoptTCPInfo(e.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		if got := event.State(info.State); got != want {
			return fmt.Sprintf("a socket is in %v, want %v", got, want)
		}
		return ""
	})
}

// finWait1 ends the client's side while data is before the FIN.
func (z *zoo) finWait1(t *testing.T, orphan bool) (client, server *end) {
	t.Helper()
	client, server = z.pair(t)
	client.fill(t)
	client.end(t, orphan)
	return client, server
}

// end is close(), or else shutdown() of one's own side.
func (e *end) end(t *testing.T, orphan bool) {
	t.Helper()
	if orphan {
		e.close()
		return
	}
	e.shutdown(t, unix.SHUT_WR)
}

func (z *zoo) closing(t *testing.T, orphan bool) {
	t.Helper()
	_, server := z.finWait1(t, orphan)
	server.shutdown(t, unix.SHUT_WR)
	server.await(t, event.FinWait2)
}

func (z *zoo) lastAck(t *testing.T, orphan bool) (client *end) {
	t.Helper()
	client, server := z.pair(t)
	server.shutdown(t, unix.SHUT_WR)
	client.await(t, event.CloseWait)
	client.fill(t)
	client.end(t, orphan)
	server.await(t, event.FinWait2)
	return client
}

func (z *zoo) finWait2(t *testing.T, orphan bool) {
	t.Helper()
	client, server := z.pair(t)
	client.end(t, orphan)
	server.await(t, event.CloseWait)
}

func (z *zoo) timeWait(t *testing.T) {
	t.Helper()
	client, server := z.pair(t)
	client.close()
	server.await(t, event.CloseWait)
	server.close()
}

// zombie is closed at both ends, but its descriptor is open. Its other end is in TIME_WAIT.
func (z *zoo) zombie(t *testing.T) {
	t.Helper()
	client, server := z.pair(t)
	server.close()
	client.await(t, event.CloseWait)
	client.shutdown(t, unix.SHUT_RDWR)
	client.await(t, event.Close)
}

// fullListener has one connection in its queue, and no place for another.
func (z *zoo) fullListener(t *testing.T) (addr unix.Sockaddr) {
	t.Helper()
	fd, addr := z.listen(t, 0, func(int) error { return nil })
	first := newEnd(t, z.socket(t))
	if err := unix.Connect(first.fd, addr); err != nil {
		t.Fatal(err)
	}
	// connect() returns before the queue has it: ksoftirqd can deliver the last ACK later, and
	// until then others are answered, too.
	waitFor(t, func() string {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		if info.Unacked != 1 { // of a listener: the length of its queue
			return fmt.Sprintf("%d in the queue of a listener, want 1", info.Unacked)
		}
		return ""
	})
	return addr
}

// synSent makes count requests that a listener with a full queue does not answer, and the one
// connection that fills it.
func (z *zoo) synSent(t *testing.T, count int, options ...func(fd int) error) {
	t.Helper()
	addr := z.fullListener(t)
	for range count {
		fd := z.socket(t)
		for _, set := range options {
			if err := set(fd); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(unix.SetNonblock(fd, true), ignore(unix.Connect(fd, addr), unix.EINPROGRESS)); err != nil {
			t.Fatal(err)
		}
	}
}

func ignore(err, harmless error) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}

// synRecv makes count requests that a listener keeps until data comes.
func (z *zoo) synRecv(t *testing.T, count int) {
	t.Helper()
	_, addr := z.listen(t, count, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 60)
	})
	for range count {
		if err := unix.Connect(z.socket(t), addr); err != nil {
			t.Fatal(err)
		}
	}
}

// fillZoo makes n sockets of every kind.
func fillZoo(t *testing.T, z *zoo) {
	t.Helper()
	built(t)
	for range n {
		z.pair(t)
		for _, orphan := range []bool{false, true} {
			z.finWait1(t, orphan)
			z.closing(t, orphan)
			z.lastAck(t, orphan)
		}
		if err := unix.Bind(z.socket(t), z.loopback()); err != nil {
			t.Fatal(err)
		}
	}
	z.synSent(t, n)
	z.synRecv(t, n)
	// Last, for the kernel ends some of them after a minute.
	for range n {
		z.finWait2(t, false)
		z.finWait2(t, true)
		z.timeWait(t)
		z.zombie(t)
	}
	z.atRest(t)
}

// zooStates are the sockets of a zoo, from how it was filled.
func zooStates() map[string]int {
	return map[string]int{
		// both ends of pair; the other ends of finWait1; synSent, synRecv
		"ESTABLISHED": 2*n + 2*n + 2 + n,
		"SYN_SENT":    n, "SYN_RECV": n, "LISTEN": 3,
		"FIN_WAIT1": 2 * n, "CLOSING": 2 * n, "LAST_ACK": 2 * n,
		// finWait2 itself; the other ends of closing and lastAck
		"FIN_WAIT2":  2*n + 2*n + 2*n,
		"CLOSE_WAIT": 2 * n,
		// timeWait, and the other ends of zombies
		"TIME_WAIT": 2 * n,
	}
}

func (z *zoo) atRest(t *testing.T) {
	t.Helper()
	waitFor(t, func() string {
		if got, want := kernelStates(t, z.ns.Path), zooStates(); !maps.Equal(got, want) {
			return fmt.Sprintf("the zoo has %v, want %v", got, want)
		}
		return ""
	})
}

// acknowledged waits until every FIN is: the other end is in its new state before it sends
// the ACK, which it may put off for 40 ms.
func acknowledged(t *testing.T, ns *testenv.Netns) {
	t.Helper()
	becomes(t, "every FIN is acknowledged", func() bool {
		all := kernelStates(t, ns.Path)
		return all["FIN_WAIT1"]+all["CLOSING"]+all["LAST_ACK"] == 0
	})
}

// kernelStates counts /proc/net/tcp and tcp6 of a namespace.
func kernelStates(t *testing.T, path string) map[string]int {
	t.Helper()
	all := map[string]int{}
	for _, row := range testenv.TCPTable(t, path) {
		all[row.State.String()]++
	}
	return all
}

// ssStates counts what ss lists, nil where it is not installed.
func ssStates(t *testing.T, ns *testenv.Netns) map[string]int {
	t.Helper()
	if _, err := exec.LookPath("ss"); err != nil {
		return nil
	}
	names := map[string]string{
		"ESTAB": "ESTABLISHED", "FIN-WAIT-1": "FIN_WAIT1", "FIN-WAIT-2": "FIN_WAIT2", "SYN-SENT": "SYN_SENT", "SYN-RECV": "SYN_RECV",
		"TIME-WAIT": "TIME_WAIT", "CLOSE-WAIT": "CLOSE_WAIT", "LAST-ACK": "LAST_ACK",
	}
	all := map[string]int{}
	for line := range strings.Lines(inside(t, ns, "ss", "-tanH")) {
		state, _, _ := strings.Cut(line, " ")
		all[cmp.Or(names[state], state)]++
	}
	return all
}

// inside runs a command in the namespace.
func inside(t *testing.T, ns *testenv.Netns, name string, args ...string) string {
	t.Helper()
	var out []byte
	err := ns.Do(func() (err error) {
		out, err = exec.Command(name, args...).Output()
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return string(out)
}

// currEstab is the kernel's own counter of a namespace.
func currEstab(t *testing.T, ns *testenv.Netns) int {
	t.Helper()
	var text []byte
	err := ns.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if f[0] != "Tcp:" {
			continue
		}
		for i, name := range names {
			if name == "CurrEstab" {
				v, err := strconv.Atoi(f[i])
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
		}
		names = f
	}
	t.Fatalf("no CurrEstab in %s", text)
	return 0
}

// counts is kind "states" as a script reads it.
type counts struct {
	Kind        string
	Total       int
	States      map[string]int
	Established *struct {
		CurrEstab int  `json:"curr_estab"`
		CloseWait *int `json:"close_wait"`
		Netns     []struct {
			Netns     uint32
			NetnsName string `json:"netns_name"`
			CurrEstab int    `json:"curr_estab"`
			CloseWait *int   `json:"close_wait"`
		}
	}
	By []struct {
		Pid       int
		Comm      string
		Container string
		Netns     uint32
		NetnsName string `json:"netns_name"`
		Unknown   bool
		Total     int
		States    map[string]int
	}
	Dwell []standing
	Left  []struct {
		State    string
		N        int
		AtLeast  int   `json:"at_least"`
		MedianNS int64 `json:"median_ns"`
		P99NS    int64 `json:"p99_ns"`
		MaxNS    int64 `json:"max_ns"`
	}
}

type standing struct {
	State       string
	Orphaned    *bool
	Sockets     int
	OldestNS    *int64 `json:"oldest_ns"`
	OldestBound string `json:"oldest_bound"`
	LimitNS     int64  `json:"limit_ns"`
	LimitMaxNS  int64  `json:"limit_max_ns"`
	LimitBy     string `json:"limit_by"`
	OverLimit   int    `json:"over_limit"`
	Meaning     string
}

func states(t *testing.T, args ...string) *counts {
	t.Helper()
	c := decode[counts](t, run(t, append([]string{"states", "-o", "json"}, args...)...).want(t, 0).stdout)
	return checkSums(t, &c)
}

// checkSums: the groups add up to the whole, and nothing is dropped.
func checkSums(t *testing.T, c *counts) *counts {
	t.Helper()
	sum := func(m map[string]int) (all int) {
		for _, v := range m {
			all += v
		}
		return all
	}
	if len(c.States) != len(event.States()) || sum(c.States) != c.Total {
		t.Errorf("total %d of %v", c.Total, c.States)
	}
	if c.By == nil {
		return c
	}
	all := map[string]int{}
	for _, g := range c.By {
		if sum(g.States) != g.Total {
			t.Errorf("group's total %d of %v", g.Total, g.States)
		}
		for state, v := range g.States {
			all[state] += v
		}
	}
	if !maps.Equal(all, c.States) {
		t.Errorf("the groups have %v, all %v", all, c.States)
	}
	return c
}

// present leaves the zeros out.
func present(all map[string]int) map[string]int {
	all = maps.Clone(all)
	maps.DeleteFunc(all, func(_ string, v int) bool { return v == 0 })
	return all
}

// listed leaves out what no table lists.
func listed(all map[string]int) map[string]int {
	all = present(all)
	delete(all, "CLOSE")
	delete(all, "BOUND_INACTIVE")
	return all
}

func ownNetns(ns ...*testenv.Netns) (args []string) {
	for _, x := range ns {
		args = append(args, "--netns", inode(x))
	}
	return args
}

func requireIPv6(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/proc/net/tcp6"); err != nil {
		testenv.Skip(t, "ipv6", err.Error())
	}
}

// Every state, IPv4 and IPv6, in several namespaces at once: equal to the kernel's tables and
// to ss, whole and in groups.
func TestStatesEqualTheKernelsTables(t *testing.T) {
	outsideGuests(t)
	requireIPv6(t)
	four, six := testNetns(t), testNetns(t)
	fillZoo(t, newZoo(t, four, false))
	fillZoo(t, newZoo(t, six, true))
	sum := map[string]int{}
	for _, ns := range []*testenv.Netns{four, six} {
		table := kernelStates(t, ns.Path)
		for state, v := range table {
			sum[state] += v
		}
		got := states(t, ownNetns(ns)...)
		if !maps.Equal(listed(got.States), table) || got.States["CLOSE"] != n || got.States["BOUND_INACTIVE"] != n {
			t.Errorf("%v\nwant the kernel's %v, and %d closed, %d bound", got.States, table, n, n)
		}
		if ss := ssStates(t, ns); ss != nil && !maps.Equal(listed(got.States), ss) {
			t.Errorf("%v\nwant those of ss: %v", listed(got.States), ss)
		}
		checkEstablished(t, got, ns)
	}
	both := states(t, append(ownNetns(four, six), "--by", "netns")...)
	if !maps.Equal(listed(both.States), sum) || len(both.By) != 2 {
		t.Errorf("%v in %d groups, want %v in 2", both.States, len(both.By), sum)
	}
	for _, g := range both.By {
		ns := four
		if g.Netns == six.Inode {
			ns = six
		}
		if g.Netns != ns.Inode || g.NetnsName != ns.Name || !maps.Equal(listed(g.States), kernelStates(t, ns.Path)) {
			t.Errorf("group %+v, want that of %+v", g, ns)
		}
	}
	if got := states(t, append(ownNetns(four, six), "-6")...); !maps.Equal(got.States, states(t, ownNetns(six)...).States) || got.Established != nil {
		t.Errorf("-6: %v; established %v", got.States, got.Established)
	}
}

// checkEstablished: what is told of one namespace is the kernel's counter, and ss -s agrees.
func checkEstablished(t *testing.T, got *counts, ns *testenv.Netns) {
	t.Helper()
	counter, table := currEstab(t, ns), kernelStates(t, ns.Path)
	closeWait := -1
	switch counter {
	case table["ESTABLISHED"] + table["CLOSE_WAIT"]:
		closeWait = table["CLOSE_WAIT"]
	case table["ESTABLISHED"]:
		closeWait = 0
	default:
		t.Fatalf("the kernel counts %d established of %v", counter, table)
	}
	t.Logf("the kernel counts %d established, %d of them in CLOSE_WAIT", counter, closeWait)
	e := got.Established
	if e == nil || e.CurrEstab != counter || e.CloseWait == nil || *e.CloseWait != closeWait || len(e.Netns) != 1 ||
		e.Netns[0].Netns != ns.Inode || e.Netns[0].CurrEstab != counter || *e.Netns[0].CloseWait != closeWait {
		t.Errorf("established %+v, want %d with %d in CLOSE_WAIT", e, counter, closeWait)
	}
	text := run(t, append([]string{"states"}, ownNetns(ns)...)...).want(t, 0).stdout
	want := fmt.Sprintf("ss -s says estab %d: %d of them are CLOSE_WAIT.", counter, closeWait)
	if closeWait == 0 {
		want = fmt.Sprintf("ss -s says estab %d: none of them is CLOSE_WAIT.", counter)
	}
	if !strings.Contains(text, want) {
		t.Errorf("%q, want %q", text, want)
	}
	if _, err := exec.LookPath("ss"); err == nil {
		if said := inside(t, ns, "ss", "-s"); !strings.Contains(said, fmt.Sprintf("(estab %d,", counter)) {
			t.Errorf("ss -s: %s", said)
		}
	}
}

// Whom the sockets belong to: the process that holds them, its container; nobody where no
// process does, and then they are not dropped.
func TestStatesByProcessAndContainer(t *testing.T) {
	outsideGuests(t)
	v2, ns := testenv.CgroupsV2(t), testNetns(t)
	id := hexID(t, 64)
	v2.New(t, "/docker/"+id)
	l := leakIn(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path}, v2.Procs("/docker/"+id))
	z := newZoo(t, ns, false)
	for range n {
		z.finWait2(t, true)
		z.timeWait(t)
		z.zombie(t)
	}
	z.synRecv(t, n)
	acknowledged(t, ns)
	table := kernelStates(t, ns.Path)
	byPid := states(t, append(ownNetns(ns), "--by", "pid")...)
	if !maps.Equal(listed(byPid.States), table) {
		t.Errorf("%v, want %v", byPid.States, table)
	}
	self, found := os.Getpid(), 0
	for _, g := range byPid.By {
		got := present(g.States)
		var want map[string]int
		switch {
		case g.Pid == self && !g.Unknown:
			want = map[string]int{"CLOSE": n, "CLOSE_WAIT": n, "ESTABLISHED": n, "LISTEN": 2}
		case g.Pid == 0 && g.Unknown:
			// Mini-sockets (the leaker's peer has closed first), requests; the leaker's
			// listener, if it is shared.
			want = map[string]int{"FIN_WAIT2": 2 * n, "TIME_WAIT": 2 * n, "SYN_RECV": n}
			delete(got, "LISTEN")
		case g.Pid == l.Pid:
			if got["CLOSE_WAIT"] != n || g.Comm == "" {
				t.Errorf("the leaker %d: %+v", l.Pid, g)
			}
			found++
			continue
		default:
			continue
		}
		found++
		if !maps.Equal(got, want) {
			t.Errorf("%+v: %v, want %v", g, got, want)
		}
	}
	if found != 3 {
		t.Errorf("groups %+v, want those of %d, %d and of nobody among them", byPid.By, self, l.Pid)
	}
	byContainer := states(t, append(ownNetns(ns), "--by", "container")...)
	for _, g := range byContainer.By {
		switch {
		case g.Container == id && g.States["CLOSE_WAIT"] == n:
		case g.Container == "" && !g.Unknown && g.States["CLOSE_WAIT"] == n && g.States["CLOSE"] == n:
		case g.Unknown && g.Container == "" && g.States["TIME_WAIT"] == 2*n && g.States["SYN_RECV"] == n:
		default:
			t.Errorf("group %+v, want container %s, processes in none, nobody", g, id)
		}
	}
	if len(byContainer.By) != 3 {
		t.Errorf("%d groups: %+v", len(byContainer.By), byContainer.By)
	}
	if only := states(t, append(ownNetns(ns), "--container", id)...); only.States["CLOSE_WAIT"] != n || only.States["TIME_WAIT"] != 0 || only.Established != nil {
		t.Errorf("--container: %+v", only)
	}
}

// An MPTCP connection counts once for each of its TCP subflows, as in the kernel's table; it
// belongs to the process that holds the connection.
func TestStatesCountSubflows(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	l := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", MPTCP: true, N: n, Netns: ns.Path})
	acknowledged(t, ns)
	table := kernelStates(t, ns.Path)
	got := states(t, append(ownNetns(ns), "--by", "pid")...)
	if !maps.Equal(listed(got.States), table) {
		t.Errorf("%v, want %v", got.States, table)
	}
	for _, g := range got.By {
		if g.Pid == l.Pid && g.States["CLOSE_WAIT"] != table["CLOSE_WAIT"] {
			t.Errorf("the leaker has %v, want all %d in CLOSE_WAIT", g.States, table["CLOSE_WAIT"])
		}
	}
}

// Request sockets can be asked for by either name.
func TestStatesFilter(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	z := newZoo(t, ns, false)
	z.synRecv(t, n)
	for range n {
		z.finWait2(t, false)
	}
	acknowledged(t, ns)
	for state, want := range map[string]map[string]int{
		"syn-recv":             {"SYN_RECV": n},
		"new-syn-recv":         {"NEW_SYN_RECV": n},
		"fin-wait2,close-wait": {"FIN_WAIT2": n, "CLOSE_WAIT": n},
		"syn-sent":             {},
	} {
		if got := states(t, append(ownNetns(ns), "--state", state)...); !maps.Equal(present(got.States), want) || got.Established != nil {
			t.Errorf("--state %s: %+v, want %v", state, got, want)
		}
	}
}

// setting writes sysctls of the namespace; kernels have not all of them.
func setting(t *testing.T, ns *testenv.Netns, name, value string) {
	t.Helper()
	err := ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o644) })
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

func (c *counts) row(t *testing.T, state string, orphaned bool) standing {
	t.Helper()
	for _, d := range c.Dwell {
		if d.State == state && (d.Orphaned == nil || *d.Orphaned == orphaned) {
			return d
		}
	}
	t.Fatalf("no %s, orphaned %v, in %+v", state, orphaned, c.Dwell)
	return standing{}
}

// Who has the sockets, and by when the kernel ends them.
func TestDwellOfEveryState(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	setting(t, ns, "tcp_syn_linear_timeouts", "0")
	// Long enough for a slow look.
	setting(t, ns, "tcp_syn_retries", "6")
	setting(t, ns, "tcp_synack_retries", "4")
	setting(t, ns, "tcp_orphan_retries", "9")
	setting(t, ns, "tcp_retries2", "8")
	setting(t, ns, "tcp_fin_timeout", "59")
	fillZoo(t, newZoo(t, ns, false))
	got := states(t, append(ownNetns(ns), "--dwell", "--for", "0")...)
	for _, want := range []struct {
		state    string
		orphaned bool
		sockets  int
		limit    time.Duration
		by       string
	}{
		{"SYN_SENT", false, n, 127 * time.Second, "net.ipv4.tcp_syn_retries"},
		{"SYN_RECV", false, n, 31 * time.Second, "net.ipv4.tcp_synack_retries"},
		{"FIN_WAIT1", false, n, 102200 * time.Millisecond, "net.ipv4.tcp_retries2"},
		{"FIN_WAIT1", true, n, 204600 * time.Millisecond, "net.ipv4.tcp_orphan_retries"},
		{"CLOSING", false, n, 102200 * time.Millisecond, "net.ipv4.tcp_retries2"},
		{"CLOSING", true, n, 204600 * time.Millisecond, "net.ipv4.tcp_orphan_retries"},
		{"LAST_ACK", false, n, 102200 * time.Millisecond, "net.ipv4.tcp_retries2"},
		{"LAST_ACK", true, n, 204600 * time.Millisecond, "net.ipv4.tcp_orphan_retries"},
		{"FIN_WAIT2", false, 5 * n, 0, ""},
		{"FIN_WAIT2", true, n, 59 * time.Second, "net.ipv4.tcp_fin_timeout"},
		{"TIME_WAIT", false, 2 * n, time.Minute, "compiled in"},
		{"CLOSE_WAIT", false, 2 * n, 0, ""},
		{"CLOSE", false, n, 0, ""},
	} {
		d := got.row(t, want.state, want.orphaned)
		if d.Sockets != want.sockets || d.LimitNS != int64(want.limit) || d.LimitBy != want.by || d.Meaning == "" || d.OverLimit != 0 {
			t.Errorf("%+v\nwant %+v", d, want)
		}
	}
	if len(got.Dwell) != 13 {
		t.Errorf("%d rows: %+v", len(got.Dwell), got.Dwell)
	}
}

// watchDwell starts watching; judge ends it.
func watchDwell(t *testing.T, ns *testenv.Netns) *running {
	t.Helper()
	return start(t, append([]string{"states", "-o", "json", "--dwell", "--for", patience.String()}, ownNetns(ns)...)...)
}

func judgeDwell(t *testing.T, r *running) *counts {
	t.Helper()
	c := decode[counts](t, r.interrupt(t).want(t, 0).stdout)
	return &c
}

// awaitState waits until the kernel's table has count sockets in a state.
func awaitState(t *testing.T, ns *testenv.Netns, state event.State, count int) {
	t.Helper()
	waitFor(t, func() string {
		if got := kernelStates(t, ns.Path)[state.String()]; got != count {
			return fmt.Sprintf("%d sockets in %v, want %d", got, state, count)
		}
		return ""
	})
}

// A request that nobody answers ends at the limit told, not before.
func TestDwellOfUnansweredRequests(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	setting(t, ns, "tcp_syn_retries", "1")
	setting(t, ns, "tcp_syn_linear_timeouts", "1")
	w := watchDwell(t, ns)
	z := newZoo(t, ns, false)
	// They are in SYN_SENT when connect() has returned, and after 2 s no more: who asks late may
	// not see all of them at once.
	z.synSent(t, n)
	limit := states(t, append(ownNetns(ns), "--dwell", "--for", "0")...).row(t, "SYN_SENT", false).LimitNS
	awaitState(t, ns, event.SynSent, 0)
	got := judgeDwell(t, w)
	for _, l := range got.Left {
		if l.State != "SYN_SENT" {
			continue
		}
		// The connection that filled the queue was answered at once.
		if l.N != n+1 || l.AtLeast != 0 || l.MedianNS < limit-int64(10*time.Millisecond) || l.MedianNS > 2*limit || l.P99NS < l.MedianNS || l.MaxNS < l.P99NS {
			t.Errorf("%+v, want %d of %v at least", l, n+1, time.Duration(limit))
		}
		return
	}
	t.Errorf("nothing left SYN_SENT: %+v", got.Left)
}

// tcp_fin_timeout ends FIN_WAIT2 of a closed socket, and never that of one a program keeps.
func TestDwellInFinWait2(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	setting(t, ns, "tcp_fin_timeout", "3")
	w := watchDwell(t, ns)
	z := newZoo(t, ns, false)
	for range n {
		z.finWait2(t, false)
		z.finWait2(t, true)
	}
	acknowledged(t, ns)
	first := states(t, append(ownNetns(ns), "--dwell", "--for", "0")...)
	if held, orphans := first.row(t, "FIN_WAIT2", false), first.row(t, "FIN_WAIT2", true); held.Sockets != n || held.LimitNS != 0 ||
		orphans.Sockets > n || orphans.LimitNS != int64(3*time.Second) {
		t.Errorf("held %+v, orphans %+v", held, orphans)
	}
	awaitState(t, ns, event.FinWait2, n)
	got := judgeDwell(t, w)
	held, orphans := got.row(t, "FIN_WAIT2", false), got.row(t, "FIN_WAIT2", true)
	if held.Sockets != n || held.OldestNS == nil || held.OldestBound != "exact" || *held.OldestNS < int64(3*time.Second) || orphans.Sockets != 0 {
		t.Errorf("after the orphans are gone: held %+v, orphans %+v", held, orphans)
	}
	if cw := got.row(t, "CLOSE_WAIT", false); cw.Sockets != 2*n || cw.OldestBound != "exact" {
		t.Errorf("CLOSE_WAIT %+v", cw)
	}
}

// A program can be more patient than the settings say: that shows.
func TestDwellOverTheLimit(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	setting(t, ns, "tcp_syn_retries", "1")
	setting(t, ns, "tcp_syn_linear_timeouts", "0")
	w := watchDwell(t, ns)
	z := newZoo(t, ns, false)
	z.synSent(t, n, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_SYNCNT, 9) })
	const limit = 3 * time.Second
	time.Sleep(limit + limit/4)
	awaitState(t, ns, event.SynSent, n)
	got := judgeDwell(t, w).row(t, "SYN_SENT", false)
	if got.Sockets != n || got.LimitNS != int64(limit) || got.OverLimit != n || got.OldestBound != "exact" || *got.OldestNS < int64(limit) {
		t.Errorf("%+v, want %d over %v", got, n, limit)
	}
	text := run(t, append([]string{"states", "--dwell", "--for", "0"}, ownNetns(ns)...)...).want(t, 0).stdout
	if !strings.Contains(text, "SYN_SENT: 23 sockets") || !strings.Contains(text, "connect()") || !strings.Contains(text, "net.ipv4.tcp_syn_retries") {
		t.Errorf("%s", text)
	}
}

// Without any answer the kernel gives up after the limit, not before.
func TestDwellOfLostPeers(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	setting(t, ns, "tcp_orphan_retries", "2")
	z := newZoo(t, ns, false)
	var clients []*end
	for range n {
		client, server := z.pair(t)
		server.shutdown(t, unix.SHUT_WR)
		client.await(t, event.CloseWait)
		clients = append(clients, client)
	}
	w := watchDwell(t, ns)
	linkDown(t, ns)
	for _, c := range clients {
		c.close()
	}
	awaitState(t, ns, event.LastAck, 0)
	got := judgeDwell(t, w)
	limit := got.row(t, "LAST_ACK", true).LimitNS
	for _, l := range got.Left {
		if l.State == "LAST_ACK" {
			if l.N != n || l.AtLeast != 0 || l.MedianNS < limit || limit != int64(1400*time.Millisecond) {
				t.Errorf("%+v, want %d of %v at least", l, n, time.Duration(limit))
			}
			return
		}
	}
	t.Errorf("nothing left LAST_ACK: %+v", got.Left)
}

// linkDown takes the loopback interface away: nothing gets through any more.
func linkDown(t *testing.T, ns *testenv.Netns) {
	t.Helper()
	err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		lo, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo) // without IFF_UP
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What bind() was called for and nothing else: as many as the kernel itself knows since 6.8. What
// was closed after it had a peer is none, what let go of its peer is one.
func TestStatesCountsTheMerelyBound(t *testing.T) {
	ns := testNetns(t)
	z := newZoo(t, ns, false)
	_, queue := z.listen(t, n, func(int) error { return nil })
	// A port that the program has chosen is its own until close().
	port := 20000
	bound := func() *end {
		e := newEnd(t, z.socket(t))
		port++
		if err := unix.Bind(e.fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port}); err != nil {
			t.Fatal(err)
		}
		return e
	}
	for range n {
		z.zombie(t)
		z.socket(t) // not bound
		twice := bound()
		other, err := unix.FcntlInt(uintptr(twice.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup((&end{fd: other}).close)
		again := bound()
		if err := unix.Connect(again.fd, queue); err != nil {
			t.Fatal(err)
		}
		disconnect(t, again.fd)
		refused := bound()
		if err := unix.Connect(refused.fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 1}); !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("not refused: %v", err)
		}
		listening := bound()
		if err := unix.Listen(listening.fd, 1); err != nil {
			t.Fatal(err)
		}
	}
	got := states(t, append(ownNetns(ns), "--by", "pid")...)
	if ours := groupOf(got, os.Getpid()); got.States["BOUND_INACTIVE"] != 3*n || ours["BOUND_INACTIVE"] != got.States["BOUND_INACTIVE"] || got.States["LISTEN"] != n+2 {
		t.Errorf("%v, ours %v", got.States, ours)
	}
	if known := testenv.BoundInactive(t, ns); known > 0 && known != got.States["BOUND_INACTIVE"] {
		t.Errorf("%d merely bound (%v), the kernel says %d", got.States["BOUND_INACTIVE"], got.States, known)
	}
	list := run(t, append([]string{"list", "--state", "bound-inactive", "-o", "json"}, ownNetns(ns)...)...).want(t, 0).stdout
	if listed := strings.Count(list, `"BOUND_INACTIVE"`); listed != got.States["BOUND_INACTIVE"] {
		t.Errorf("%d listed: %s", listed, list)
	}
}

// disconnect is connect() to AF_UNSPEC.
func disconnect(t *testing.T, fd int) {
	t.Helper()
	var none unix.RawSockaddrInet4
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), unix.SizeofSockaddrInet4); errno != 0 {
		t.Fatal(errno)
	}
}

func groupOf(c *counts, pid int) map[string]int {
	for _, g := range c.By {
		if g.Pid == pid {
			return g.States
		}
	}
	return nil
}

// tail tells of TIME_WAIT once for each connection, when it begins; and where it only concludes
// it, it says so, and takes FIN_WAIT2 without a process for it.
func TestTailTellsTimeWait(t *testing.T) {
	d := decode[struct{ Hooks []event.Hook }](t, run(t, "doctor", "-o", "json").want(t, 0).stdout)
	exact := slices.ContainsFunc(d.Hooks, func(h event.Hook) bool { return h.Fact == "time_wait" && h.Attached })
	ns := testNetns(t)
	tail := start(t, append([]string{"tail", "-o", "json", "--state", "time-wait"}, ownNetns(ns)...)...)
	z := newZoo(t, ns, false)
	want := n
	if !exact {
		want = 2 * n
	}
	for range n {
		z.timeWait(t)
		z.finWait2(t, true)
	}
	awaitState(t, ns, event.TimeWait, n)
	awaitState(t, ns, event.FinWait2, n)
	dec := json.NewDecoder(tail.stdout)
	for i := range want {
		var tr struct {
			Old       string `json:"old_state"`
			New       string `json:"new_state"`
			InStateNS *int64 `json:"in_state_ns"`
			Bound     string `json:"in_state_bound"`
			Inferred  bool
			Netns     uint32
		}
		if err := dec.Decode(&tr); err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
		if tr.New != "TIME_WAIT" || tr.Netns != ns.Inode || tr.Inferred == exact || tr.Bound != "exact" || tr.InStateNS == nil {
			t.Errorf("%+v, the hook is attached: %v", tr, exact)
		}
	}
	if rest := tail.interrupt(t).want(t, 0).stdout; strings.Contains(rest, "TIME_WAIT") {
		t.Errorf("more than %d: %s", want, rest)
	}
}
