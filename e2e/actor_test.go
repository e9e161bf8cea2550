package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// actorProgram builds testdata/scenarios_b/actor once. As with the leaker, its directory is
// removed by nobody but the system's cleaner of temporary files.
var actorProgram = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("tcpwaitd-actor-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// A rename never disturbs one that another test process runs.
	fresh := filepath.Join(dir, fmt.Sprintf("actor.%d", os.Getpid()))
	cmd := exec.Command("go", "build", "-o", fresh, "./testdata/scenarios_b/actor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build actor: %w: %s", err, out)
	}
	path := filepath.Join(dir, "actor")
	return path, os.Rename(fresh, path)
})

// actor is a running role of testdata/scenarios_b/actor.
type actor struct {
	*target
	orders io.WriteCloser
}

// play starts a role in the scene.
func (s *scene) play(t *testing.T, args ...string) *actor {
	t.Helper()
	return playBy(t, args, s.start)
}

// playBy is play with another way to start.
func playBy(t *testing.T, args []string, start func(*testing.T, *exec.Cmd) *target) *actor {
	t.Helper()
	tool(t, "go")
	path, err := actorProgram()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	orders, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return &actor{start(t, cmd), orders}
}

// serving starts a role that says its port.
func (s *scene) serving(t *testing.T, args ...string) *actor {
	t.Helper()
	a := s.play(t, args...)
	a.readPort(t)
	return a
}

func (a *actor) readPort(t *testing.T) {
	t.Helper()
	if _, err := fmt.Sscan(a.said(t, "port "), &a.port); err != nil {
		t.Fatalf("%v said no port: %s", a.cmd.Args, a.output)
	}
}

func (a *actor) addr() string { return fmt.Sprint("127.0.0.1:", a.port) }

// said waits for the first whole line that begins so, and returns the rest of it.
func (a *actor) said(t *testing.T, beginning string) (rest string) {
	t.Helper()
	waitFor(t, func() string {
		for line := range strings.Lines(a.output.String()) {
			after, ok := strings.CutPrefix(line, beginning)
			if ok && strings.HasSuffix(line, "\n") {
				rest = strings.TrimSpace(after)
				return ""
			}
		}
		return a.silent(t, beginning)
	})
	return rest
}

// silent is what is missing of a program that has not said a thing.
func (a *actor) silent(t *testing.T, what string) string {
	t.Helper()
	select {
	case <-a.ended:
		t.Fatalf("%v ended: %s", a.cmd.Args, a.output)
	default:
	}
	return fmt.Sprintf("%v has not said %q: %s", a.cmd.Args, what, a.output)
}

// do gives an order and waits until it is done.
func (a *actor) do(t *testing.T, order string) {
	t.Helper()
	done := []byte("done " + order + "\n")
	count := func() int { return bytes.Count([]byte(a.output.String()), done) }
	before := count()
	if _, err := io.WriteString(a.orders, order+"\n"); err != nil {
		t.Fatalf("%v: %v", a.cmd.Args, err)
	}
	waitFor(t, func() string {
		if count() > before {
			return ""
		}
		return a.silent(t, string(done))
	})
}

// leave ends the role by ending its input, and returns what it said.
func (a *actor) leave(t *testing.T) string {
	t.Helper()
	if err := a.orders.Close(); err != nil {
		t.Fatal(err)
	}
	<-a.ended
	if code := a.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("%v ended with %d: %s", a.cmd.Args, code, a.output)
	}
	return a.output.String()
}

// innocents are programs that do nothing wrong: a server with established connections, and
// a client that keeps them. They must not be accused of what others do.
func (s *scene) innocents(t *testing.T) {
	t.Helper()
	server := s.serving(t, "server", "-do", "echo")
	client := s.play(t, "client", "-n", "5", server.addr())
	client.said(t, "connected")
	client.do(t, "send")
	client.do(t, "answer")
	ended := s.play(t, "client", "-n", "7", server.addr())
	ended.said(t, "connected")
	ended.do(t, "hangup")
	s.await(t, 5, "established at the innocent server", func(r testenv.TCPRow) bool {
		return r.Lport == server.port && r.Inode != 0 && r.State.String() == "ESTABLISHED"
	})
	s.await(t, 0, "in CLOSE_WAIT at the innocent server", func(r testenv.TCPRow) bool {
		return r.Lport == server.port && r.State == event.CloseWait
	})
}

// actorSource is the path of a file in testdata/scenarios_b.
func actorSource(t *testing.T, name string) string {
	t.Helper()
	return source(t, filepath.Join("..", "scenarios_b", name))
}
