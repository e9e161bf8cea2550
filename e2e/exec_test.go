package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// requireGuestPrograms skips where there is neither Python nor Go.
func requireGuestPrograms(t *testing.T) {
	t.Helper()
	testenv.RequireRoot(t)
	if os.Getenv("TCPWAITD_VM") == "1" {
		testenv.Skip(t, "guest programs", "python3, go and curl")
	}
}

// execScript is a program of testdata/exec.
func execScript(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", "exec", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// startPeer starts a server that ends every connection at once, outside the command, and
// returns its port.
func startExecPeer(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("python3", append([]string{execScript(t, "peer.py")}, args...)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("peer: %v", err)
		}
	})
	port := make([]byte, 6)
	k, err := stdout.Read(port)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(port[:k]))
}

func execClient(t *testing.T, port string, count int, how string) []string {
	t.Helper()
	return []string{"python3", execScript(t, "client.py"), port, strconv.Itoa(count), how}
}

// executed is the record of a command.
type executed struct {
	verdict
	Command      []string
	ExitCode     int `json:"exit_code"`
	Unclosed     int
	ClosedAtExit int `json:"closed_at_exit"`
	StillRunning []struct {
		Pid  int
		Comm string
	} `json:"still_running"`
	Processes []struct {
		process
		Why    string
		Groups []struct {
			N         int
			Rport     int
			StackKind string `json:"stack_kind"`
			Frames    []stackFrame
		}
	}
}

// judge runs a command and returns what is said of it.
func judgeExec(t *testing.T, code int, flags []string, command ...string) executed {
	t.Helper()
	to := filepath.Join(t.TempDir(), "report.json")
	args := append(append([]string{"exec", "--report", to, "-o", "json"}, flags...), "--")
	run(t, append(args, command...)...).want(t, code)
	return readReport(t, to)
}

func readReport(t *testing.T, path string) executed {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	x := decode[executed](t, string(text))
	if x.Schema != "tcpwaitd/v1" || x.Kind != "diagnosis" {
		t.Errorf("schema %q, kind %q", x.Schema, x.Kind)
	}
	return x
}

