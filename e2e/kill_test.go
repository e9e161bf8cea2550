package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// killed is an audit line as a script reads it.
type killed struct {
	socket
	Schema, Action, Reason string
	Cookie                 uint64
	Time                   time.Time
}

// killAudit reads the lines of kill -o json.
func killAudit(t *testing.T, r result) []killed {
	t.Helper()
	var lines []killed
	for dec := json.NewDecoder(strings.NewReader(r.stdout)); ; {
		var k killed
		if err := dec.Decode(&k); errors.Is(err, io.EOF) {
			return lines
		} else if err != nil {
			t.Fatalf("%v in %q", err, r.stdout)
		}
		if k.Schema != "tcpwaitd/v1" || k.Kind != "kill" || k.Time.IsZero() {
			t.Fatalf("audit line %+v", k)
		}
		lines = append(lines, k)
	}
}

// killActions counts what became of the sockets.
func killActions(lines []killed) map[string]int {
	got := map[string]int{}
	for _, k := range lines {
		got[k.Action]++
	}
	return got
}

// killListed is the set of sockets in CLOSE_WAIT, as list sees it.
func killListed(t *testing.T, ns *testenv.Netns) []uint64 {
	t.Helper()
	r := run(t, "list", "--state", "close-wait", "--netns", inode(ns), "-o", "json").want(t, 0)
	var all []uint64
	for _, s := range decode[struct{ Sockets []killed }](t, r.stdout).Sockets {
		all = append(all, s.Cookie)
	}
	slices.Sort(all)
	return all
}

// killTable is the kernel's own, in an order that can be compared. TIME_WAIT comes and goes.
func killTable(t *testing.T, ns *testenv.Netns) []string {
	t.Helper()
	var rows []string
	for _, r := range testenv.TCPTable(t, ns.Path) {
		if r.State != event.TimeWait {
			rows = append(rows, fmt.Sprint(r.Lport, r.Rport, r.State, r.RecvQ, r.Inode))
		}
	}
	slices.Sort(rows)
	return rows
}

// killWaiting counts the rows in CLOSE_WAIT by local port.
func killWaiting(t *testing.T, ns *testenv.Netns) map[uint16]int {
	t.Helper()
	got := map[uint16]int{}
	for _, r := range testenv.TCPTable(t, ns.Path) {
		if r.State == event.CloseWait {
			got[r.Lport]++
		}
	}
	return got
}

