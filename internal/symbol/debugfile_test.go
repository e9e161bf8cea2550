package symbol

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// separated is a stripped program and its debug file.
type separated struct {
	original, program, debug string
	elf                      *elfFile
}

// separate compiles testdata/server.c and puts its symbols and lines into a file of their
// own.
func separate(tb testing.TB, flags ...string) separated {
	tb.Helper()
	dir := tb.TempDir()
	p := separated{original: compileC(tb, "server.c", flags...), program: filepath.Join(dir, "program"), debug: filepath.Join(tb.TempDir(), "server.debug")}
	run(tb, "objcopy", "--only-keep-debug", p.original, p.debug)
	run(tb, "objcopy", "-S", "--add-gnu-debuglink="+p.debug, p.original, p.program)
	p.elf = elfAt(tb, p.program)
	return p
}

func elfAt(tb testing.TB, path string) *elfFile {
	tb.Helper()
	o := objectAt(tb, path)
	size, err := fileSize(o.File)
	if err != nil {
		tb.Fatal(err)
	}
	f, err := parseELF(o.File, size)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// byBuildID is where the debug file belongs below a root.
func (p separated) byBuildID(root string) string {
	id := p.elf.buildID
	return filepath.Join(root, "usr/lib/debug/.build-id", id[:2], id[2:]+".debug")
}

// put copies a file to where its directory need not be.
func put(tb testing.TB, from, to string) {
	tb.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		tb.Fatal(err)
	}
	makeDir(tb, to)
	if err := os.WriteFile(to, raw, 0o755); err != nil {
		tb.Fatal(err)
	}
}

// makeDir makes the directory that path is in.
func makeDir(tb testing.TB, path string) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
}

func openRoot(tb testing.TB, dir string) *root {
	tb.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	r, err := newRoot(fd)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(r.close)
	return r
}

func TestDebugFilePlaces(t *testing.T) {
	p := separate(t)
	for name, place := range map[string]string{
		"build id":                   p.byBuildID("/"),
		"beside the program":         "/opt/server.debug",
		"in .debug":                  "/opt/.debug/server.debug",
		"in the tree of debug files": "/usr/lib/debug/opt/server.debug",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, p.debug, filepath.Join(dir, place))
			info, err := searchDebug(openRoot(t, dir), p.elf, "/opt/program", false)
			if err != nil {
				t.Fatal(err)
			}
			sym := symbolsOf(t, p.original)["do_accept"]
			f, ok := info.functions.find(sym.Value)
			if !ok || canonical(f.aliases) != "do_accept" {
				t.Errorf("got %+v", f)
			}
		})
	}
}

func TestDebugFileOfAnotherBuild(t *testing.T) {
	p, other := separate(t), separate(t, "-DOTHER", "-O1")
	if p.elf.buildID == other.elf.buildID {
		t.Fatal("the builds do not differ")
	}
	dir := t.TempDir()
	put(t, other.debug, p.byBuildID(dir))
	if _, err := searchDebug(openRoot(t, dir), p.elf, "/opt/program", false); !errors.Is(err, errBuildID) {
		t.Errorf("got %v, want %v", err, errBuildID)
	}
}

