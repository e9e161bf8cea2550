package tracer

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// childEnv makes this test program a child that does what its standard input says.
const childEnv = "TCPWAITD_TRACER_CHILD"

func TestMain(m *testing.M) {
	switch depth, err := strconv.Atoi(os.Getenv(childEnv)); {
	case err != nil:
		os.Exit(m.Run())
	case depth == 0:
		obey()
	default:
		descend(depth - 1)
	}
}

// descend is a process that starts another, and so on, down to one that ends when its
// standard input does.
func descend(depth int) {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%d", childEnv, depth))
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := c.Start(); err != nil {
		panic(err)
	}
	fmt.Println(c.Process.Pid)
	_ = c.Wait()
}

// obey runs one command a line and answers each with one line.
func obey() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		answer, err := command(strings.Fields(lines.Text()))
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Println(answer)
	}
}

func command(words []string) (string, error) {
	var fd int
	if len(words) > 1 && words[0][0] != 's' {
		if _, err := fmt.Sscan(words[1], &fd); err != nil {
			return "", err
		}
	}
	var b [1]byte
	switch words[0] {
	case "read":
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if err == nil {
				break
			}
			// Go preempts threads by signals, and poll() is never restarted.
			if !errors.Is(err, unix.EINTR) {
				return "", err
			}
		}
		n, err := unix.Read(fd, b[:])
		return fmt.Sprint(n), err
	case "write":
		n, err := unix.Write(fd, b[:])
		return fmt.Sprint(n), err
	case "close":
		return "", unix.Close(fd)
	case "accept":
		n, _, err := unix.Accept(fd)
		return fmt.Sprint(n), err
	case "listen":
		return "", listenAnywhere()
	case "spawn":
		return spawn(words[1], true)
	case "start":
		return spawn(words[1], false)
	case "exit":
		os.Exit(0)
	}
	return "", fmt.Errorf("unknown command %q", words)
}

func listenAnywhere() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	return unix.Listen(fd, 1)
}

// spawn starts a child whose child starts a child; they end now or with this process. It
// returns their pids.
func spawn(program string, end bool) (string, error) {
	c := exec.Command(program)
	c.Env = append(os.Environ(), childEnv+"=2")
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return "", err
	}
	in, err := c.StdinPipe()
	if err != nil {
		return "", err
	}
	if err := c.Start(); err != nil {
		return "", err
	}
	pids := []string{fmt.Sprint(c.Process.Pid)}
	for lines := bufio.NewScanner(out); len(pids) < 3 && lines.Scan(); {
		pids = append(pids, lines.Text())
	}
	answer := strings.Join(pids, " ")
	if !end {
		return answer, nil
	}
	if err := in.Close(); err != nil {
		return "", err
	}
	return answer, c.Wait()
}

// child is a process that the test moves.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	in  interface {
		Write([]byte) (int, error)
		Close() error
	}
	out *bufio.Reader
	pid uint32
}

// startChild starts one that has the files from descriptor 3 on.
func startChild(t *testing.T, files ...*os.File) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: exec.Command(self)}
	c.cmd.Env = append(os.Environ(), childEnv+"=0")
	c.cmd.Stderr = os.Stderr
	c.cmd.ExtraFiles = files
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.out, c.pid = bufio.NewReader(out), uint32(c.cmd.Process.Pid)
	t.Cleanup(c.end)
	return c
}

func (c *child) end() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}

// do runs a command and returns the answer.
func (c *child) do(format string, args ...any) string {
	c.t.Helper()
	text := fmt.Sprintf(format, args...)
	if _, err := fmt.Fprintln(c.in, text); err != nil {
		c.t.Fatal(err)
	}
	answer, err := c.out.ReadString('\n')
	if err != nil || strings.HasPrefix(answer, "error") {
		c.t.Fatalf("child %d, %q: %q, %v", c.pid, text, answer, err)
	}
	return strings.TrimSpace(answer)
}

// exit makes the process end without closing anything.
func (c *child) exit() {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, "exit"); err != nil {
		c.t.Fatal(err)
	}
	if err := c.cmd.Wait(); err != nil {
		c.t.Fatal(err)
	}
}

// fileOf is a second descriptor of a connection or listener, closed with the test.
func fileOf(t *testing.T, c interface{ File() (*os.File, error) }) *os.File {
	t.Helper()
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// giveAway starts a child that holds a connection, as descriptor 3, alone.
func giveAway(t *testing.T, conn net.Conn) *child {
	t.Helper()
	f := fileOf(t, conn.(*net.TCPConn))
	c := startChild(t, f)
	f.Close()
	conn.Close()
	return c
}