// killFDs lists the descriptors of a process with what they refer to.
func killFDs(t *testing.T, pid int) map[string]string {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, link := range links {
		if got[link], err = os.Readlink(link); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

// Without --yes nothing happens, and the reader learns what it would be good for.
func TestKillDryRunChangesNothing(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	queue := testenv.StartLeaker(t, testenv.Options{Cause: "unaccepted", N: n, Netns: ns.Path})
	acknowledged(t, ns)
	before := killTable(t, ns)
	for _, args := range [][]string{{}, {"-o", "wide"}, {"-o", "json"}, {"-o", "csv"}, {"--limit", "7"}} {
		r := run(t, append([]string{"kill", "--netns", inode(ns)}, args...)...).want(t, 0)
		if after := killTable(t, ns); !slices.Equal(before, after) {
			t.Fatalf("%v: the table was %v, is %v", args, before, after)
		}
		if all := r.stdout + r.stderr; !strings.Contains(all, "add --yes") {
			t.Errorf("%v: it does not say that nothing was done: %q", args, all)
		}
	}
	r := run(t, "kill", "--netns", inode(ns))
	for _, want := range []string{
		"46 sockets would be destroyed", "not cured", "too many open files", "The evidence is gone",
		"23 unaccepted: the accept queue stays as full as it is", "23 eof_ignored:",
		fmt.Sprintf("tcpwaitd diagnose -p %d,%d -o json > evidence.json", min(leak.Pid, queue.Pid), max(leak.Pid, queue.Pid)),
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in\n%s", want, r.stdout)
		}
	}
	if got := killActions(killAudit(t, run(t, "kill", "--netns", inode(ns), "-o", "json"))); !maps.Equal(got, map[string]int{"would_destroy": 2 * n}) {
		t.Errorf("json: %v", got)
	}
}

// Of several leaks just the sockets of one go, with one audit line each.
func TestKillDestroysJustTheChosen(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	victim := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	others := 0
	for _, cause := range []string{"eof_ignored", "unread_eof", "unread_data", "unaccepted", "half_close", "out_eof", "in_flight"} {
		testenv.StartLeaker(t, testenv.Options{Cause: cause, N: n, Netns: ns.Path})
		others += n
	}
	before, waits, open := killListed(t, ns), killWaiting(t, ns), killFDs(t, victim.Pid)
	chosen := map[uint64]bool{}
	for _, s := range victim.Entered {
		chosen[s.Cookie] = true
	}

	r := run(t, "kill", "-p", strconv.Itoa(victim.Pid), "--netns", inode(ns), "--yes", "-o", "json").want(t, 0)
	lines := killAudit(t, r)
	told := map[uint64]bool{}
	for _, k := range lines {
		told[k.Cookie] = true
		if k.Action != "destroyed" || k.Reason != "" || k.State != "CLOSE_WAIT" || k.Cause != "eof_ignored" ||
			k.Owner.Pid != victim.Pid || k.Netns != ns.Inode || k.Lport != victim.Lport || k.DwellNS == nil ||
			len(k.Holders) != 1 || k.Holders[0].Pid != victim.Pid {
			t.Errorf("audit line %+v", k)
		}
	}
	if len(lines) != n || !maps.Equal(told, chosen) {
		t.Errorf("%d audit lines %v, chosen were %v", len(lines), told, chosen)
	}
	if !strings.Contains(r.stderr, "23 sockets destroyed\n") ||
		!strings.Contains(r.stderr, fmt.Sprintf("tcpwaitd list --state close -p %d", victim.Pid)) {
		t.Errorf("summary %q", r.stderr)
	}

	// What is left is what was there, without those.
	left := slices.DeleteFunc(slices.Clone(before), func(c uint64) bool { return chosen[c] })
	if after := killListed(t, ns); !slices.Equal(after, left) || len(after) != others {
		t.Errorf("list: %d sockets left, want %d: %v", len(after), others, after)
	}
	delete(waits, victim.Lport)
	if after := killWaiting(t, ns); !maps.Equal(after, waits) {
		t.Errorf("the kernel's table: %v, want %v", after, waits)
	}
	killLeftZombies(t, victim, open, chosen)
	t.Run("ss", func(t *testing.T) {
		var after []uint64
		for _, row := range testenv.SS(t, ns.Path) {
			after = append(after, row.Cookie)
		}
		slices.Sort(after)
		if !slices.Equal(after, left) {
			t.Errorf("%d sockets left, want %d: %v", len(after), len(left), after)
		}
	})
}

// The descriptors stay, and are shown as what they are now.
func killLeftZombies(t *testing.T, victim *testenv.Leaker, open map[string]string, chosen map[uint64]bool) {
	t.Helper()
	if now := killFDs(t, victim.Pid); !maps.Equal(now, open) {
		t.Errorf("descriptors %v, before %v", now, open)
	}
	r := run(t, "list", "--state", "close", "-p", strconv.Itoa(victim.Pid), "-o", "json").want(t, 0)
	zombies := decode[list](t, r.stdout).Sockets
	if got := named(zombies); !maps.Equal(got, map[blame]int{{victim.Pid, "zombie_fd"}: len(chosen)}) {
		t.Errorf("afterwards: %v", got)
	}
}

// What is not in CLOSE_WAIT, or in use, is left alone unless told otherwise.
func TestKillRefuses(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	half := testenv.StartLeaker(t, testenv.Options{Cause: "half_close", N: n, Netns: ns.Path})
	live, listener := killConnected(t, ns)
	acknowledged(t, ns)
	before := killTable(t, ns)
	alone := func(r result, code int, reason string, count int) {
		t.Helper()
		lines := killAudit(t, r.want(t, code))
		if got := killActions(lines); !maps.Equal(got, map[string]int{"refused": count}) || !strings.Contains(lines[0].Reason, reason) {
			t.Errorf("%v, %+v: want the reason %q", got, lines, reason)
		}
	}
	pid := strconv.Itoa(half.Pid)
	alone(run(t, "kill", "-p", pid, "--yes", "-o", "json"), 0, "--half-close", n)
	alone(run(t, "kill", "--cookie", live.cookie, "--yes", "-o", "json"), 1, "it is in ESTABLISHED, not in CLOSE_WAIT; --any-state", 1)
	alone(run(t, "kill", "--cookie", listener, "--yes", "--any-state", "-o", "json"), 1, "it listens", 1)
	run(t, "kill", "-p", pid, "--yes", "--half-close", "--limit", "22").want(t, 2)
	for _, args := range []string{"", "--min-dwell 1ms", "-4", "--any-state", "--state close-wait"} {
		run(t, append([]string{"kill", "--yes"}, strings.Fields(args)...)...).want(t, 2)
	}
	if after := killPortsAndStates(killTable(t, ns)); !slices.Equal(after, killPortsAndStates(before)) {
		t.Errorf("the table was %v, is %v", before, after)
	}

	r := run(t, "kill", "--cookie", live.cookie, "--yes", "--any-state", "-o", "json").want(t, 0)
	if got := killActions(killAudit(t, r)); !maps.Equal(got, map[string]int{"destroyed": 1}) {
		t.Errorf("with --any-state: %v", got)
	}
	if _, err := live.conn.Write([]byte{1}); !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("its program is told %v", err)
	}
}

