package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// What server.c does, see there. __libc_start_call_main has no name without libc6-dbg.
var (
	serverAccept = []string{"accept4", "do_accept", "next_client", "serve_forever", "main"}
	serverEOF    = []string{"recv", "read_request", "parse_loop", "handle_client", "serve_forever", "main"}
	serverClose  = []string{"close", "drop_client", "handle_client", "serve_forever", "main"}
	toStart      = []string{"__libc_start_call_main", anything, "_start"}
)

// serverWants are all three stacks.
func serverWants() []want {
	return []want{
		{slot: "open", frames: append(slices.Clone(serverAccept), toStart...), user: "do_accept"},
		{slot: "eof", frames: serverEOF, user: "read_request"},
		{slot: "close", frames: serverClose, user: "drop_client"},
	}
}

// serverFrames is how many frames the accept stack has, _start included.
const serverFrames = 8

// startServer is the plain case: as a distribution builds programs, with their symbols.
func (l *lab) startServer(t *testing.T) *target {
	t.Helper()
	return l.serve(t, l.compile(t, "gcc", "server.c", "server"), "PORT")
}

func (l *lab) native(t *testing.T) {
	t.Helper()
	t.Run("dynamic", func(t *testing.T) {
		t.Parallel()
		x := l.startServer(t)
		got := eventually(t, l.talks(t, x, "hi\n"), serverWants()...)
		if count := len(got["open"].Frames); count != serverFrames {
			t.Errorf("%d frames, want %d\n%v", count, serverFrames, got)
		}
		checkOrigin(t, got, x.cmd.Path)
	})
	for name, flag := range map[string]string{"static": "-static", "static-pie": "-static-pie"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := l.serve(t, l.compile(t, "gcc", "server.c", "server-"+name, flag), "PORT")
			eventually(t, l.talks(t, x, "hi\n"), serverWants()...)
		})
	}
	t.Run("deleted", func(t *testing.T) {
		t.Parallel()
		// A copy has an inode that the agent has not seen.
		path := copyTo(t, l.compile(t, "gcc", "server.c", "server"), filepath.Join(t.TempDir(), "server"))
		x := l.serve(t, path, "PORT")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		eventually(t, l.talks(t, x, "hi\n"), serverWants()...)
	})
	t.Run("chroot on overlayfs", func(t *testing.T) {
		t.Parallel()
		checkModule(t, l.inContainer(t, enterChroot))
	})
	t.Run("container", func(t *testing.T) {
		t.Parallel()
		checkModule(t, l.inContainer(t, enterPivot))
	})
	t.Run("minidebuginfo", func(t *testing.T) {
		t.Parallel()
		x := l.serve(t, l.withMiniDebugInfo(t), "PORT")
		eventually(t, l.talks(t, x, "hi\n"), serverWants()...)
	})
	t.Run("stripped", func(t *testing.T) {
		t.Parallel()
		tool(t, "strip")
		path := copyTo(t, l.compile(t, "gcc", "server.c", "server"), filepath.Join(t.TempDir(), "nameless"))
		if err := command("strip", "--strip-all", path); err != nil {
			t.Fatal(err)
		}
		x := l.serve(t, path, "PORT")
		own := "nameless+0x"
		got := eventually(t, l.talks(t, x, "hi\n"),
			want{slot: "open", frames: []string{"accept4", own, own, own, own, "__libc_start_call_main", anything, own}},
			want{slot: "close", frames: []string{"close", own, own, own, own, "__libc_start_call_main", anything, own}})
		if count := len(got["open"].Frames); count != serverFrames {
			t.Errorf("%d frames, want %d\n%v", count, serverFrames, got)
		}
	})
	t.Run("musl", func(t *testing.T) {
		t.Parallel()
		x := l.serve(t, l.compile(t, "musl-gcc", "server.c", "server-musl"), "PORT")
		// Its system calls are made two functions further in, which have no names; its recv() jumps
		// to recvfrom().
		guessed := func(slot string, outer ...string) want {
			return want{slot: slot, frames: append([]string{"libc.so+0x", "libc.so+0x"}, outer...), quality: "guessed"}
		}
		eventually(t, l.talks(t, x, "hi\n"), guessed("open", serverAccept...),
			guessed("eof", append([]string{"recvfrom"}, serverEOF[1:]...)...), guessed("close", serverClose...))
	})
	t.Run("exits", func(t *testing.T) {
		t.Parallel()
		l.exits(t)
	})
	t.Run("signal", func(t *testing.T) {
		t.Parallel()
		l.inSignalHandler(t)
	})
}

