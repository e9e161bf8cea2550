package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// explained is what explain says of one socket.
type explained struct {
	pairedSocket
	Timeline []step
	Endings  []string
	Commands []string
	Advice   []string
}

type step struct {
	Time, Earliest *time.Time
	Bound          string
	What           string
	Pid, Tid       int
	Comm           string
	Evidence       string
	Stack          string
}

// explain asks for one socket.
func explain(t *testing.T, cookie uint64) explained {
	t.Helper()
	r := run(t, "explain", fmt.Sprint("cookie:", cookie), "-o", "json").want(t, 0)
	return decode[explained](t, r.stdout)
}

// saysAll fails unless each text is in one of the lines.
func saysAll(t *testing.T, lines []string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, text) }) {
			t.Errorf("nothing says %q: %q", text, lines)
		}
	}
}

// inKernel reports whether the server's end exists for the kernel: in any state but the last ones.
func (e *ends) inKernel(t *testing.T) bool {
	t.Helper()
	return slices.ContainsFunc(testenv.TCPTable(t, e.ns.Path), func(r testenv.TCPRow) bool {
		return r.Lport == e.lport && r.Rport == e.from && (r.State == event.CloseWait || r.State == event.Established)
	})
}

func (e *ends) endsInKernel(t *testing.T) {
	t.Helper()
	becomes(t, "the kernel's socket has ended", func() bool { return !e.inKernel(t) })
}

// keepalive probes every second.
func keepalive(t *testing.T, fd int) {
	t.Helper()
	must(t, errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_KEEPINTVL, 1),
		unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_KEEPIDLE, 1),
	))
}

// inCloseWait is a connection whose server keeps it in CLOSE_WAIT.
func inCloseWait(t *testing.T, ns *testenv.Netns, clientKeeps bool) *ends {
	t.Helper()
	e := dialEnds(t, ns, ns, addr("127.0.0.1:0"), addr("127.0.0.1:0"), 0)
	e.accept(t)
	e.peerCloses(t, clientKeeps)
	return e
}

const (
	drawsRST    = "A send by the program: the other end is"
	stays       = "the descriptor stays open until close()"
	noTimer     = "No timer: keepalive is off"
	nothingElse = "Nothing from the network"
)

// isZombie: the kernel's socket is closed, the descriptor is not, and tcpwaitd says so.
func isZombie(t *testing.T, e *ends) {
	t.Helper()
	becomes(t, "CLOSE", func() bool { return stateOf(t, e.server) == event.Close })
	x := explain(t, cookieOf(t, e.server))
	if x.Cause != "zombie_fd" {
		t.Errorf("cause %q", x.Cause)
	}
	saysAll(t, x.Endings, fmt.Sprintf("close() of descriptor %d of pid %d", e.server, os.Getpid()), "only the descriptor is left")
	cookie := cookieOf(t, e.server)
	e.close(t, &e.server)
	if r := run(t, "explain", fmt.Sprint("cookie:", cookie)); r.code != 1 || !strings.Contains(r.stderr, "ended") {
		t.Errorf("closed, and still explained: %+v", r)
	}
}

// What explain says would end a wait does, and what it says would not does not.
func TestExplainEndings(t *testing.T) {
	outsideGuests(t)
	for name, test := range map[string]func(*testing.T, *testenv.Netns){
		"close":                endsByClose,
		"all holders":          endsWithAllHolders,
		"copies":               endsWithAllCopies,
		"send, closed":         endsBySend(false),
		"send, gone":           endsBySend(true),
		"keepalive, gone":      endsByKeepalive,
		"keepalive, answered":  staysByKeepalive,
		"accept":               endsByAccept,
		"listener":             endsWithListener,
		"message, received":    endsInMessage(true),
		"message, thrown away": endsInMessage(false),
		"FIN_WAIT2, closed":    finWaitEnds(true),
		"FIN_WAIT2, here only": finWaitEnds(false),
	} {
		t.Run(name, func(t *testing.T) {
			ns := testNetns(t)
			shortFinWait(t, ns)
			test(t, ns)
		})
	}
}

func endsByClose(t *testing.T, ns *testenv.Netns) {
	t.Helper()
	e := inCloseWait(t, ns, true)
	x := explain(t, cookieOf(t, e.server))
	saysAll(t, x.Endings, fmt.Sprintf("close() of descriptor %d of pid %d", e.server, os.Getpid()),
		nothingElse, fmt.Sprintf("pid %d", os.Getpid()))
	e.close(t, &e.server)
	e.endsInKernel(t)
}

