package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// lab is where targets are built and run, and watched by one agent.
type lab struct {
	*agent
	ns *testenv.Netns
	// dir holds what was built.
	dir      string
	builds   sync.Map // name to the func() error that builds it
	lastPort atomic.Uint32
}

// firstPort is below those that the kernel gives to clients.
const firstPort = 20000

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Getenv("TCPWAITD_VM") == "1" {
		testenv.Skip(t, "guest programs", "TestStacksOfLeaker is for guests")
	}
	l := &lab{ns: testNetns(t), dir: t.TempDir()}
	// Servers give up their privileges.
	for dir := l.dir; strings.HasPrefix(dir, os.TempDir()) && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l.lastPort.Store(firstPort)
	l.agent = startAgent(t, l.ns)
	return l
}

func (l *lab) port() uint16 { return uint16(l.lastPort.Add(1)) }

// tool skips the test where a program is not installed.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		testenv.Skip(t, name, err.Error())
	}
	return path
}

// source is the path of a file in testdata/targets.
func source(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", "targets", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// lineOf returns "NAME:LINE" of the line that holds text, and fails where there is not
// just one.
func lineOf(t *testing.T, name, text string) string {
	t.Helper()
	all, err := os.ReadFile(source(t, name))
	if err != nil {
		t.Fatal(err)
	}
	before, after, found := strings.Cut(string(all), text)
	if !found || strings.Contains(after, text) {
		t.Fatalf("%q is not just once in %s", text, name)
	}
	return fmt.Sprintf("%s:%d", name, 1+strings.Count(before, "\n"))
}

// once makes the file NAME in the lab's directory, by the first test that asks.
func (l *lab) once(t *testing.T, name string, build func(path string) error) string {
	t.Helper()
	path := filepath.Join(l.dir, name)
	made, _ := l.builds.LoadOrStore(name, sync.OnceValue(func() error { return build(path) }))
	if err := made.(func() error)(); err != nil {
		t.Fatalf("build %s: %v", name, err)
	}
	return path
}

// command runs to the end, its output is in the error.
func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// optimized is how the C targets are compiled: as distributions do it, without frame
// pointers.
var optimized = []string{"-O2", "-fomit-frame-pointer"}

// compile builds a C target with more flags.
func (l *lab) compile(t *testing.T, cc, src, name string, flags ...string) string {
	t.Helper()
	tool(t, cc)
	from := source(t, src)
	return l.once(t, name, func(path string) error {
		args := append(append([]string{}, optimized...), flags...)
		return command(cc, append(args, "-o", path, from)...)
	})
}

func (l *lab) gobuild(t *testing.T, pkg, name string, flags ...string) string {
	t.Helper()
	tool(t, "go")
	dir := source(t, pkg)
	return l.once(t, name, func(path string) error {
		cmd := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), ".")...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// target is a running program of a test.
type target struct {
	cmd    *exec.Cmd
	port   uint16
	output *syncBuffer
	ended  chan struct{}
	stop   func()
}

// syncBuffer is written by a process and read by a test.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start runs cmd in the lab's namespace. It is killed at the end of the test.
func (l *lab) start(t *testing.T, cmd *exec.Cmd) *target {
	t.Helper()
	x := &target{cmd: cmd, output: &syncBuffer{}, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = x.output, x.output
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// Its children end with it: the whole group is killed.
	cmd.SysProcAttr.Setpgid = true
	if err := l.ns.Do(cmd.Start); err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	go func() {
		_ = cmd.Wait() // killed, as a rule
		close(x.ended)
	}()
	x.stop = sync.OnceFunc(func() {
		// ESRCH: it has ended by itself.
		if err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			t.Errorf("kill %s: %v", cmd.Path, err)
		}
		<-x.ended
	})
	t.Cleanup(func() {
		x.stop()
		if t.Failed() {
			t.Logf("%s said: %s", filepath.Base(cmd.Path), tailOf(x.output.String()))
		}
	})
	return x
}

// serve runs a server that takes its port as "PORT" in any of its arguments, and returns
// when it listens there.
func (l *lab) serve(t *testing.T, name string, args ...string) *target {
	t.Helper()
	port := l.port()
	return l.serveCommand(t, atPort(port, name, args), port)
}

// atPort is a command in whose arguments "PORT" stands for the port.
func atPort(port uint16, name string, args []string) *exec.Cmd {
	cmd := exec.Command(name)
	for _, arg := range args {
		cmd.Args = append(cmd.Args, strings.ReplaceAll(arg, "PORT", fmt.Sprint(port)))
	}
	return cmd
}

func (l *lab) serveCommand(t *testing.T, cmd *exec.Cmd, port uint16) *target {
	t.Helper()
	x := l.start(t, cmd)
	x.port = port
	l.awaitListener(t, x)
	return x
}

// awaitListener asks the kernel, not the server: a connection would be an event.
func (l *lab) awaitListener(t *testing.T, x *target) {
	t.Helper()
	for enough := time.Now().Add(stackPatience); ; time.Sleep(5 * time.Millisecond) {
		for _, row := range testenv.TCPTable(t, l.ns.Path) {
			if row.Lport == x.port && row.State == event.Listen {
				return
			}
		}
		select {
		case <-x.ended:
			t.Fatalf("%v ended: %s", x.cmd.Args, x.output)
		default:
		}
		if time.Now().After(enough) {
			t.Fatalf("%v does not listen on port %d: %s", x.cmd.Args, x.port, x.output)
		}
	}
}

// client is a connection of the test to a target.
type client struct {
	*net.TCPConn
	ports ports // as the target sees them
}

func (l *lab) dial(t *testing.T, port uint16) *client {
	t.Helper()
	var conn net.Conn
	err := l.ns.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp4", fmt.Sprint("127.0.0.1:", port), stackPatience)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &client{conn.(*net.TCPConn), ports{port, addrPort(conn.LocalAddr()).Port()}}
}

func addrPort(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

// say writes, and waits for an answer of any length.
func (c *client) say(t *testing.T, text string) string {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("write: %v", err)
	}
	answer := make([]byte, 4096)
	n, err := c.Read(answer)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	return string(answer[:n])
}

// hangUp closes our end of the connection first, and waits until the other is closed too.
func (c *client) hangUp(t *testing.T) {
	t.Helper()
	if err := c.CloseWrite(); err != nil {
		t.Fatalf("half-close: %v", err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Fatalf("wait for the target's close: %v", err)
	}
	c.Close()
}

// talk says text, hears an answer, hangs up, and returns the stacks of the target's end.
func (l *lab) talk(t *testing.T, port uint16, text string) stacks {
	t.Helper()
	c := l.dial(t, port)
	if text != "" {
		c.say(t, text)
	}
	c.hangUp(t)
	return l.await(t, c.ports, (*change).closing)
}

// talks is talk as a sample.
func (l *lab) talks(t *testing.T, x *target, text string) func() stacks {
	t.Helper()
	return func() stacks { return l.talk(t, x.port, text) }
}

// burstWindow is how many connections of a burst are under way: enough for speed, and not
// more stacks than one process may have in a second.
const burstWindow = 50

// burst makes connections without waiting for each, and hands out the stacks of the
// target's end of all. Each is seen to its end before its ports can come again.
func (l *lab) burst(t *testing.T, x *target, connections int, do func(*client), seen func(stacks)) {
	t.Helper()
	clients := make([]*client, 0, connections)
	for i := range connections + burstWindow {
		if i < connections {
			c := l.dial(t, x.port)
			do(c)
			clients = append(clients, c)
		}
		if i >= burstWindow {
			seen(l.await(t, clients[i-burstWindow].ports, (*change).closing))
		}
	}
}

// answering accepts in the lab's namespace what targets connect to; whoever comes is told
// goodbye. The ports of each, as the target sees them, are sent.
func (l *lab) answering(t *testing.T, greeting string) (port uint16, came <-chan ports) {
	t.Helper()
	var listener net.Listener
	err := l.ns.Do(func() (err error) {
		listener, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	callers := make(chan ports, attempts)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			callers <- ports{addrPort(conn.RemoteAddr()).Port(), addrPort(conn.LocalAddr()).Port()}
			_, _ = io.WriteString(conn, greeting)
			_ = conn.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}()
	return addrPort(listener.Addr()).Port(), callers
}

// caller waits for a connection of the target and returns the stacks of its end when it
// is closed.
func (l *lab) caller(t *testing.T, came <-chan ports) stacks {
	t.Helper()
	select {
	case p := <-came:
		return l.await(t, p, (*change).closing)
	case <-time.After(stackPatience):
		t.Fatal("the target does not connect")
		return nil
	}
}