// checkOrigin: who was there, and where the code is.
func checkOrigin(t *testing.T, got stacks, path string) {
	t.Helper()
	for slot, s := range got {
		if s.Comm != filepath.Base(path) || s.Tid == 0 {
			t.Errorf("%s: thread %d %s, want %s", slot, s.Tid, s.Comm, filepath.Base(path))
		}
		for i := range s.Frames {
			f := &s.Frames[i]
			own := slices.Contains(serverClose[1:], f.Function) || slices.Contains(serverAccept[1:], f.Function)
			if f.Kind != "native" || f.Module == "" || f.Offset == 0 || own && f.Module != path {
				t.Errorf("%s, frame %d: %v", slot, i, f)
			}
		}
	}
}

// copyTo returns the path of the copy.
func copyTo(t *testing.T, from, to string) string {
	t.Helper()
	all, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := testenv.WriteProgram(to, all); err != nil {
		t.Fatal(err)
	}
	return to
}

// libraries returns the files that the loader maps into the program.
func libraries(t *testing.T, path string) []string {
	t.Helper()
	out, err := exec.Command(tool(t, "ldd"), path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for word := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(word, "/") {
			all = append(all, word)
		}
	}
	return all
}

// startContainer runs the server as containers do: its own mount namespace, its root an
// overlay. On an overlay /proc/PID/maps shows another device than the kernel's VMA has.
// enter is a shell command, debug makes the file with libc's symbols at the path where the
// container has it.
func (l *lab) startContainer(t *testing.T, enter string, debug func(t *testing.T, symbols, path string)) *target {
	t.Helper()
	path := l.compile(t, "gcc", "server.c", "server")
	dir := t.TempDir()
	lower := filepath.Join(dir, "lower")
	inside := func(file string) string {
		to := filepath.Join(lower, file)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		return to
	}
	copyTo(t, path, inside("server"))
	for _, file := range libraries(t, path) {
		copyTo(t, file, inside(file))
		if strings.HasPrefix(filepath.Base(file), "libc.so") {
			symbols := debugFile(t, file)
			debug(t, symbols, inside(symbols))
		}
	}
	port := l.port()
	// The upper layer must not be on an overlay, which the machine's root may be.
	const overlay = `mkdir layers merged && mount -t tmpfs none layers && mkdir layers/upper layers/work &&
		mount -t overlay -o lowerdir=lower,upperdir=layers/upper,workdir=layers/work none merged && `
	cmd := exec.Command("sh", "-c", overlay+enter, fmt.Sprint(port))
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return l.serveCommand(t, cmd, port)
}

// Ways into a container.
const (
	enterChroot = `exec chroot merged /server "$0"`
	// As runc does it, but the old root stays.
	enterPivot = `mkdir merged/old && cd merged && pivot_root . old && exec /server "$0"`
)

func (l *lab) inContainer(t *testing.T, enter string) stacks {
	t.Helper()
	x := l.startContainer(t, enter, func(t *testing.T, symbols, path string) {
		t.Helper()
		copyTo(t, symbols, path)
	})
	return eventually(t, l.talks(t, x, "hi\n"), serverWants()...)
}

func checkModule(t *testing.T, got stacks) {
	t.Helper()
	if module := got["open"].Frames[1].Module; module != "/server" {
		t.Errorf("module %q, want the path that the process sees", module)
	}
}

// debugFile is where the symbols of a library are, if they are installed.
func debugFile(t *testing.T, library string) string {
	t.Helper()
	out, err := exec.Command(tool(t, "readelf"), "-n", library).Output()
	if err != nil {
		t.Fatal(err)
	}
	_, id, _ := strings.Cut(string(out), "Build ID: ")
	id, _, _ = strings.Cut(id, "\n")
	if id = strings.TrimSpace(id); len(id) < 3 {
		t.Fatalf("%s has no build id: %s", library, out)
	}
	path := filepath.Join("/usr/lib/debug/.build-id", id[:2], id[2:]+".debug")
	if _, err := os.Stat(path); err != nil {
		testenv.Skip(t, "libc6-dbg", err.Error())
	}
	return path
}