// The command has our input and output and ends as it ends, whatever we think of it.
func TestExecPassesThrough(t *testing.T) {
	outsideGuests(t)
	testenv.RequireRoot(t)
	cmd := prepare(t, "exec", "--", "sh", "-c", "cat; echo err >&2; exit 42")
	cmd.Stdin = strings.NewReader("in")
	r := finish(t, cmd).want(t, 42)
	if r.stdout != "in" || !strings.HasPrefix(r.stderr, "err\nclean: ") || !strings.Contains(r.stderr, "exit code 42") {
		t.Errorf("stdout %q, stderr %q", r.stdout, r.stderr)
	}
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(testenv.WriteProgram(path, []byte(text)), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for want, argv := range map[int][]string{
		0:   {"true"},
		1:   {"false"},
		137: {"sh", "-c", "kill -KILL $$"},
		127: {"no-such-command-anywhere"},
		126: {write("not-executable", "#!/bin/sh\n", 0o644)},
	} {
		r := run(t, append([]string{"exec", "--"}, argv...)...).want(t, want)
		if told := strings.HasPrefix(r.stderr, "tcpwaitd exec: "); told != (want == 126 || want == 127) {
			t.Errorf("%v: %q", argv, r.stderr)
		}
	}
	r = run(t, "exec", write("no-interpreter", "echo hi\n", 0o755)).want(t, 126)
	if !strings.Contains(r.stderr, "#!/bin/sh") {
		t.Errorf("no cure in %q", r.stderr)
	}
	r = run(t, "exec", write("missing-interpreter", "#!/no/such/thing\n", 0o755)).want(t, 127)
	if !strings.HasPrefix(r.stderr, "tcpwaitd exec: ") {
		t.Error(r.stderr)
	}
}

// The command inherits nothing of us: no descriptors, no ignored signals, no limits.
func TestExecInheritsNothing(t *testing.T) {
	outsideGuests(t)
	testenv.RequireRoot(t)
	const look = "ls /proc/self/fd | wc -l; ulimit -n; grep -E 'Sig(Ign|Blk)' /proc/self/status"
	plain, err := exec.Command("sh", "-c", look).Output()
	if err != nil {
		t.Fatal(err)
	}
	if r := run(t, "exec", "--", "sh", "-c", look).want(t, 0); r.stdout != string(plain) {
		t.Errorf("the command sees\n%swithout tcpwaitd\n%s", r.stdout, plain)
	}
}

func TestExecUser(t *testing.T) {
	outsideGuests(t)
	testenv.RequireRoot(t)
	const who = "id -u; id -G; echo $HOME"
	want := map[string]string{"65534:0": "65534\n0\n"}
	if u, err := exec.Command("id", "-u", "daemon").Output(); err == nil {
		groups, err := exec.Command("id", "-G", "daemon").Output()
		if err != nil {
			t.Fatal(err)
		}
		want["daemon"] = string(u) + string(groups)
	}
	for user, said := range want {
		if r := run(t, "exec", "--user", user, "--", "sh", "-c", who).want(t, 0); !strings.HasPrefix(r.stdout, said) {
			t.Errorf("%s: %q, want %q", user, r.stdout, said)
		}
	}
	run(t, "exec", "--user", "no-such-user", "--", "true").want(t, 2)
	run(t, "exec", "--user", "", "--", "true").want(t, 2)
}

// Where nothing can be watched nothing is run.
func TestExecCannotRun(t *testing.T) {
	outsideGuests(t)
	testenv.RequireRoot(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	started := filepath.Join(dir, "started")
	cmd := prepare(t, "exec", "--", "touch", started)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	r := finish(t, cmd).want(t, 5)
	if !strings.Contains(r.stderr, "root") {
		t.Errorf("no cure in %q", r.stderr)
	}
	if _, err := os.Stat(started); err == nil {
		t.Error("the command was run")
	}
}

// startCommand starts a command that says "ready".
func startCommand(t *testing.T, argv ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := prepare(t, append([]string{"exec", "--"}, argv...)...)
	// A group of its own, whose parent is we: in an orphaned one, which the tests' may be, the
	// kernel drops SIGTSTP.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	ready := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(stdout, ready); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	return cmd, &stderr
}

// Signals are the command's; how it ends then is told.
func TestExecSignals(t *testing.T) {
	outsideGuests(t)
	testenv.RequireRoot(t)
	for _, tt := range []struct {
		script string
		signal syscall.Signal
		code   int
	}{
		{"echo ready; exec sleep 100", unix.SIGTERM, 143},
		{"echo ready; exec sleep 100", unix.SIGHUP, 129},
		{"echo ready; exec sleep 100", unix.SIGINT, 130},
		{"trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done", unix.SIGTERM, 7},
		{"trap 'exit 8' USR1; echo ready; while :; do sleep 0.05; done", unix.SIGUSR1, 8},
		{"trap 'exit 0' QUIT; echo ready; while :; do sleep 0.05; done", unix.SIGQUIT, 0},
	} {
		cmd, stderr := startCommand(t, "sh", "-c", tt.script)
		if err := cmd.Process.Signal(tt.signal); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != tt.code || !strings.Contains(stderr.String(), "clean: ") {
			t.Errorf("%v: exit code %d, want %d; %s", tt.signal, code, tt.code, stderr)
		}
	}
}

// processState is the third field of /proc/PID/stat.
func processState(t *testing.T, pid int) string {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[0]
}

// Who stops us stops the command, and both go on together.
func TestExecStops(t *testing.T) {
	outsideGuests(t)
	testenv.RequireRoot(t)
	told := filepath.Join(t.TempDir(), "pid")
	cmd, _ := startCommand(t, "sh", "-c", `echo $$ >"$0"; echo ready; exec sleep 100`, told)
	text, err := os.ReadFile(told)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	await := func(state string) {
		t.Helper()
		waitFor(t, func() string {
			we, it := processState(t, cmd.Process.Pid), processState(t, child)
			if (we == "T") == (state == "T") && (it == "T") == (state == "T") {
				return ""
			}
			return fmt.Sprintf("we are %s, the command is %s; want %s", we, it, state)
		})
	}
	for _, step := range []struct {
		signal syscall.Signal
		state  string
	}{{unix.SIGTSTP, "T"}, {unix.SIGCONT, "S"}} {
		if err := cmd.Process.Signal(step.signal); err != nil {
			t.Fatal(err)
		}
		await(step.state)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 143 {
		t.Errorf("exit code %d, want 143", code)
	}
}

// Ctrl-C signals the whole foreground group: the command gets it once.
func TestExecCtrlC(t *testing.T) {
	outsideGuests(t)
	requireGuestPrograms(t)
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	r := finish(t, exec.Command("python3", execScript(t, "terminal.py"), path, "exec", "--", "python3", execScript(t, "interrupts.py")))
	if r.code != 41 || !strings.Contains(r.stdout, "no process fails to close") {
		t.Errorf("exit code %d, want 40 and one for each SIGINT; %s%s", r.code, r.stdout, r.stderr)
	}
}

func TestExecLeak(t *testing.T) {
	outsideGuests(t)
	requireGuestPrograms(t)
	port := startExecPeer(t)
	x := judgeExec(t, exitLeaking, nil, execClient(t, port, n, "keep")...)
	if x.Unclosed != n || x.ExitCode != 0 || x.Verdict != "leaking" || len(x.Processes) != 1 || len(x.StillRunning) != 0 {
		t.Fatalf("%+v", x)
	}
	p := x.Processes[0]
	if p.Verdict != "leaking" || p.Sockets != n || p.Causes["eof_ignored"] != n || !strings.HasPrefix(p.Comm, "python3") {
		t.Errorf("%+v", p)
	}
	// A stack taken before the interpreter was known makes a group of its own.
	grouped := 0
	for _, g := range p.Groups {
		grouped += g.N
		if strconv.Itoa(g.Rport) != port || g.StackKind != "eof" || !strings.Contains(fmt.Sprint(g.Frames), "sock_recv") {
			t.Errorf("%d to %d, %s at %v", g.N, g.Rport, g.StackKind, g.Frames)
		}
	}
	if grouped != n {
		t.Errorf("%d in groups, want %d", grouped, n)
	}
	// The command's own code comes first.
	argv := execClient(t, port, n, "keep")
	x = judgeExec(t, 9, nil, append([]string{"sh", "-c", `"$@"; exit 9`, "sh"}, argv...)...)
	if x.Verdict != "leaking" || x.ExitCode != 9 {
		t.Errorf("verdict %s, exit code %d", x.Verdict, x.ExitCode)
	}
}

// Each of several short-lived children is judged by itself.
func TestExecLeakingChildren(t *testing.T) {
	outsideGuests(t)
	requireGuestPrograms(t)
	port := startExecPeer(t)
	argv := append([]string{"sh", "-c", `for i in 1 2 3; do "$@"; done`, "sh"}, execClient(t, port, n, "keep")...)
	x := judgeExec(t, exitLeaking, nil, argv...)
	if x.Unclosed != 3*n || len(x.Processes) != 3 {
		t.Fatalf("%+v", x)
	}
	for _, p := range x.Processes {
		if p.Sockets != n || p.Verdict != "leaking" {
			t.Errorf("%+v", p)
		}
	}
}

// Few sockets, long ones, one in each of many processes, closed ones: no leak.
func TestExecClean(t *testing.T) {
	outsideGuests(t)
	requireGuestPrograms(t)
	port := startExecPeer(t)
	one := strings.Join(execClient(t, port, 1, "keep"), " ")
	for name, argv := range map[string][]string{
		"closes":         execClient(t, port, n, "close"),
		"one":            execClient(t, port, 1, "keep"),
		"two":            execClient(t, port, 2, "keep"),
		"many processes": {"sh", "-c", "for i in 1 2 3 4 5 6 7; do " + one + "; done"},
	} {
		x := judgeExec(t, 0, nil, argv...)
		if x.Verdict != "clean" || x.Loss.Lost != 0 {
			t.Errorf("%s: %+v", name, x)
		}
		if want := map[string]int{"one": 1, "two": 2, "many processes": 7}[name]; x.Unclosed != want {
			t.Errorf("%s: %d were left, want %d", name, x.Unclosed, want)
		}
	}
}

// A real client that gets its answer and ends, ten times in a row.
func TestExecCurl(t *testing.T) {
	outsideGuests(t)
	requireGuestPrograms(t)
	dir := t.TempDir()
	server := exec.Command("python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "0")
	server.Dir = dir
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	line := make([]byte, 200)
	k, err := stdout.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	url := regexp.MustCompile(`http://[0-9.:]+/`).FindString(string(line[:k]))
	if url == "" {
		t.Fatalf("no address in %q", line[:k])
	}
	for range 10 {
		if x := judgeExec(t, 0, nil, "curl", "-sS", "-o", "/dev/null", url, url, url); x.Verdict != "clean" {
			t.Errorf("%+v", x)
		}
	}
}

// What others leave open, before and while the command runs, is not its own.
func TestExecOthersAreNotJudged(t *testing.T) {
	outsideGuests(t)
	requireGuestPrograms(t)
	port := startExecPeer(t)
	other := exec.Command("python3", execClient(t, port, n, "keep,sleep2")[1:]...)
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Wait() })
	x := judgeExec(t, 0, []string{"--grace", "1ms", "--threshold", "1ms"}, execClient(t, port, n, "close,sleep2")...)
	if x.Verdict != "clean" || len(x.Processes) != 0 || x.Unclosed != 0 {
		t.Errorf("%+v", x)
	}
}

// A child that inherited the sockets, and whose parent closed its own, is to blame.
func TestExecHeldElsewhere(t *testing.T) {
	outsideGuests(t)
	requireGuestPrograms(t)
	port := startExecPeer(t)
	x := judgeExec(t, exitLeaking, nil, execClient(t, port, n, "keep,fork")...)
	if len(x.Processes) != 1 || x.Processes[0].Causes["held_elsewhere"] != n || x.Processes[0].Sockets != n {
		t.Fatalf("%+v", x)
	}
}

// startDaemon runs a command of which a process goes on, until stop is closed.
func startDaemon(t *testing.T, report string, command ...string) (*exec.Cmd, io.Closer) {
	t.Helper()
	cmd := prepare(t, append([]string{"exec", "--grace", "1ms", "--report", report, "-o", "json", "--"}, command...)...)
	// A file: a pipe of os/exec's would be waited for until the daemon ends.
	in, stop, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	return cmd, stop
}

// A daemon that the command leaves behind is judged as it is then.
func TestExecDaemon(t *testing.T) {
	outsideGuests(t)
	requireGuestPrograms(t)
	port := startExecPeer(t)
	to := filepath.Join(t.TempDir(), "report.json")
	cmd, stop := startDaemon(t, to, execClient(t, port, n, "keep,daemon")...)
	_ = cmd.Wait()
	x := readReport(t, to)
	stop.Close()
	if code := cmd.ProcessState.ExitCode(); code != exitLeaking || len(x.StillRunning) != 1 || len(x.Processes) != 1 {
		t.Fatalf("exit code %d, %+v", code, x)
	}
	if p := x.Processes[0]; p.Pid != x.StillRunning[0].Pid || p.Sockets != n {
		t.Errorf("%+v", x)
	}
}

func TestExecMPTCP(t *testing.T) {
	outsideGuests(t)
	requireGuestPrograms(t)
	if on, err := os.ReadFile("/proc/sys/net/mptcp/enabled"); err != nil || string(on) != "1\n" {
		testenv.Skip(t, "mptcp", fmt.Sprintf("net.mptcp.enabled is %q (%v)", on, err))
	}
	port := startExecPeer(t, "mptcp")
	if x := judgeExec(t, exitLeaking, nil, execClient(t, port, n, "keep,mptcp")...); x.Unclosed != n || x.Processes[0].Sockets != n {
		t.Errorf("%+v", x)
	}
	if x := judgeExec(t, 0, nil, execClient(t, port, n, "close,mptcp")...); x.Unclosed != 0 {
		t.Errorf("%+v", x)
	}
}

// The formats are the same as elsewhere; a profile needs a file.
func TestExecFormats(t *testing.T) {
	outsideGuests(t)
	requireGuestPrograms(t)
	port := startExecPeer(t)
	argv := append([]string{"--"}, execClient(t, port, n, "keep")...)
	r := run(t, append([]string{"exec", "-o", "json"}, argv...)...).want(t, exitLeaking)
	if x := decode[executed](t, r.stderr); x.Verdict != "leaking" || r.stdout != "" {
		t.Errorf("stdout %q, stderr %q", r.stdout, r.stderr)
	}
	folded := run(t, append([]string{"exec", "-o", "folded"}, argv...)...).want(t, exitLeaking).stderr
	// Where both processors are busy the first stacks are taken before Python is known.
	sum := 0
	for line := range strings.Lines(folded) {
		count, err := strconv.Atoi(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]))
		must(t, err)
		sum += count
	}
	if sum != n {
		t.Errorf("%d sockets in %q", sum, folded)
	}
	run(t, append([]string{"exec", "-o", "pprof"}, argv...)...).want(t, 2)
	to := filepath.Join(t.TempDir(), "waits.pb.gz")
	run(t, append([]string{"exec", "-o", "pprof", "--report", to}, argv...)...).want(t, exitLeaking)
	if text, err := os.ReadFile(to); err != nil || !bytes.HasPrefix(text, []byte{0x1f, 0x8b}) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	run(t, append([]string{"exec", "--report", "/no/such/directory/x"}, argv...)...).want(t, 2)
}

