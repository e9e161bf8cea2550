package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// The scenarios: incidents that happened, made again with real programs. docs/scenarios.md
// lists them. Each runs in a scene: a network namespace and a control group of its own.
//
// A scenario that leaks goes like this:
//
//	s := newScene(t)
//	x := s.serve(t, s.compile(t, "gcc", program("server.c"), "server"), "PORT")
//	v := s.grow(t, func(i int) { ... one more wait, return when it is there ... })
//	v.demand(t, "leaking", accusation{x.pid(), "eof_ignored", "in", n})
//	s.checkList(t, n)

// The exit codes of diagnose that follow its verdict.
const exitClean, exitLeaking, exitSuspicious = 0, 3, 4

// sceneThreshold is the age from which a wait counts as stuck in the scenarios: no less
// than a half-close may be silent.
const sceneThreshold = time.Second

// scene is where one incident happens. start, serve and serveCommand run programs inside;
// the rest of the lab (compile, gobuild, dial) serves as it is. No agent watches.
type scene struct {
	*lab
	cgroup *cgroup
}

func newScene(t *testing.T) *scene {
	t.Helper()
	if os.Getenv("TCPWAITD_VM") == "1" {
		testenv.Skip(t, "guest programs", "the scenarios run real servers")
	}
	return newStage(t)
}

// newStage is a scene for programs of our own, which guests have, too.
func newStage(t *testing.T) *scene {
	t.Helper()
	s := &scene{lab: &lab{ns: testNetns(t), dir: t.TempDir()}, cgroup: newCgroup(t)}
	openDir(t, s.dir)
	s.lastPort.Store(firstPort)
	return s
}

// openDir lets servers that give up their privileges into a temporary directory.
func openDir(t *testing.T, dir string) {
	t.Helper()
	for ; strings.HasPrefix(dir, os.TempDir()) && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// program is a file of testdata/scenarios, for source, compile and gobuild.
func program(name string) string { return filepath.Join("..", "scenarios", name) }

// start runs cmd in the scene. It is killed at the end of the test, and so is everything
// it has started.
func (s *scene) start(t *testing.T, cmd *exec.Cmd) *target {
	t.Helper()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(s.cgroup.dir.Fd())
	x := s.lab.start(t, cmd)
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", x.pid())); err != nil || !strings.Contains(string(text), "0::"+s.cgroup.Path+"\n") {
		t.Fatalf("%s does not run in the control group %s: %v, %s", cmd.Path, s.cgroup.Path, err, text)
	}
	return x
}

// serve runs a server that takes its port as "PORT" in any of its arguments, and returns
// when it listens there.
func (s *scene) serve(t *testing.T, name string, args ...string) *target {
	t.Helper()
	port := s.port()
	return s.serveCommand(t, atPort(port, name, args), port)
}

// serveCommand is serve for a command that knows its port.
func (s *scene) serveCommand(t *testing.T, cmd *exec.Cmd, port uint16) *target {
	t.Helper()
	x := s.start(t, cmd)
	x.port = port
	s.awaitListener(t, x)
	return x
}

func (x *target) pid() int { return x.cmd.Process.Pid }

// awaitOutput waits until the program has printed text.
func (x *target) awaitOutput(t *testing.T, text string) {
	t.Helper()
	waitFor(t, func() string {
		select {
		case <-x.ended:
			t.Fatalf("%v ended: %s", x.cmd.Args, x.output)
		default:
		}
		if strings.Contains(x.output.String(), text) {
			return ""
		}
		return fmt.Sprintf("%v has not said %q: %s", x.cmd.Args, text, x.output)
	})
}

// waitFor asks until nothing is missing; ask says what is.
func waitFor(t *testing.T, ask func() (missing string)) {
	t.Helper()
	for enough := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		missing := ask()
		if missing == "" {
			return
		}
		if time.Now().After(enough) {
			t.Fatal(missing)
		}
	}
}

// await waits until just count sockets of the kernel's table are as ok says. Those in
// accept queues are in the table, too.
func (s *scene) await(t *testing.T, count int, what string, ok func(r testenv.TCPRow) bool) {
	t.Helper()
	awaitRows(t, s.ns, count, what, ok)
}