// TestHostileDebugFile: what stands in the place of a debug file is a container's choice.
func TestHostileDebugFile(t *testing.T) {
	p := separate(t)
	outside := filepath.Join(t.TempDir(), "outside.debug")
	put(t, p.debug, outside) // the right file, were it not outside
	cases := map[string]struct {
		make func(path string) error
		want error
	}{
		"link to /etc/passwd":            {func(path string) error { return os.Symlink("/etc/passwd", path) }, fs.ErrNotExist},
		"link to the right file outside": {func(path string) error { return os.Symlink(outside, path) }, fs.ErrNotExist},
		"link up and out": {func(path string) error {
			return os.Symlink("../../../../../../../../../.."+outside, path)
		}, fs.ErrNotExist},
		"link through /proc": {func(path string) error {
			return os.Symlink("/proc/self/root"+outside, path)
		}, fs.ErrNotExist},
		"link to itself": {func(path string) error { return os.Symlink(filepath.Base(path), path) }, syscall.ELOOP},
		"pipe":           {func(path string) error { return syscall.Mkfifo(path, 0o644) }, errNotRegular},
		"directory":      {func(path string) error { return os.Mkdir(path, 0o755) }, errNotRegular},
		"socket":         {makeSocket, errNotRegular},
		"empty":          {func(path string) error { return os.WriteFile(path, nil, 0o644) }, nil},
		"huge and sparse": {func(path string) error {
			return errors.Join(os.WriteFile(path, []byte("\x7fELF\x02\x01\x01"), 0o644), os.Truncate(path, 1<<40))
		}, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			place := p.byBuildID(dir)
			makeDir(t, place)
			if err := c.make(place); err != nil {
				t.Fatal(err)
			}
			info, err := searchDebug(openRoot(t, dir), p.elf, "/opt/program", true)
			if info != nil || err == nil {
				t.Fatalf("got %+v, %v", info, err)
			}
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func makeSocket(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// The path is longer than an address can be.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Bind(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path)})
}

// TestLinkInsideRoot: distributions link debug files to each other, absolutely too.
func TestLinkInsideRoot(t *testing.T) {
	p := separate(t)
	dir := t.TempDir()
	put(t, p.debug, filepath.Join(dir, "/opt/debug/file"))
	place := p.byBuildID(dir)
	makeDir(t, place)
	if err := os.Symlink("/opt/debug/file", place); err != nil {
		t.Fatal(err)
	}
	if _, err := searchDebug(openRoot(t, dir), p.elf, "/program", false); err != nil {
		t.Error(err)
	}
}

// startIdle starts testdata/idle.c, below a root directory if that is not "".
func startIdle(tb testing.TB, dir string) *object.Process {
	tb.Helper()
	if dir == "" {
		return startIdleWith(tb, dir, nil)
	}
	return startIdleWith(tb, dir, &syscall.SysProcAttr{Chroot: dir})
}

func startIdleWith(tb testing.TB, dir string, attr *syscall.SysProcAttr) *object.Process {
	tb.Helper()
	program := compileC(tb, "idle.c", "-static")
	path := program
	if dir != "" {
		testenv.RequireRoot(tb)
		put(tb, program, filepath.Join(dir, "idle"))
		path = "/idle"
	}
	cmd := exec.Command(path)
	if dir != "" {
		cmd.SysProcAttr, cmd.Dir = attr, "/"
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if _, err := bufio.NewReader(out).ReadByte(); err != nil {
		tb.Fatal(err)
	}
	return &object.Process{Pid: uint32(cmd.Process.Pid)}
}

// TestDebugFileOfContainer: the debug file in the root of the process counts for the frames
// of that process, and for no other's.
func TestDebugFileOfContainer(t *testing.T) {
	p := separate(t)
	dir := t.TempDir()
	put(t, p.debug, p.byBuildID(dir))
	inside, outside := startIdle(t, dir), startIdle(t, "")
	o := objectAt(t, p.program)
	sym := symbolsOf(t, p.original)["next_client"]
	s := New(Options{})
	for range 2 {
		if got := nameAt(t, s, inside, o, sym.Value); got[0].Function != "next_client" {
			t.Errorf("inside: got %+v", got)
		}
		if got := nameAt(t, s, outside, o, sym.Value); got[0].Function != "" {
			t.Errorf("outside: got %+v", got)
		}
		if got := nameAt(t, s, nil, o, sym.Value); got[0].Function != "" {
			t.Errorf("without a process: got %+v", got)
		}
	}
}

// TestDebugFileAfterExit: a process that was seen alive is remembered.
func TestDebugFileAfterExit(t *testing.T) {
	p := separate(t)
	dir := t.TempDir()
	put(t, p.debug, p.byBuildID(dir))
	process := startIdle(t, dir)
	o := objectAt(t, p.program)
	symbols := symbolsOf(t, p.original)
	s := New(Options{})
	nameAt(t, s, process, o, symbols["next_client"].Value)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if got := nameAt(t, s, process, o, symbols["do_accept"].Value); got[0].Function != "do_accept" {
		t.Errorf("got %+v", got)
	}
}

// TestReusedPid: the files of another process are not looked at.
func TestReusedPid(t *testing.T) {
	p := separate(t)
	dir := t.TempDir()
	put(t, p.debug, p.byBuildID(dir))
	process := startIdle(t, dir)
	process.Start = 1 // a nanosecond after boot
	sym := symbolsOf(t, p.original)["next_client"]
	if got := nameAt(t, New(Options{}), process, objectAt(t, p.program), sym.Value); got[0].Function != "" {
		t.Errorf("got %+v", got)
	}
}

// TestLibcDebugPackage: the distribution's debug package names what libc does not export.
func TestLibcDebugPackage(t *testing.T) {
	path := libcFile(t)
	f := elfAt(t, path)
	place := debugPaths(f.buildID, "", path)[0]
	if _, err := os.Stat(place); err != nil {
		testenv.Skip(t, "libc6-dbg", err.Error())
	}
	o := objectAt(t, path)
	s := New(Options{})
	for _, name := range []string{"__libc_start_call_main", "start_thread", "accept4", "close"} {
		sym := symbolsOf(t, place)[name]
		if sym.Size == 0 {
			t.Fatalf("%s: no %s", place, name)
		}
		// In the debug file sections have no contents, so addresses convert by the library.
		if got := nameAt(t, s, nil, o, sym.Value+1); got[0].Function != name {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}