// tidied judges a program that tidies up at its end: its waits last longer than the grace time.
func tidied(t *testing.T, name string, code, unclosed int, flags []string, argv ...string) executed {
	t.Helper()
	x := judgeExec(t, code, append([]string{"--grace", "300ms"}, flags...), argv...)
	if x.Unclosed != unclosed || x.ClosedAtExit != unclosed || x.Loss.Lost != 0 {
		t.Errorf("%s: %d never closed, %d only when the process ended, want %d: %+v", name, x.Unclosed, x.ClosedAtExit, unclosed, x)
	}
	return x
}

// What CPython closes when it finalizes the program has not closed; what the program closes,
// however late, it has.
func TestExecLastBreath(t *testing.T) {
	outsideGuests(t)
	requireGuestPrograms(t)
	python := func(count int, how string) []string {
		return []string{"python3", execScript(t, "tidies.py"), strconv.Itoa(count), how}
	}
	for name, tt := range map[string]struct {
		argv           []string
		code, unclosed int
	}{
		"leak":               {python(n, "leak"), exitLeaking, n},
		"__del__":            {python(n, "del"), exitLeaking, n},
		"closes each":        {python(n, "close"), 0, 0},
		"closes at the end":  {python(n, "late"), 0, 0},
		"closes by atexit":   {python(n, "atexit"), 0, 0},
		"pool, closed":       {python(5, "pool"), 0, 0},
		"pool, never closed": {python(5, "idle"), 0, 5},
	} {
		x := tidied(t, name, tt.code, tt.unclosed, nil, tt.argv...)
		if tt.code == 0 {
			continue
		}
		if len(x.Processes) != 1 || x.Processes[0].Sockets != n || !strings.Contains(x.Processes[0].Why, "23 closed only when the process ended") {
			t.Errorf("%s: %+v", name, x)
		}
	}
}