// awaitRows waits until just count rows of a namespace's table are ok.
func awaitRows(t *testing.T, ns *testenv.Netns, count int, what string, ok func(r testenv.TCPRow) bool) {
	t.Helper()
	waitFor(t, func() string {
		found := 0
		for _, r := range testenv.TCPTable(t, ns.Path) {
			if ok(r) {
				found++
			}
		}
		if found == count {
			return ""
		}
		return fmt.Sprintf("%d sockets %s, want %d: %v", found, what, count, testenv.TCPTable(t, ns.Path))
	})
}

// awaitWaits waits until the kernel's table has count sockets in CLOSE_WAIT with either
// end at port and a Recv-Q (which counts the FIN as one).
func (s *scene) awaitWaits(t *testing.T, count int, port uint16, recvQ uint32) {
	t.Helper()
	s.await(t, count, fmt.Sprintf("in CLOSE_WAIT at port %d with Recv-Q %d", port, recvQ), func(r testenv.TCPRow) bool {
		return r.State == event.CloseWait && (r.Lport == port || r.Rport == port) && r.RecvQ == recvQ
	})
}

// awaitAccepted waits until count sockets at port are in CLOSE_WAIT and in no accept queue.
func (s *scene) awaitAccepted(t *testing.T, count int, port uint16) {
	t.Helper()
	s.await(t, count, fmt.Sprintf("in CLOSE_WAIT at port %d and accepted", port), func(r testenv.TCPRow) bool {
		return r.State == event.CloseWait && r.Lport == port && r.Inode != 0
	})
}

// awaitAsleep waits until all threads of a process sleep: nothing that it has begun, such as to
// close what it has handed on, is still to be done.
func awaitAsleep(t *testing.T, pid int) {
	t.Helper()
	waitFor(t, func() string {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, thread := range threads {
			stat, err := os.ReadFile(filepath.Join(thread, "stat"))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue // it has ended
			}
			if err != nil {
				t.Fatal(err)
			}
			// PID (NAME) STATE ...
			state := stat[bytes.LastIndexByte(stat, ')')+1:]
			if !bytes.HasPrefix(state, []byte(" S ")) && !bytes.HasPrefix(state, []byte(" Z ")) {
				return fmt.Sprintf("a thread of pid %d is at work: %s", pid, stat)
			}
		}
		// One that was made meanwhile was not asked.
		if now, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid)); err != nil || !slices.Equal(now, threads) {
			return fmt.Sprintf("pid %d starts or ends threads: %v", pid, err)
		}
		return ""
	})
}