func endsWithAllHolders(t *testing.T, ns *testenv.Netns) {
	t.Helper()
	e := inCloseWait(t, ns, true)
	child := exec.Command("sleep", "1000")
	// The parent's copy is of the same open file.
	dup, err := unix.FcntlInt(uintptr(e.server), unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	file := os.NewFile(uintptr(dup), "socket")
	child.ExtraFiles = []*os.File{file}
	must(t, child.Start())
	must(t, file.Close())
	ended := false
	t.Cleanup(func() {
		if !ended {
			_ = child.Process.Kill()
			_ = child.Wait() // killed
		}
	})
	x := explain(t, cookieOf(t, e.server))
	saysAll(t, x.Endings, "close() by both processes", fmt.Sprintf("descriptor %d of pid %d", e.server, os.Getpid()),
		fmt.Sprintf("descriptor 3 of pid %d (sleep)", child.Process.Pid), "as long as one of them lives")
	shared := decode[struct {
		Shared []struct{ Pid, N int }
	}](t, run(t, "explain", fmt.Sprint("pid:", os.Getpid()), "-o", "json").want(t, 0).stdout).Shared
	if len(shared) != 1 || shared[0].Pid != child.Process.Pid || shared[0].N != 1 {
		t.Errorf("shared with %+v, want one socket with pid %d", shared, child.Process.Pid)
	}
	cookie := cookieOf(t, e.server)
	e.close(t, &e.server)
	if x = explain(t, cookie); x.State != "CLOSE_WAIT" || !e.inKernel(t) {
		t.Fatalf("one of two closed, and it ended: %+v", x)
	}
	saysAll(t, x.Endings, fmt.Sprintf("close() of descriptor 3 of pid %d", child.Process.Pid), fmt.Sprintf("The end of pid %d (sleep)", child.Process.Pid))
	must(t, child.Process.Kill())
	_ = child.Wait() // killed
	ended = true
	e.endsInKernel(t)
}

func endsWithAllCopies(t *testing.T, ns *testenv.Netns) {
	t.Helper()
	e := inCloseWait(t, ns, true)
	dup, err := unix.FcntlInt(uintptr(e.server), unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	x := explain(t, cookieOf(t, e.server))
	saysAll(t, x.Endings, "copies of one", fmt.Sprintf("descriptor %d of pid %d", dup, os.Getpid()))
	e.close(t, &e.server)
	if !e.inKernel(t) {
		t.Error("one of two copies closed, and it ended")
	}
	must(t, unix.Close(dup))
	e.endsInKernel(t)
}

func endsBySend(gone bool) func(*testing.T, *testenv.Netns) {
	return func(t *testing.T, ns *testenv.Netns) {
		t.Helper()
		if !gone {
			must(t, ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_fin_timeout", []byte("60"), 0) }))
		}
		e := inCloseWait(t, ns, false)
		word := "closed"
		if gone {
			word = "gone"
			forgotten(t, e)
		}
		x := explain(t, cookieOf(t, e.server))
		saysAll(t, x.Endings, drawsRST+" "+word, stays, noTimer)
		if x.Peer == nil || x.Peer.Gone != gone {
			t.Errorf("peer %+v, want gone %v", x.Peer, gone)
		}
		_, err := unix.Write(e.server, []byte("x"))
		must(t, err)
		isZombie(t, e)
	}
}

func endsByKeepalive(t *testing.T, ns *testenv.Netns) {
	t.Helper()
	e := inCloseWait(t, ns, false)
	must(t, unix.SetsockoptInt(e.server, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1))
	forgotten(t, e)
	x := explain(t, cookieOf(t, e.server))
	saysAll(t, x.Endings, "The next keepalive probe: it draws a RST", stays)
	keepalive(t, e.server)
	isZombie(t, e)
}

// Who still holds the other end answers every probe.
func staysByKeepalive(t *testing.T, ns *testenv.Netns) {
	t.Helper()
	e := inCloseWait(t, ns, true)
	keepalive(t, e.server)
	saysAll(t, explain(t, cookieOf(t, e.server)).Endings, nothingElse)
	for range 2 {
		last := time.Now()
		becomes(t, "a probe is answered", func() bool {
			info, err := unix.GetsockoptTCPInfo(e.server, unix.SOL_TCP, unix.TCP_INFO)
			must(t, err)
			return time.Since(last) > time.Duration(info.Last_ack_recv)*time.Millisecond
		})
	}
	if s := stateOf(t, e.server); s != event.CloseWait {
		t.Errorf("%v, want CLOSE_WAIT", s)
	}
	x := explain(t, cookieOf(t, e.server))
	saysAll(t, x.Endings, nothingElse)
	if !slices.ContainsFunc(x.Timeline, func(s step) bool { return strings.Contains(s.What, "now CLOSE_WAIT") && s.Time != nil }) {
		t.Errorf("timeline %+v", x.Timeline)
	}
}

// queued is a connection that waits in the accept queue, its client has closed.
func queued(t *testing.T, ns *testenv.Netns) *ends {
	t.Helper()
	e := dialEnds(t, ns, ns, addr("127.0.0.1:0"), addr("127.0.0.1:0"), 0)
	must(t, unix.Shutdown(e.client, unix.SHUT_WR))
	var cookie uint64
	becomes(t, "an unaccepted wait", func() bool {
		for _, s := range paired(t, "--netns", inode(ns)) {
			cookie = s.Cookie
		}
		return cookie != 0
	})
	x := explain(t, cookie)
	if x.Cause != "unaccepted" || x.Peer == nil || x.Peer.Pid != os.Getpid() {
		t.Errorf("%+v, peer %+v", x, x.Peer)
	}
	saysAll(t, x.Endings, fmt.Sprintf("accept() and then close() by pid %d", os.Getpid()),
		fmt.Sprintf("close() of the listening socket (descriptor %d of pid %d", e.listener, os.Getpid()))
	return e
}

func endsByAccept(t *testing.T, ns *testenv.Netns) {
	t.Helper()
	e := queued(t, ns)
	e.accept(t)
	if !e.inKernel(t) {
		t.Error("accept() alone has ended it")
	}
	e.close(t, &e.server)
	e.endsInKernel(t)
}

func endsWithListener(t *testing.T, ns *testenv.Netns) {
	t.Helper()
	e := queued(t, ns)
	e.close(t, &e.listener)
	e.endsInKernel(t)
	becomes(t, "the client is reset", func() bool { return stateOf(t, e.client) == event.Close })
}

func endsInMessage(received bool) func(*testing.T, *testenv.Netns) {
	return func(t *testing.T, ns *testenv.Netns) {
		t.Helper()
		e := inCloseWait(t, ns, true)
		cookie := cookieOf(t, e.server)
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		defer func() {
			for _, fd := range pair {
				if fd >= 0 {
					unix.Close(fd)
				}
			}
		}()
		must(t, unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(e.server), nil, 0))
		e.close(t, &e.server)
		x := explain(t, cookie)
		if x.Cause != "in_flight" {
			t.Errorf("cause %q", x.Cause)
		}
		saysAll(t, x.Endings, "recvmsg() and then close() of the descriptor received",
			fmt.Sprintf("descriptor %d of pid %d", pair[1], os.Getpid()), "close() of that unix socket by all that hold it")
		saysAll(t, x.Commands, fmt.Sprintf("ls -l /proc/%d/fd/%d", os.Getpid(), pair[1]))
		if !received {
			must(t, errors.Join(unix.Close(pair[1]), unix.Close(pair[0])))
			pair = [2]int{-1, -1}
			e.endsInKernel(t)
			return
		}
		buf, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := unix.Recvmsg(pair[1], buf, rights, unix.MSG_CMSG_CLOEXEC)
		must(t, err)
		messages, err := unix.ParseSocketControlMessage(rights[:n])
		must(t, err)
		fds, err := unix.ParseUnixRights(&messages[0])
		must(t, err)
		e.server = fds[0]
		if !e.inKernel(t) {
			t.Error("receiving alone has ended it")
		}
		e.close(t, &e.server)
		e.endsInKernel(t)
	}
}

// finWaitEnds: the end that waits for the peer's FIN.
func finWaitEnds(there bool) func(*testing.T, *testenv.Netns) {
	return func(t *testing.T, ns *testenv.Netns) {
		t.Helper()
		e := inCloseWait(t, ns, true)
		acknowledged(t, ns)
		x := explain(t, cookieOf(t, e.client))
		if x.State != "FIN_WAIT2" || x.Cause != "" || x.Peer == nil || x.Peer.State != "CLOSE_WAIT" || x.Peer.Cookie != cookieOf(t, e.server) {
			t.Errorf("%+v, peer %+v", x, x.Peer)
		}
		saysAll(t, x.Endings, fmt.Sprintf("close() of the other end by pid %d", os.Getpid()),
			fmt.Sprintf("close() of descriptor %d of pid %d", e.client, os.Getpid()), "stays in CLOSE_WAIT")
		if there {
			e.close(t, &e.server)
			becomes(t, "the end of FIN_WAIT2", func() bool { return stateOf(t, e.client) == event.Close })
			return
		}
		e.close(t, &e.client)
		forgotten(t, e)
		if s := stateOf(t, e.server); s != event.CloseWait {
			t.Errorf("the other end is in %v, want CLOSE_WAIT", s)
		}
	}
}

// Every command that is printed runs and shows what it is about.
func TestExplainCommands(t *testing.T) {
	outsideGuests(t)
	path, err := binary()
	must(t, err)
	bin := t.TempDir()
	must(t, os.Symlink(path, filepath.Join(bin, "tcpwaitd")))
	ns := testNetns(t)
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	stuck := testenv.StartLeaker(t, testenv.Options{Cause: "unaccepted", N: n, Netns: ns.Path})
	// Of this process, which does not live in the namespace.
	outside := inCloseWait(t, ns, true)
	home := inCloseWait(t, &testenv.Netns{Path: "/proc/self/ns/net"}, true)
	shows := func(port uint16) []string { return []string{fmt.Sprint(port), "socket:["} }
	for name, test := range map[string]struct {
		commands []string
		shows    []string
		// says is what one of the commands must begin with.
		says string
	}{
		"socket":         {explain(t, leak.Entered[0].Cookie).Commands, shows(leak.Lport), fmt.Sprintf("nsenter -t %d -n ss ", leak.Pid)},
		"outside":        {explain(t, cookieOf(t, outside.server)).Commands, shows(outside.lport), "ip netns exec " + ns.Name + " ss "},
		"own namespace":  {explain(t, cookieOf(t, home.server)).Commands, shows(home.lport), "ss "},
		"process":        {commandsOf(t, leak.Pid), shows(leak.Lport), fmt.Sprintf("nsenter -t %d -n ss ", leak.Pid)},
		"unaccepted":     {commandsOf(t, stuck.Pid), shows(stuck.Lport), fmt.Sprintf("nsenter -t %d -n ss -tlnp", stuck.Pid)},
		"diagnosed":      {diagnosed(t, ns, leak.Pid), shows(leak.Lport), fmt.Sprintf("nsenter -t %d -n ss ", leak.Pid)},
		"diagnosed, own": {diagnosed(t, ns, os.Getpid()), shows(outside.lport), "ip netns exec " + ns.Name + " ss "},
	} {
		if !slices.ContainsFunc(test.commands, func(c string) bool { return strings.HasPrefix(c, test.says) }) {
			t.Errorf("%s: nothing begins with %q: %q", name, test.says, test.commands)
		}
		for _, command := range test.commands {
			// Thirty seconds are for people.
			cmd := exec.Command("sh", "-c", strings.Replace(command, "--for 30s", "--for 1s", 1))
			cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
			r := finish(t, cmd)
			if tool := strings.Fields(command)[0]; r.code == 127 && (tool == "gdb" || tool == "nsenter" || tool == "ip" || tool == "ss") {
				continue // not installed
			}
			if r.code != 0 {
				t.Errorf("%s: %s: exit code %d: %s", name, command, r.code, r.stderr)
				continue
			}
			if strings.HasPrefix(command, "gdb ") {
				continue // where threads stand has no port
			}
			if !slices.ContainsFunc(test.shows, func(text string) bool { return strings.Contains(r.stdout, text) }) {
				t.Errorf("%s: %s shows none of %q: %s", name, command, test.shows, r.stdout)
			}
		}
	}
}

func commandsOf(t *testing.T, pid int) []string {
	t.Helper()
	r := run(t, "explain", fmt.Sprint("pid:", pid), "--threshold", "1ms", "-o", "json").want(t, 0)
	return decode[explained](t, r.stdout).Commands
}

func diagnosed(t *testing.T, ns *testenv.Netns, pid int) []string {
	t.Helper()
	r := run(t, "diagnose", "--for", "0", "--threshold", "1ms", "-o", "json", "--netns", inode(ns))
	for _, p := range decode[struct {
		Processes []struct {
			Pid      int
			Commands []string
		}
	}](t, r.stdout).Processes {
		if p.Pid == pid {
			return p.Commands
		}
	}
	t.Fatalf("pid %d is not judged: %s", pid, r.stdout)
	return nil
}

// The page of a process has a timeline of its oldest wait, and everything else that the page
// of a socket has.
func TestExplainProcess(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "held_elsewhere", N: n, Netns: ns.Path})
	r := run(t, "explain", fmt.Sprint("pid:", leak.Pid), "--threshold", "1ms", "-o", "json").want(t, 0)
	x := decode[struct {
		explained
		Sockets []pairedSocket
		Shared  []struct{ Pid, N int }
	}](t, r.stdout)
	checkTimeline(t, x.Timeline, false)
	if len(x.Sockets) != n || len(x.Commands) == 0 || len(x.Advice) == 0 || len(x.Shared) != 0 {
		t.Fatalf("%d sockets, want %d, or something is missing: %s", len(x.Sockets), n, r.stdout)
	}
	saysAll(t, x.Endings, fmt.Sprintf("of pid %d", leak.Pid), "The end of")
	if p := x.Sockets[0].Peer; p == nil || p.MatchedBy != "flow_and_sequence" {
		t.Errorf("peer %+v", p)
	}
}