// Without stacks nobody knows who closed: it is never called a leak.
func TestExecLastBreathWithoutStacks(t *testing.T) {
	outsideGuests(t)
	requireGuestPrograms(t)
	for _, how := range []string{"leak", "late"} {
		to := filepath.Join(t.TempDir(), "report.json")
		r := run(t, "exec", "--stacks", "off", "--grace", "300ms", "--report", to, "-o", "json", "--",
			"python3", execScript(t, "tidies.py"), strconv.Itoa(n), how)
		// It takes a look, at the right time, to know since when they were told.
		if x := readReport(t, to); r.code != map[string]int{"clean": 0, "suspicious": exitSuspicious, "leaking": exitLeaking}[x.Verdict] || x.Verdict == "leaking" ||
			x.Verdict == "suspicious" && !strings.Contains(x.Processes[0].Why, "by whom they were closed is not known") {
			t.Errorf("%s: exit code %d, %+v", how, r.code, x)
		}
	}
	x := tidied(t, "closes each", 0, 0, []string{"--stacks", "off"}, "python3", execScript(t, "tidies.py"), strconv.Itoa(n), "close")
	if x.Verdict != "clean" {
		t.Errorf("%+v", x)
	}
}

// exit() runs the destructors of C and C++. A defer is the program's own, and so is the end of main,
// whether or not it has a name.
func TestExecLastBreathNative(t *testing.T) {
	outsideGuests(t)
	requireGuestPrograms(t)
	tool(t, "gcc")
	dir := t.TempDir()
	build := func(argv ...string) string {
		out := filepath.Join(dir, strings.Join(argv[:1], "")+strconv.Itoa(len(argv)))
		cmd := exec.Command(argv[0], append(append([]string{}, argv[1:len(argv)-1]...), "-o", out, argv[len(argv)-1])...)
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", argv, err, said)
		}
		return out
	}
	native := build("gcc", "-O2", execScript(t, "tidies.c"))
	nameless := build("gcc", "-O2", "-s", execScript(t, "tidies.c"))
	deferred := build("go", "build", execScript(t, "tidies/main.go"))
	tidied(t, "destructor", exitLeaking, n, nil, native)
	tidied(t, "destructor without a name", exitLeaking, n, nil, nameless)
	tidied(t, "end of main", 0, 0, nil, native, "late")
	tidied(t, "end of a main without a name", 0, 0, nil, nameless, "late")
	tidied(t, "defer", 0, 0, nil, deferred)
}