// killPortsAndStates leaves out queues, which move while something is sent.
func killPortsAndStates(rows []string) []string {
	var out []string
	for _, row := range rows {
		f := strings.Fields(row)
		out = append(out, strings.Join(slices.Concat(f[:3], f[4:]), " "))
	}
	slices.Sort(out)
	return out
}

// killEnd is a socket of this process.
type killEnd struct {
	conn   *net.TCPConn
	cookie string
}

// killConnected makes a connection in the namespace and returns its accepting end, the other
// one being kept open, and the cookie of the listener.
func killConnected(t *testing.T, ns *testenv.Netns) (server killEnd, listener string) {
	t.Helper()
	server, _, listener = killPairIn(t, ns)
	return server, listener
}

func killPairIn(t *testing.T, ns *testenv.Netns) (server, client killEnd, listener string) {
	t.Helper()
	if err := ns.Do(func() (err error) {
		server, client, listener, err = killMakePair(t)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return server, client, listener
}

// killMakePair works in the namespace of the calling thread. Plain TCP: Go listens by MPTCP.
func killMakePair(t *testing.T) (server, client killEnd, listener string, err error) {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return server, client, "", err
	}
	t.Cleanup(func() { l.Close() })
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		return server, client, "", err
	}
	t.Cleanup(func() { c.Close() })
	s, err := l.Accept()
	if err != nil {
		return server, client, "", err
	}
	t.Cleanup(func() { s.Close() })
	server.conn, client.conn = s.(*net.TCPConn), c.(*net.TCPConn)
	server.cookie, client.cookie = killCookieOf(t, server.conn), killCookieOf(t, client.conn)
	return server, client, killCookieOf(t, l.(*net.TCPListener)), nil
}

func killCookieOf(t *testing.T, s syscall.Conn) string {
	t.Helper()
	var cookie uint64
	killOnDescriptor(t, s, func(fd int) (err error) {
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		return err
	})
	return strconv.FormatUint(cookie, 10)
}

func killOnDescriptor(t *testing.T, s syscall.Conn, f func(fd int) error) {
	t.Helper()
	raw, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if controlErr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); controlErr != nil || err != nil {
		t.Fatal(errors.Join(controlErr, err))
	}
}

func killStateOf(t *testing.T, s syscall.Conn) (state event.State) {
	t.Helper()
	killOnDescriptor(t, s, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
		if err == nil {
			state = event.State(info.State)
		}
		return err
	})
	return state
}

