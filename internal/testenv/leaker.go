package testenv

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv/facts"
)

// leakerEnv names a ready-built leaker, for VM guests where there is no Go.
const leakerEnv = "TCPWAITD_LEAKER"

// leakerPatience is above the leaker's own limit, so that its message is the one seen.
const leakerPatience = 60 * time.Second

// Options of a leak; see internal/testenv/leaker for the causes. A zero field leaves
// the leaker's default.
type Options struct {
	Cause string
	// N is the number of sockets, 23 by default.
	N      int
	Netns  string
	Addr   string
	Listen string
	Port   uint16
	// MPTCP at both ends; with PlainPeer at the leaking end only.
	MPTCP     bool
	PlainPeer bool
	// KTLS is kernel TLS at both ends.
	KTLS       bool
	Every      time.Duration
	CloseAfter time.Duration
	// NoFile is RLIMIT_NOFILE of the leaking process.
	NoFile int
}

func (o Options) args() []string {
	var args []string
	add := func(name, value string, set bool) {
		if set {
			args = append(args, "-"+name+"="+value)
		}
	}
	add("cause", o.Cause, o.Cause != "")
	add("n", strconv.Itoa(o.N), o.N != 0)
	add("netns", o.Netns, o.Netns != "")
	add("addr", o.Addr, o.Addr != "")
	add("listen", o.Listen, o.Listen != "")
	add("port", strconv.Itoa(int(o.Port)), o.Port != 0)
	add("mptcp", "true", o.MPTCP)
	add("plain-peer", "true", o.PlainPeer)
	add("ktls", "true", o.KTLS)
	add("every", o.Every.String(), o.Every != 0)
	add("close-after", o.CloseAfter.String(), o.CloseAfter != 0)
	add("nofile", strconv.Itoa(o.NoFile), o.NoFile != 0)
	return args
}

// Leaker is a running leak and what is true of it.
type Leaker struct {
	facts.Ready
	// Lines are the events after the first; closed when the leaker ends.
	Lines <-chan facts.Line

	cmd    *exec.Cmd
	stdin  io.Closer
	stderr *bytes.Buffer
	read   chan struct{}
	once   sync.Once
	err    error
}

// StartLeaker starts a leak and returns when the kernel agrees that the sockets are
// there. It ends with the test, or by Stop.
func StartLeaker(tb testing.TB, o Options) *Leaker {
	tb.Helper()
	if o.Netns != "" {
		RequireRoot(tb)
	}
	program, err := LeakerProgram()
	if err != nil {
		tb.Fatalf("build leaker: %v", err)
	}
	l, first, err := startLeaker(program, o)
	if err != nil {
		tb.Fatalf("start leaker: %v", err)
	}
	tb.Cleanup(func() {
		if err := l.Stop(); err != nil {
			tb.Errorf("leaker %s: %v", o.Cause, err)
		}
	})
	select {
	case ready, ok := <-first:
		if !ok {
			tb.Fatalf("leaker %s: not ready: %v", o.Cause, l.Stop())
		}
		l.Ready = ready
	case <-time.After(leakerPatience):
		tb.Fatalf("leaker %s: not ready within %v", o.Cause, leakerPatience)
	}
	return l
}

func startLeaker(program string, o Options) (*Leaker, <-chan facts.Ready, error) {
	l := &Leaker{stderr: &bytes.Buffer{}, read: make(chan struct{})}
	l.cmd = exec.Command(program, o.args()...)
	l.cmd.Stderr = l.stderr
	stdin, err := l.cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	stdout, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := l.cmd.Start(); err != nil {
		return nil, nil, err
	}
	l.stdin = stdin
	first := make(chan facts.Ready, 1)
	// Roomy, so that a test which does not look never stops the leaker.
	lines := make(chan facts.Line, 1<<15)
	l.Lines = lines
	go func() {
		defer close(l.read)
		defer close(lines)
		defer close(first)
		for dec := json.NewDecoder(stdout); ; {
			var line facts.Line
			if dec.Decode(&line) != nil {
				return // its own message, if any, is on stderr
			}
			if line.Event == facts.EventReady && line.Ready != nil {
				first <- *line.Ready
				continue
			}
			lines <- line
		}
	}()
	return l, first, nil
}

// Stop ends the leaker, which closes every socket, and waits for it and its peer. It may
// be called twice.
func (l *Leaker) Stop() error {
	l.once.Do(func() {
		_ = l.stdin.Close()
		kill := time.AfterFunc(leakerPatience, func() { _ = l.cmd.Process.Kill() })
		defer kill.Stop()
		<-l.read // Wait closes the pipe, so the reader must be through
		if err := l.cmd.Wait(); err != nil {
			l.err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(l.stderr.Bytes()))
		}
	})
	return l.err
}

// built holds the program for the life of the test process.
type built struct {
	once sync.Once
	path string
	err  error
}

var leaker built

// LeakerProgram builds the leaker once per test process. The directory is removed by
// nobody but the system's cleaner of temporary files: tests have no common end.
func LeakerProgram() (string, error) {
	if path := os.Getenv(leakerEnv); path != "" {
		return path, nil
	}
	leaker.once.Do(func() { leaker.path, leaker.err = buildLeaker() })
	return leaker.path, leaker.err
}

func buildLeaker() (string, error) {
	if _, err := exec.LookPath("go"); err != nil {
		return "", errors.Join(err, fmt.Errorf("set %s to a leaker built elsewhere", leakerEnv))
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("tcpwaitd-leaker-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Test processes share the file: the go command leaves an up-to-date one alone, and a
	// rename never disturbs a running one.
	fresh := filepath.Join(dir, fmt.Sprintf("leaker.%d", os.Getpid()))
	cmd := exec.Command("go", "build", "-o", fresh, "github.com/tcpwaitd/tcpwaitd/internal/testenv/leaker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	path := filepath.Join(dir, "leaker")
	return path, os.Rename(fresh, path)
}