// fenced returns the first block of a language in a page of docs/.
func fenced(t *testing.T, page, language string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)```" + language + "\n(.*?)```\n").FindSubmatch(text)
	if found == nil {
		t.Fatalf("%s has no block of %s", page, language)
	}
	return string(found[1])
}

// The worked example of docs/ci.md: the job as it stands there fails, with the patch that
// stands there it does not.
func TestExecWorkedExample(t *testing.T) {
	outsideGuests(t)
	requireGuestPrograms(t)
	job := regexp.MustCompile(`run: (sudo env .*exec.*)`).FindStringSubmatch(fenced(t, "ci.md", "yaml"))
	if job == nil {
		t.Fatal("no job that runs tcpwaitd exec")
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	bin, dir := t.TempDir(), t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("..", "examples", "leaky-test"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, filepath.Join(bin, "tcpwaitd")); err != nil {
		t.Fatal(err)
	}
	// We are root already, and sudo may be missing.
	if err := testenv.WriteProgram(filepath.Join(bin, "sudo"), []byte("#!/bin/sh\nexec \"$@\"\n")); err != nil {
		t.Fatal(err)
	}
	run := func(code int) result {
		t.Helper()
		cmd := exec.Command("sh", "-c", job[1])
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "GOFLAGS=")
		return finish(t, cmd).want(t, code)
	}
	r := run(exitLeaking)
	for _, said := range []string{"leaking: 1 process", "leaky.test", "5 sockets", "net/http.(*Transport).dialConn", "resp.Body.Close()"} {
		if !strings.Contains(strings.Join(strings.Fields(r.stderr), " "), said) {
			t.Errorf("no %q in %s", said, r.stderr)
		}
	}
	if !strings.Contains(r.stdout, "ok ") {
		t.Errorf("the suite did not pass: %s", r.stdout)
	}
	patch := exec.Command("git", "apply", "-")
	patch.Dir, patch.Stdin = dir, strings.NewReader(fenced(t, "ci.md", "diff"))
	if out, err := patch.CombinedOutput(); err != nil {
		t.Fatalf("apply the patch of the page: %v: %s", err, out)
	}
	if r := run(0); !strings.Contains(r.stderr, "clean: ") {
		t.Error(r.stderr)
	}
}