// What the program and its peer notice, as the help and docs/kill.md say.
func TestKillAsTheProgramSeesIt(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	server, client, _ := killPairIn(t, ns)
	if _, err := client.conn.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	if err := client.conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	becomes(t, "CLOSE_WAIT", func() bool { return killStateOf(t, server.conn) == event.CloseWait })
	// A writer that is blocked, for the peer does not read.
	blocked := make(chan error, 1)
	go func() {
		for chunk := make([]byte, 1<<16); ; {
			if _, err := server.conn.Write(chunk); err != nil {
				blocked <- err
				return
			}
		}
	}()
	sent := -1
	becomes(t, "a blocked writer", func() bool {
		before := sent
		killOnDescriptor(t, server.conn, func(fd int) (err error) {
			sent, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
			return err
		})
		return sent > 1<<16 && sent == before
	})
	if killPoll(t, server.conn)&(unix.POLLERR|unix.POLLHUP) != 0 {
		t.Error("poll() tells of an error before there is one")
	}

	r := run(t, "kill", "--cookie", server.cookie, "--half-close", "--yes", "-o", "json").want(t, 0)
	if got := killActions(killAudit(t, r)); !maps.Equal(got, map[string]int{"destroyed": 1}) {
		t.Fatalf("%v %s", got, r.stdout)
	}
	if got := killPoll(t, server.conn); got&unix.POLLHUP == 0 {
		t.Errorf("poll() tells %#x, want POLLHUP", got)
	}
	if err := <-blocked; !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("the writer wakes with %v", err)
	}
	if got, err := io.ReadAll(server.conn); string(got) != "unread" || err != nil {
		t.Errorf("read() returns %q, %v: want what was unread, then the end", got, err)
	}
	if _, err := io.Copy(io.Discard, client.conn); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the peer reads %v", err)
	}
	if got := killStateOf(t, server.conn); got != event.Close {
		t.Errorf("the socket is in %v", got)
	}
}

func killPoll(t *testing.T, s syscall.Conn) (events int16) {
	t.Helper()
	killOnDescriptor(t, s, func(fd int) error {
		list := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, err := unix.Poll(list, 0)
		events = list[0].Revents
		return err
	})
	return events
}

// A destroyed connection keeps its place in the accept queue: no cure for a full one.
func TestKillDoesNotFreeTheAcceptQueue(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "unaccepted", N: n, Netns: ns.Path})
	queued := func() (length int) {
		for _, row := range testenv.TCPTable(t, ns.Path) {
			if row.State == event.Listen && row.Lport == leak.Lport {
				length = int(row.RecvQ)
			}
		}
		return length
	}
	if before := queued(); before != n {
		t.Fatalf("%d connections are queued, want %d", before, n)
	}
	r := run(t, "kill", "-L", fmt.Sprint(leak.Lport), "--netns", inode(ns), "--yes", "-o", "json").want(t, 0)
	if got := killActions(killAudit(t, r)); !maps.Equal(got, map[string]int{"destroyed": n}) {
		t.Errorf("%v", got)
	}
	if strings.Contains(r.stderr, "descriptors") {
		t.Errorf("nobody has descriptors of them: %q", r.stderr)
	}
	if left := killWaiting(t, ns)[leak.Lport]; left != 0 {
		t.Errorf("%d are left in CLOSE_WAIT", left)
	}
	if after := queued(); after != n {
		t.Errorf("%d connections are queued afterwards; if the kernel frees places now, kill and docs/kill.md must say so", after)
	}
}

func TestKillCannotDestroyMPTCP(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	killNeedsMPTCP(t)
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path, MPTCP: true})
	r := run(t, "kill", "-p", strconv.Itoa(leak.Pid), "--netns", inode(ns), "--yes", "-o", "json").want(t, 0)
	lines := killAudit(t, r)
	if got := killActions(lines); !maps.Equal(got, map[string]int{"refused": n}) || !strings.Contains(lines[0].Reason, "MPTCP") {
		t.Errorf("%v, %+v", got, lines)
	}
	r = run(t, "list", "-p", strconv.Itoa(leak.Pid), "-o", "json")
	if got := named(decode[list](t, r.stdout).Sockets); got[blame{leak.Pid, "eof_ignored"}] != n {
		t.Errorf("afterwards: %v", got)
	}
}

func killNeedsMPTCP(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		testenv.Skip(t, "mptcp", err.Error())
	}
	unix.Close(fd)
}