// listen accepts in the scene, in the test's own process: for peers that do nothing wrong.
func (s *scene) listen(t *testing.T) (listener net.Listener, port uint16) {
	t.Helper()
	err := s.ns.Do(func() (err error) {
		listener, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener, addrPort(listener.Addr()).Port()
}

// watch starts diagnose on the scene and returns when it watches, with the unwind tables
// of the programs that run. It ends by judge, which decides when.
func (s *scene) watch(t *testing.T, args ...string) *running {
	t.Helper()
	return startUntil(t, `msg="unwind tables"`, s.diagnosis(append([]string{"--for", patience.String()}, args...))...)
}

// judge ends the watching.
func (s *scene) judge(t *testing.T, r *running) *judged {
	t.Helper()
	return judgement(t, r.interrupt(t))
}

// diagnose runs diagnose on the scene to its own end: --for 0 unless said otherwise.
func (s *scene) diagnose(t *testing.T, args ...string) *judged {
	t.Helper()
	return judgement(t, run(t, s.diagnosis(append([]string{"--for", "0"}, args...))...))
}

func (s *scene) diagnosis(args []string) []string {
	return append([]string{
		"diagnose", "-o", "json", "--syscall-accept", "--threshold", sceneThreshold.String(), "--netns", inode(s.ns),
	}, args...)
}

// grow leaks n sockets one after the other while diagnose watches, and has them judged.
// leak makes the i-th and returns when it is there.
func (s *scene) grow(t *testing.T, leak func(i int)) *judged {
	t.Helper()
	began := time.Now()
	w := s.watch(t)
	// Most of them must be stuck in the end; growth must fill the window, which began
	// somewhere in the start; and the stream must not seem to have ended when it is judged. How
	// long the start took says how fast this machine is now.
	const windows = 6
	pause := min(windows*(time.Since(began)+sceneThreshold)/n, patience/2/n)
	for i := range n {
		leak(i)
		if i < n-1 {
			time.Sleep(pause)
		}
	}
	return s.judge(t, w)
}

// waitStuck: what waits now is older than the threshold afterwards.
func waitStuck() { time.Sleep(sceneThreshold + lateTicks) }

// list is list -o json of the scene.
func (s *scene) list(t *testing.T, args ...string) []sceneSocket {
	t.Helper()
	r := run(t, append([]string{"list", "-o", "json", "--netns", inode(s.ns)}, args...)...).want(t, exitClean)
	return decode[struct{ Sockets []sceneSocket }](t, r.stdout).Sockets
}

// checkList: the sockets in CLOSE_WAIT are count, and those of the kernel's own table and
// of ss.
func (s *scene) checkList(t *testing.T, count int) {
	t.Helper()
	r := run(t, "list", "-o", "json", "--netns", inode(s.ns)).want(t, exitClean)
	all := decode[list](t, r.stdout).Sockets
	checkAgainstKernel(t, s.ns, all)
	waits := slices.DeleteFunc(all, func(x socket) bool { return x.State != "CLOSE_WAIT" })
	if len(waits) != count {
		t.Errorf("%d sockets in CLOSE_WAIT listed, want %d", len(waits), count)
	}
}

// watchSockets starts a list that watches first, so that its sockets have what can only be
// seen happen: openers, ends told, stacks. It ends by seen, which decides when.
func (s *scene) watchSockets(t *testing.T, args ...string) *running {
	t.Helper()
	return startUntil(t, `msg="unwind tables"`, append([]string{
		"list", "-o", "json", "--syscall-accept", "--for", patience.String(), "--netns", inode(s.ns),
	}, args...)...)
}

// seen ends the watching.
func (s *scene) seen(t *testing.T, r *running) []sceneSocket {
	t.Helper()
	ended := r.interrupt(t).want(t, exitClean)
	return decode[struct{ Sockets []sceneSocket }](t, ended.stdout).Sockets
}

// sceneSocket is all of a socket that the scenarios look at.
type sceneSocket struct {
	socket
	Cookie   uint64
	Inode    uint64
	Cgroup   string
	EOFSeen  *bool   `json:"eof_seen"`
	RecvQ    uint32  `json:"recv_q"`
	Sent     *uint64 `json:"bytes_sent_after_fin"`
	Opener   *party
	LastUser *party `json:"last_user"`
	EOFTold  *party `json:"eof_told"`
	InFlight *struct {
		Where     *string
		Receivers []struct{ Pid, FD int }
		Sender    int
		Rings     []struct{ Pid, FD int }
	} `json:"in_flight"`
	Listener  *backlog
	Listeners []backlog
	Stacks    stacks
	Peer      *struct {
		Pid         int
		Comm, State string
	}
}

// party is a process that had to do with a socket.
type party struct {
	Pid      int
	Comm     string
	Evidence string
	Holds    *bool
}

// backlog is a listener with its accept queue.
type backlog struct {
	Pid      int
	Comm     string
	QueueLen *int `json:"queue_len"`
	QueueMax *int `json:"queue_max"`
}

// judged is a diagnosis as a script reads it, with its exit code.
type judged struct {
	result           `json:"-"`
	Verdict          string
	ObservedNS       int64 `json:"observed_ns"`
	SocketsCloseWait int   `json:"sockets_close_wait"`
	Processes        []suspect
}

type suspect struct {
	Pid             int
	Comm            string
	Container       string
	Verdict, Why    string
	Sockets, Stuck  int
	Causes          map[string]int
	GrowthPerMin    *float64 `json:"growth_per_min"`
	FDsOpen         *int     `json:"fds_open"`
	FDsLimit        *int     `json:"fds_limit"`
	FDsExhaustedInS *int64   `json:"fds_exhausted_in_s"`
	Listeners       []backlog
	Groups          []suspectGroup
	Advice          []string
	Commands        []string
	Threads         []struct {
		N      int
		Frames []stackFrame
	}
}

type suspectGroup struct {
	Cause, Direction string
	Lport, Rport     uint16
	N, Stuck         int
	StackKind        string `json:"stack_kind"`
	Frames           []stackFrame
	Quality, Reason  string
}

func judgement(t *testing.T, r result) *judged {
	t.Helper()
	codes := map[string]int{"clean": exitClean, "suspicious": exitSuspicious, "leaking": exitLeaking}
	v := decode[judged](t, r.stdout)
	v.result = r
	if code, ok := codes[v.Verdict]; !ok || code != r.code {
		t.Errorf("exit code %d for %q", r.code, v.Verdict)
	}
	return &v
}

// accusation is n sockets of a process that wait for one cause. Nobody's pid is 0.
type accusation struct {
	pid              int
	cause, direction string
	n                int
}

// demand fails unless the verdict is as given and exactly these are accused, whatever
// their number of groups.
func (v *judged) demand(t *testing.T, verdict string, wanted ...accusation) {
	t.Helper()
	key := func(a accusation) accusation { a.n = 0; return a }
	got, want := map[accusation]int{}, map[accusation]int{}
	for i := range v.Processes {
		p := &v.Processes[i]
		for _, g := range p.Groups {
			got[accusation{p.Pid, g.Cause, g.Direction, 0}] += g.N
		}
		if p.Verdict == "clean" && p.Stuck > 0 {
			t.Errorf("pid %d has %d stuck and is clean", p.Pid, p.Stuck)
		}
	}
	for _, a := range wanted {
		want[key(a)] += a.n
	}
	if v.Verdict != verdict || !maps.Equal(got, want) {
		t.Errorf("%s: %v\nwant %s: %v\n%s", v.Verdict, got, verdict, want, v)
	}
}

// String is the verdict without stacks.
func (v *judged) String() string {
	var b strings.Builder
	for i := range v.Processes {
		p := &v.Processes[i]
		fmt.Fprintf(&b, "pid %d %s is %s: %s; %d sockets, %d stuck\n", p.Pid, p.Comm, p.Verdict, p.Why, p.Sockets, p.Stuck)
		for _, g := range p.Groups {
			fmt.Fprintf(&b, "  %d %s %s, port %d, %s stack %s %s\n", g.N, g.Direction, g.Cause, g.Lport+g.Rport, g.StackKind, g.Quality, g.Reason)
		}
	}
	return b.String()
}

// of is what is said of a process.
func (v *judged) of(t *testing.T, pid int) *suspect {
	t.Helper()
	for i := range v.Processes {
		if v.Processes[i].Pid == pid {
			return &v.Processes[i]
		}
	}
	t.Fatalf("nothing is said of pid %d: %s", pid, v)
	return nil
}

// shows fails unless count sockets in groups with the stack of a kind have it as wanted.
func (p *suspect) shows(t *testing.T, count int, w want) {
	t.Helper()
	found, wrong := 0, ""
	for _, g := range p.Groups {
		s := &stack{Frames: g.Frames, Quality: g.Quality, Reason: g.Reason}
		text := w.check(stacks{g.StackKind: s})
		if text == "" {
			found += g.N
			continue
		}
		wrong += fmt.Sprintf("\n%d sockets: %s, but %s:\n%v", g.N, text, g.StackKind, s)
	}
	if found != count {
		t.Errorf("%d sockets of pid %d have the wanted %s stack, want %d%s", found, p.Pid, w.slot, count, wrong)
	}
}

// cgroup is a control group of version 2 that ends with the test, and with it all that
// runs in it. Where the system has mounted no such hierarchy, or where, does not matter:
// it is mounted once more.
type cgroup struct {
	// Path is what /proc/PID/cgroup and tcpwaitd say.
	Path string
	dir  *os.File
}

func newCgroup(t *testing.T) *cgroup {
	t.Helper()
	mount := t.TempDir()
	if err := unix.Mount("none", mount, "cgroup2", 0, ""); err != nil {
		t.Fatalf("mount control groups: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount control groups: %v", err)
		}
	})
	c := &cgroup{Path: "/tcpwaitd-test-" + strings.ToLower(rand.Text()[:8])}
	path := filepath.Join(mount, c.Path)
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatalf("make control group: %v", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	c.dir = dir
	t.Cleanup(func() { c.remove(t) })
	return c
}

// remove ends what is left in the group: servers that made themselves a session escape
// the kill of their process group.
func (c *cgroup) remove(t *testing.T) {
	t.Helper()
	c.dir.Close()
	err := os.WriteFile(filepath.Join(c.dir.Name(), "cgroup.kill"), []byte("1"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // before 5.14
		t.Errorf("kill what is left in %s: %v", c.Path, err)
	}
	waitFor(t, func() string {
		// EBUSY: they are ending.
		if err := unix.Rmdir(c.dir.Name()); err != nil {
			return fmt.Sprintf("remove control group: %v", err)
		}
		return ""
	})
}

// lateTicks is above the room that a lower bound of an age leaves for late ticks (100 ms).
const lateTicks = 250 * time.Millisecond