// A program that is gone before it is looked at is found by its path. Removed by then, its code is
// said not to be known.
func TestExecOfWhatIsGone(t *testing.T) {
	outsideGuests(t)
	requireGuestPrograms(t)
	program := filepath.Join(t.TempDir(), "leaky.test")
	build := exec.Command("go", "test", "-c", "-o", program, ".")
	build.Dir = filepath.Join("..", "examples", "leaky-test")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// The shell is the command, and who watches it its parent, of which each thread has to stop.
	whileStopped := func(code int, do string) result {
		t.Helper()
		return run(t, "exec", "--", "sh", "-c", `
			kill -STOP $PPID
			until [ "$(cat /proc/$PPID/task/*/status | grep -c '^State:.T')" = "$(ls /proc/$PPID/task | wc -l)" ]; do :; done
			`+do+`
			kill -CONT $PPID`).want(t, code)
	}
	const unknown = "the code that used some sockets is not known"
	r := whileStopped(exitLeaking, program)
	if !strings.Contains(r.stderr, "net/http.(*Transport).dialConn") || strings.Contains(r.stderr, unknown) {
		t.Error(r.stderr)
	}
	r = whileStopped(0, program+"; rm "+program)
	if !strings.Contains(r.stderr, "clean: ") || !strings.Contains(r.stderr, unknown) || !strings.Contains(r.stderr, "sockets=5") {
		t.Error(r.stderr)
	}
}

// The page shows the code that is there.
func TestExecExampleIsThePage(t *testing.T) {
	outsideGuests(t)
	code, err := os.ReadFile(filepath.Join("..", "examples", "leaky-test", "probe.go"))
	if err != nil {
		t.Fatal(err)
	}
	if shown := fenced(t, "ci.md", "go"); !strings.Contains(string(code), shown) {
		t.Errorf("the page shows\n%sbut the example has\n%s", shown, code)
	}
}
