package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// n is prime, so that a lost or doubled socket shows.
const n = 23

// patience bounds every wait for a fact; emulated machines are slow.
const patience = 2 * time.Minute

// binary is the program under test: $TCPWAITD_BIN, or built once from this tree.
var binary = sync.OnceValues(func() (string, error) {
	if given := os.Getenv("TCPWAITD_BIN"); given != "" {
		return given, nil
	}
	dir, err := os.MkdirTemp("", "tcpwaitd-e2e-")
	if err != nil {
		return "", err
	}
	built := filepath.Join(dir, "tcpwaitd")
	cmd := exec.Command("go", "build", "-o", built, "github.com/tcpwaitd/tcpwaitd/cmd/tcpwaitd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w: %s", err, out)
	}
	// Others must be able to run it.
	return built, os.Chmod(dir, 0o755)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil && os.Getenv("TCPWAITD_BIN") == "" {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// result is what a run left behind.
type result struct {
	stdout, stderr string
	code           int
}

// built is for who makes what does not last longer than a build on a busy machine: TIME_WAIT.
func built(t *testing.T) {
	t.Helper()
	if _, err := binary(); err != nil {
		t.Fatal(err)
	}
}

// prepare makes the command without starting it.
func prepare(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	return prepareFor(t, patience, args...)
}

// prepareFor is prepare for what may take longer.
func prepareFor(t *testing.T, limit time.Duration, args ...string) *exec.Cmd {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, path, args...)
}

// run runs to the end.
func run(t *testing.T, args ...string) result {
	t.Helper()
	return finish(t, prepare(t, args...))
}

func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// want fails unless the run ended with code.
func (r result) want(t *testing.T, code int) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.code, code, r.stdout, r.stderr)
	}
	return r
}

// running is a live command that has attached.
type running struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
	pipe   io.Closer
	stderr *bytes.Buffer
	done   chan struct{}
}

// start runs in the background and returns when the hooks are attached and the baseline
// is taken: with -v the hook table is told then.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	return startWatching(t, prepare(t, append(args, "-v")...))
}

// startWatching is start for a command that has its -v.
func startWatching(t *testing.T, cmd *exec.Cmd) *running {
	t.Helper()
	r := &running{cmd: cmd, stderr: &bytes.Buffer{}, done: make(chan struct{})}
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.stdout, r.pipe = bufio.NewReaderSize(stdout, 1<<20), stdout
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	go func() {
		defer close(r.done)
		told := false
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fmt.Fprintln(r.stderr, lines.Text())
			if !told && strings.Contains(lines.Text(), "fact=transitions") {
				told = true
				close(ready)
			}
		}
	}()
	select {
	case <-ready:
	case <-r.done:
		t.Fatalf("%v ended: %s", cmd.Args, r.stderr)
	}
	return r
}

// interrupt sends SIGINT and returns what was printed.
func (r *running) interrupt(t *testing.T) result {
	t.Helper()
	if err := r.cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	return r.wait(t)
}

func (r *running) wait(t *testing.T) result {
	t.Helper()
	out, err := io.ReadAll(r.stdout)
	if err != nil {
		t.Fatal(err)
	}
	<-r.done
	var exit *exec.ExitError
	if err := r.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{string(out), r.stderr.String(), r.cmd.ProcessState.ExitCode()}
}

// socket is a record as a script reads it.
type socket struct {
	Kind       string
	Netns      uint32
	Laddr      string
	Lport      uint16
	Raddr      string
	Rport      uint16
	State      string
	Direction  string
	DwellNS    *int64 `json:"dwell_ns"`
	DwellBound string `json:"dwell_bound"`
	Cause      string
	Owner      struct {
		Pid      int
		Comm     string
		Evidence string
	}
	Holders []struct{ Pid int }
}

type list struct {
	Schema, Kind string
	Sockets      []socket
	Loss         record.LossCounts
}

type process struct {
	Pid     int
	Comm    string
	Verdict string
	Sockets int
	Stuck   int
	Causes  map[string]int
}

type verdict struct {
	Schema, Kind, Verdict string
	SocketsCloseWait      int `json:"sockets_close_wait"`
	Processes             []process
	Loss                  record.LossCounts
}

type transition struct {
	Kind         string
	Lport, Rport uint16
	OldState     string `json:"old_state"`
	NewState     string `json:"new_state"`
	InStateNS    *int64 `json:"in_state_ns"`
	InStateBound string `json:"in_state_bound"`
	Owner        struct {
		Pid  int
		Comm string
	}
}

// decode reads one JSON document.
func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return v
}

// inGuest: in a VM, which emulates its processor and has no programs but ours.
func inGuest() bool { return os.Getenv("TCPWAITD_VM") == "1" }

// lost reports whether anything was. What was missed does not count in guests: they are
// interrupted, and preempted, in the middle of anything, and the kernel runs no program twice at a
// time on a processor.
func lost(l record.LossCounts) bool {
	if inGuest() {
		l.Missed = 0
	}
	return l.Any()
}

// outsideGuests skips what needs programs that a VM guest has not, or would take it too long:
// it emulates its processor.
func outsideGuests(t *testing.T) {
	t.Helper()
	if inGuest() {
		testenv.Skip(t, "guest time", "tried on the machine that runs the guests")
	}
}

// testNetns is a namespace of its own, so that the host's sockets do not interfere.
func testNetns(t *testing.T) *testenv.Netns {
	t.Helper()
	testenv.RequireRoot(t)
	return testenv.NewNetns(t)
}

func inode(ns *testenv.Netns) string { return fmt.Sprint(ns.Inode) }
