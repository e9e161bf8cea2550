package hotspot

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// patience is how long a JVM may take; it ends tests that would hang.
const patience = time.Minute

// jdk is a JDK on this machine.
type jdk struct {
	name, home string
	// classes is where testdata/Waits.java is compiled to.
	classes string
}

// jdks finds all of them.
func jdks(tb testing.TB) []jdk {
	tb.Helper()
	libraries, err := filepath.Glob("/usr/lib/jvm/*/lib/server/" + libraryName)
	if err != nil {
		tb.Fatal(err)
	}
	var all []jdk
	for _, l := range libraries {
		l, err := filepath.EvalSymlinks(l)
		if err != nil {
			tb.Fatal(err)
		}
		home := strings.TrimSuffix(l, "/lib/server/"+libraryName)
		known := slices.ContainsFunc(all, func(j jdk) bool { return j.home == home })
		if _, err := os.Stat(home + "/bin/jcmd"); err == nil && !known {
			all = append(all, jdk{name: filepath.Base(home), home: home})
		}
	}
	if len(all) == 0 {
		testenv.Skip(tb, "a JDK", "no libjvm.so and jcmd below /usr/lib/jvm; install openjdk-17-jdk-headless")
	}
	classes := tb.TempDir()
	compile := exec.Command(all[0].home+"/bin/javac", "--release", "17", "-d", classes, "testdata/Waits.java")
	if out, err := compile.CombinedOutput(); err != nil {
		tb.Fatalf("javac: %v\n%s", err, out)
	}
	for i := range all {
		all[i].classes = classes
	}
	return all
}

// java is a running Waits.
type java struct {
	home string
	cmd  *exec.Cmd
	pid  int
	conn net.Conn
	// stdin: what is read from it blocks.
	stdin  io.WriteCloser
	exited chan struct{}
}

// kill ends it, and waits until it is gone.
func (j *java) kill() {
	_ = j.cmd.Process.Kill()
	<-j.exited
}

// launch starts Waits with options of the JVM and arguments after its port. It connects
// to the listener.
func launch(tb testing.TB, jdk jdk, options, args []string) (*java, net.Listener) {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = listener.Close() })
	if err := listener.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
		tb.Fatal(err)
	}
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	command := slices.Concat([]string{"-cp", jdk.classes}, options, []string{"Waits", port}, args)
	j := &java{home: jdk.home, cmd: exec.Command(jdk.home+"/bin/java", command...), exited: make(chan struct{})}
	j.cmd.Stderr = os.Stderr
	if j.stdin, err = j.cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	if err := j.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	j.pid = j.cmd.Process.Pid
	go func() {
		_ = j.cmd.Wait()
		close(j.exited)
		_ = listener.Close() // it will not connect any more
	}()
	tb.Cleanup(j.kill)
	return j, listener
}

// startJava is launch that waits until Waits has connected.
func startJava(tb testing.TB, jdk jdk, options, args []string) *java {
	tb.Helper()
	j, listener := launch(tb, jdk, options, args)
	var err error
	if j.conn, err = listener.Accept(); err != nil {
		tb.Fatalf("java did not connect: %v", err)
	}
	tb.Cleanup(func() { _ = j.conn.Close() })
	return j
}

// work makes it read so many bytes, and waits until it has.
func (j *java) work(tb testing.TB, bytes int) {
	tb.Helper()
	if err := j.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		tb.Fatal(err)
	}
	if _, err := io.WriteString(j.conn, strings.Repeat(".", bytes-1)+"A"); err != nil {
		tb.Fatal(err)
	}
	if _, err := io.ReadFull(j.conn, make([]byte, 1)); err != nil {
		tb.Fatal(err)
	}
}

// jcmd runs commands of the JVM itself and returns what they print.
func (j *java) jcmd(tb testing.TB, commands ...string) string {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "commands")
	if err := os.WriteFile(file, []byte(strings.Join(commands, "\n")), 0o600); err != nil {
		tb.Fatal(err)
	}
	out, err := exec.Command(j.home+"/bin/jcmd", strconv.Itoa(j.pid), "-f", file).CombinedOutput()
	if err != nil {
		tb.Fatalf("jcmd: %v\n%s", err, out)
	}
	return string(out)
}

// process describes the process as Detect wants it.
func (j *java) process(tb testing.TB) *object.Process {
	tb.Helper()
	return processOf(tb, j.pid)
}

func processOf(tb testing.TB, pid int) *object.Process {
	tb.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		tb.Fatal(err)
	}
	defer maps.Close()
	p := &object.Process{Pid: uint32(pid), Memory: processMemory(pid)}
	for s := bufio.NewScanner(maps); s.Scan(); {
		var m object.Mapped
		var mode, device, path string
		var inode uint64
		n, _ := fmt.Sscanf(s.Text(), "%x-%x %s %x %s %d %s", &m.Start, &m.End, &mode, &m.Offset, &device, &inode, &path)
		if n < 6 || !strings.Contains(mode, "x") {
			continue
		}
		if path != "" {
			m.Object = &object.Object{Path: path}
		}
		if filepath.Base(path) == libraryName {
			if m.Object.File, err = os.Open(path); err != nil {
				tb.Fatal(err)
			}
			tb.Cleanup(func() { _ = m.Object.File.Close() })
		}
		p.Maps = append(p.Maps, m)
	}
	return p
}

// processMemory reads a process by its number.
type processMemory int

func (pid processMemory) ReadAt(buf []byte, addr uint64) (int, error) {
	if len(buf) == 0 {
		return 0, nil
	}
	local := []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(buf)}}
	return unix.ProcessVMReadv(int(pid), local, remote, 0)
}

// detect is Detect where there must be a JVM.
func (j *java) detect(tb testing.TB) *Runtime {
	tb.Helper()
	r, err := Detect(j.process(tb))
	if err != nil {
		tb.Fatal(err)
	}
	if r == nil {
		tb.Fatal("no JVM found")
	}
	return r
}

// The calls that a thread can be blocked in, as /proc/PID/task/TID/syscall has them.
func isRead(call []string) bool   { return call[0] == strconv.Itoa(unix.SYS_READ) }
func isStdin(call []string) bool  { return call[1] == "0x0" }
func isSocket(call []string) bool { return !isStdin(call) }

// waitInRead waits until the main thread of Waits is blocked in its read.
func (j *java) waitInRead(tb testing.TB) (tid uint32) {
	tb.Helper()
	return j.waitIn(tb, isRead, isSocket)
}

// waitIn waits until there is a thread that is blocked in such a call.
func (j *java) waitIn(tb testing.TB, conditions ...func(call []string) bool) (tid uint32) {
	tb.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		calls, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", j.pid))
		if err != nil {
			tb.Fatal(err)
		}
		for _, file := range calls {
			text, _ := os.ReadFile(file)
			call := strings.Fields(string(text))
			if len(call) < 2 { // "running", or gone
				continue
			}
			all := true
			for _, condition := range conditions {
				all = all && condition(call)
			}
			if all {
				n, _ := strconv.ParseUint(filepath.Base(filepath.Dir(file)), 10, 32)
				return uint32(n)
			}
		}
	}
	tb.Fatal("no thread is blocked in such a call")
	return 0
}

// vmStructs reads the tables again, for what the package does not need itself.
func (j *java) vmStructs(tb testing.TB) *vmStructs {
	tb.Helper()
	p := j.process(tb)
	library := findLibrary(p)
	e, err := readExports(library.Object.File, &library.VMA)
	if err != nil {
		tb.Fatal(err)
	}
	v, err := readVMStructs(memory{p.Memory}, e)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}