// checkTimeline: what is dated is in order, what is not says so, and it ends with now.
func checkTimeline(t *testing.T, steps []step, watched bool) {
	t.Helper()
	var last time.Time
	for _, s := range steps {
		if s.What == "" || s.Evidence == "" {
			t.Errorf("a step without words: %+v", s)
		}
		if (s.Time == nil) != (s.Bound == "") {
			t.Errorf("time without bound, or the reverse: %+v", s)
		}
		if s.Time == nil || s.Bound == "about" {
			continue // to a tick
		}
		if s.Time.Before(last) {
			t.Errorf("%q is before the step above: %+v", s.What, steps)
		}
		last = *s.Time
	}
	if end := steps[len(steps)-1]; !strings.HasPrefix(end.What, "now ") || end.Time == nil {
		t.Errorf("it does not end with now: %+v", end)
	}
	if watched && !slices.ContainsFunc(steps, func(s step) bool { return s.Bound == "exact" && strings.Contains(s.What, "FIN came") }) {
		t.Errorf("the FIN is not dated: %+v", steps)
	}
}

// A socket whose whole life is watched.
func TestExplainWatched(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	watching := start(t, "explain", fmt.Sprint("pid:", os.Getpid()), "--for", patience.String(), "--threshold", "1ms", "-o", "json")
	e := dialEnds(t, ns, ns, addr("127.0.0.1:0"), addr("127.0.0.1:0"), 0)
	e.accept(t)
	_, err := unix.Write(e.server, []byte("seven77"))
	must(t, err)
	e.peerCloses(t, true)
	if n, err := unix.Read(e.server, make([]byte, 1)); n != 0 || err != nil {
		t.Fatalf("read %d, %v, want the end", n, err)
	}
	r := watching.interrupt(t).want(t, 0)
	x := decode[explained](t, r.stdout)
	checkTimeline(t, x.Timeline, true)
	for _, want := range []struct{ what, evidence string }{{"recv() returned 0", "read"}, {"FIN came", "transition"}} {
		i := slices.IndexFunc(x.Timeline, func(s step) bool { return strings.Contains(s.What, want.what) })
		if i < 0 || x.Timeline[i].Evidence != want.evidence || x.Timeline[i].Time == nil ||
			want.evidence == "read" && (x.Timeline[i].Pid != os.Getpid() || x.Timeline[i].Tid == 0) {
			t.Errorf("no %+v in %+v", want, x.Timeline)
		}
	}
	if sees(t).accepts {
		if first := x.Timeline[0]; first.Pid != os.Getpid() || first.Evidence != "accept" {
			t.Errorf("opened by %+v", first)
		}
	}
}
