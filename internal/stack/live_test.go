package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// patience bounds waiting for a fact.
const patience = 60 * time.Second

// live is a keeper with a tracer of one namespace.
type live struct {
	t  *testing.T
	ns *testenv.Netns
	tr *tracer.Tracer
	k  *Keeper
	// opened are the connects that have a stack.
	opened chan event.Transition
}

func newLive(t *testing.T, way tracer.Unwinder) *live {
	t.Helper()
	testenv.RequireRoot(t)
	l := &live{
		t: t, ns: testenv.NewNetns(t), opened: make(chan event.Transition, 1009),
		k: New(Options{Proc: "/proc", Log: slog.New(slog.DiscardHandler)}),
	}
	var err error
	l.tr, err = tracer.Open(tracer.Config{
		Live: true, Filter: event.Filter{Netns: []uint32{l.ns.Inode}},
		Stacks: tracer.StackConfig{Sink: l.k, AllCloses: true, Unwinder: way},
	})
	if err != nil {
		t.Fatal(err)
	}
	l.k.Start(l.tr, l.tr.Users())
	l.k.Settle(t.Context())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- l.tr.Run(ctx, l.transition, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, l.k.Close(), l.tr.Close()); err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *live) transition(e *event.Transition) error {
	if e.New == event.SynSent && e.Stacks[event.StackOpen] != 0 {
		l.opened <- *e
	}
	return nil
}

// connect makes one connection by make and returns the stack of its connect().
func (l *live) connect(pid func() uint32, connect func() error) *Named {
	l.t.Helper()
	if err := l.ns.Do(connect); err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	for {
		select {
		case e := <-l.opened:
			if e.Owner.Pid == pid() {
				l.k.Settle(ctx)
				return l.k.Get(e.Stacks[event.StackOpen])
			}
		case <-ctx.Done():
			l.t.Fatal("no stack of connect()")
		}
	}
}

func names(frames []symbol.Frame) []string {
	var all []string
	for _, f := range frames {
		all = append(all, f.Function)
	}
	return all
}

func self() uint32 { return uint32(os.Getpid()) }

func dialOnce() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	return c.Close()
}

// Go code is walked to the end in every way there is, and said to be complete.
func TestGoStackEveryWay(t *testing.T) {
	for _, way := range []tracer.Unwinder{tracer.UnwindTables, tracer.UnwindRaw, tracer.UnwindFP} {
		t.Run(string(way), func(t *testing.T) {
			l := newLive(t, "")
			if best, why := l.tr.Unwinder(); best == tracer.UnwindFP && way != tracer.UnwindFP {
				testenv.Skip(t, "unwind tables", "this machine has one way only: "+why)
			}
			l = newLive(t, way)
			var s *Named
			// The first stack may come before the process is known.
			for range 23 {
				s = l.connect(self, dialOnce)
				if s.Quality == event.QualityComplete {
					break
				}
			}
			got := names(s.Frames)
			if s.Quality != event.QualityComplete || len(got) == 0 || got[len(got)-1] != "runtime.goexit" ||
				!slices.ContainsFunc(got, func(n string) bool { return strings.HasSuffix(n, "stack.dialOnce") }) {
				t.Errorf("%v %v: %q", s.Quality, s.Reason, got)
			}
		})
	}
}

// client is a C program without frame pointers that connects from a chain of calls.
func client(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "client")
	out, err := exec.CommandContext(t.Context(), "gcc", "-O2", "-fomit-frame-pointer", "-o", path,
		"../tracer/testdata/connect.c").CombinedOutput()
	if err != nil {
		t.Fatalf("build the client: %v\n%s", err, out)
	}
	return path
}

// runClient connects once, from a process that ends at once.
func runClient(ctx context.Context, path string, pid *uint32) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	cmd := exec.CommandContext(ctx, path, port, "1")
	cmd.Stdin = strings.NewReader("\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	*pid = uint32(cmd.Process.Pid)
	return nil
}