// withMiniDebugInfo leaves the server no symbols but compressed ones, as Fedora does:
// those that are not in .dynsym.
func (l *lab) withMiniDebugInfo(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"nm", "objcopy", "strip", "xz"} {
		tool(t, name)
	}
	plain := l.compile(t, "gcc", "server.c", "server")
	return l.once(t, "server-mini", func(path string) error {
		debug := path + ".debug"
		for _, args := range [][]string{
			{"objcopy", "--only-keep-debug", plain, debug},
			{"objcopy", "--strip-debug", debug},
			{"xz", "--keep", debug},
			{"strip", "--strip-all", "-o", path, plain},
			{"objcopy", "--add-section", ".gnu_debugdata=" + debug + ".xz", path},
		} {
			if err := command(args[0], args[1:]...); err != nil {
				return err
			}
		}
		out, err := exec.Command("nm", path).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("no symbols")) {
			return fmt.Errorf("%s still has symbols: %w: %s", path, err, out)
		}
		return nil
	})
}

// exits: the process is gone when its stack is read.
func (l *lab) exits(t *testing.T) {
	t.Helper()
	path := l.compile(t, "gcc", "server.c", "server")
	eventually(t, func() stacks {
		x := l.serve(t, path, "PORT", "once")
		c := l.dial(t, x.port)
		// It does not even wait for what we say.
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Fatal(err)
		}
		<-x.ended
		return l.await(t, c.ports, (*change).closing)
	}, want{slot: "open", frames: append([]string{"accept4", "do_accept", "next_client", "serve_once", "main"}, toStart...)})
}

func (l *lab) inSignalHandler(t *testing.T) {
	t.Helper()
	x := l.serve(t, l.compile(t, "gcc", "signal.c", "signal"), "PORT")
	eventually(t, func() stacks {
		c := l.dial(t, x.port)
		for closed := false; !closed; {
			if err := unix.Kill(x.cmd.Process.Pid, unix.SIGUSR1); err != nil {
				t.Fatal(err)
			}
			// A signal that came before the spinning does nothing.
			if err := c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			_, err := c.Read(make([]byte, 1))
			closed = errors.Is(err, io.EOF)
		}
		return l.await(t, c.ports, (*change).closing)
	}, want{slot: "close", frames: append(
		[]string{"close", "in_handler", "handler", "<signal>", "spin_inner", "spin_outer", "main"}, toStart...)})
}

// storm: while the address space is being changed its mappings cannot be looked at.
func (l *lab) storm(t *testing.T) {
	t.Helper()
	x := l.serve(t, l.compile(t, "gcc", "storm.c", "storm", "-pthread"), "PORT")
	closes := want{slot: "close", frames: append([]string{"close", "do_close", "serve_one", "main"}, toStart...)}
	eventually(t, l.talks(t, x, ""), closes)
	const (
		// Each CPU has to find out about the code for itself, which fails now and then.
		warmUp      = 101
		connections = 499
		wrongMost   = connections / 100
	)
	hangUp := func(c *client) {
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	l.burst(t, x, warmUp, hangUp, func(stacks) {})
	var wrong int
	var last stacks
	// In one run of forty a CPU finds the mappings locked whenever it looks: docs/limits.md.
	for range 3 {
		wrong, last = l.incomplete(t, x, connections, closes, hangUp)
		if wrong <= wrongMost {
			return
		}
		t.Logf("%d of %d stacks are not complete, once more", wrong, connections)
	}
	t.Errorf("%d of %d stacks are not complete, want %d at most; the last one:\n%v", wrong, connections, wrongMost, last)
}

// incomplete counts the stacks of close() that are not complete; complete ones must be
// right.
func (l *lab) incomplete(t *testing.T, x *target, connections int, closes want, do func(*client)) (wrong int, last stacks) {
	t.Helper()
	l.burst(t, x, connections, do, func(got stacks) {
		text := closes.check(got)
		if text == "" {
			return
		}
		if s := got["close"]; s != nil && s.Quality == "complete" {
			t.Errorf("%s\n%v", text, got)
		}
		wrong++
		last = got
	})
	return wrong, last
}