// A namespace that only a socket keeps alive is seen, but cannot be entered.
func TestKillWhereNobodyCanEnter(t *testing.T) {
	outsideGuests(t)
	testenv.RequireRoot(t)
	var (
		server, client killEnd
		err            error
	)
	killOnOwnThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		if err = killLoopbackUp(); err == nil {
			server, client, _, err = killMakePair(t)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	becomes(t, "CLOSE_WAIT", func() bool { return killStateOf(t, server.conn) == event.CloseWait })
	for _, args := range [][]string{{}, {"--yes"}} {
		r := run(t, append([]string{"kill", "--cookie", server.cookie, "-o", "json"}, args...)...).want(t, 1)
		lines := killAudit(t, r)
		if len(lines) != 1 || lines[0].Action != "failed" || !strings.Contains(lines[0].Reason, "cannot be entered") {
			t.Errorf("%v: %+v, stderr %q", args, lines, r.stderr)
		}
	}
	if got := killStateOf(t, server.conn); got != event.CloseWait {
		t.Errorf("the socket is in %v", got)
	}
}

// killLoopbackUp works in the namespace of the calling thread.
func killLoopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// An interrupt ends it between two sockets, and what was done is told.
func TestKillInterrupted(t *testing.T) {
	outsideGuests(t)
	const many = 503
	ns := testNetns(t)
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: many, Netns: ns.Path})
	cmd := prepare(t, "kill", "-p", strconv.Itoa(leak.Pid), "--netns", inode(ns), "--yes", "-o", "json")
	// Nobody reads: the pipe fills up, and no socket is destroyed without its line.
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := many
	becomes(t, "a full pipe", func() bool {
		before := last
		last = killWaiting(t, ns)[leak.Lport]
		return last < many && last == before
	})
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	// It knows before the pipe is read, or it could be through with the rest by then.
	awaitAsleep(t, cmd.Process.Pid)
	out, err := io.ReadAll(stdout)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, &stderr)
	}
	left := killWaiting(t, ns)[leak.Lport]
	done := killAudit(t, result{stdout: string(out)})
	if got := killActions(done); !maps.Equal(got, map[string]int{"destroyed": many - left}) || left == 0 {
		t.Errorf("told %v, left %d of %d", got, left, many)
	}
	if want := fmt.Sprintf("interrupted: %d of %d sockets were left as they were\n", left, many); !strings.Contains(stderr.String(), want) {
		t.Errorf("no %q in %q", want, &stderr)
	}
}

// A closed pipe ends it too: nothing is destroyed that cannot be told of.
func TestKillStopsWithoutAudit(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	cmd := prepare(t, "kill", "-p", strconv.Itoa(leak.Pid), "--netns", inode(ns), "--yes", "-o", "json")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close()
	cmd.Stdout = write
	var stderr strings.Builder
	cmd.Stderr = &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("%v", err)
	}
	write.Close()
	if left := killWaiting(t, ns)[leak.Lport]; left != n-1 || !strings.Contains(stderr.String(), "1 socket destroyed") {
		t.Errorf("%d of %d left: %s", left, n, &stderr)
	}
}

func TestKillWithoutPrivilege(t *testing.T) {
	outsideGuests(t)
	testenv.RequireRoot(t)
	cmd := prepare(t, "kill", "-p", strconv.Itoa(os.Getpid()))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if r := finish(t, cmd).want(t, 5); !strings.Contains(r.stderr, "privilege") || !strings.Contains(r.stderr, "root") {
		t.Errorf("nobody: no cause and cure in %q", r.stderr)
	}
	// Root, but for the one capability.
	var (
		r   result
		err error
	)
	killOnOwnThread(func() {
		if err = unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_NET_ADMIN, 0, 0, 0); err == nil {
			r = finish(t, prepare(t, "kill", "-p", strconv.Itoa(os.Getpid())))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.want(t, 5); !strings.Contains(r.stderr, "NET_ADMIN") {
		t.Errorf("without CAP_NET_ADMIN: no cause in %q", r.stderr)
	}
}

// killOnOwnThread runs f on a thread that ends with it, whatever f has done to it.
func killOnOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			f()
			return
		}
		// Go cannot end the main thread, and /proc/PID shows it. While it is held here the next
		// goroutine gets another one.
		defer runtime.UnlockOSThread()
		killOnOwnThread(f)
	}()
	<-done
}