// A program whose processes are gone before anybody can look at them: its table is read
// when it is started again, and names need no process.
func TestShortLivedProgram(t *testing.T) {
	requireAMD64(t)
	path := client(t)
	l := newLive(t, tracer.UnwindTables)
	var s *Named
	for range 23 {
		var pid uint32
		s = l.connect(func() uint32 { return pid }, func() error { return runClient(t.Context(), path, &pid) })
		if s.Quality == event.QualityComplete {
			break
		}
	}
	got := names(s.Frames)
	if s.Quality != event.QualityComplete || !slices.Contains(got, "main") || !slices.Contains(got, "deeper") || got[0] != "connect" {
		t.Errorf("%v %v: %q", s.Quality, s.Reason, got)
	}
}

func requireAMD64(t *testing.T) {
	t.Helper()
	if os.Getenv("TCPWAITD_VM") == "1" {
		testenv.Skip(t, "guest programs", "a compiler and Python")
	}
	if best := newLive(t, ""); best != nil {
		if way, why := best.tr.Unwinder(); way != tracer.UnwindTables {
			testenv.Skip(t, "unwind tables", why)
		}
	}
}

const blocking = `
import socket, sys
def wait_here(conn):
    return conn.recv(1)
def serve(listener):
    conn, _ = listener.accept()
    print("accepted", flush=True)
    wait_here(conn)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
serve(listener)
`

// Where the threads of a process stand: native frames and Python's own, nothing stopped.
func TestThreads(t *testing.T) {
	requireAMD64(t)
	l := newLive(t, tracer.UnwindTables)
	var cmd *exec.Cmd
	var conn net.Conn
	err := l.ns.Do(func() error {
		cmd = exec.CommandContext(t.Context(), "python3", "-c", blocking)
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		var port int
		if _, err := fmt.Fscan(out, &port); err != nil {
			return err
		}
		conn, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return err
		}
		var word string
		_, err = fmt.Fscan(out, &word)
		go func() { _, _ = io.Copy(io.Discard, out) }()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		conn.Close()
		_ = cmd.Wait()
	}()
	want := []string{"wait_here", "serve", "<module>"}
	var got []string
	for end := time.Now().Add(patience); time.Now().Before(end); {
		threads, err := l.k.Threads(t.Context(), uint32(cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		// It said "accepted" before it went to wait.
		for _, th := range threads {
			got = names(th.Frames)
			if inOrder(got, want) && th.Quality == event.QualityComplete {
				return
			}
		}
	}
	t.Errorf("threads stand at %q, want %q among them", got, want)
}

func inOrder(all, want []string) bool {
	for _, name := range all {
		if len(want) > 0 && name == want[0] {
			want = want[1:]
		}
	}
	return len(want) == 0
}

const connector = `package main

import (
	"fmt"
	"net"
	"os"
)

func main() {
	fmt.Scanln()
	c, err := net.Dial("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		panic(err)
	}
	c.Close()
}
`

// Registers and stacks of 32-bit programs mean something else: they have none.
func TestNoStackOf32BitPrograms(t *testing.T) {
	requireAMD64(t)
	dir := t.TempDir()
	source, path := filepath.Join(dir, "main.go"), filepath.Join(dir, "connector")
	if err := os.WriteFile(source, []byte(connector), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, source)
	build.Env = append(os.Environ(), "GOARCH=386", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build for 386: %v\n%s", err, out)
	}
	l := newLive(t, tracer.UnwindTables)
	var pid uint32
	err := l.ns.Do(func() error { return runClient(t.Context(), path, &pid) })
	if errors.Is(err, unix.ENOEXEC) {
		testenv.Skip(t, "32-bit programs", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := l.ns.Do(dialOnce); err != nil {
		t.Fatal(err)
	}
	// That of this program comes after what the other one could have.
	select {
	case e := <-l.opened:
		if e.Owner.Pid != self() {
			t.Errorf("process %d, a 32-bit program, has a stack: %+v", e.Owner.Pid, l.k.Get(e.Stacks[event.StackOpen]))
		}
	case <-time.After(patience):
		t.Error("no stack of this program")
	}
}
