package symbol

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

func TestPerfMapLines(t *testing.T) {
	var m perfMap
	m.add([]byte("7f0010 20 first\n" +
		"0x7f0030 0x10 second with blanks\n" +
		"no hex\n\n 7f0040 10 blank first\n7f0050 10 \n7f0060 0 empty\n" +
		"7f0070 1ffffffff too large\n123456789012345678901234567890 1 too long\n" +
		"7f0018 4 inside first, later\n" +
		"7f0030 8 second replaced\n" +
		"7f0080 10 incomplete"))
	for addr, want := range map[uint64]string{
		0x7f000f: "", 0x7f0010: "first", 0x7f0017: "first", 0x7f0018: "inside first, later",
		0x7f001c: "first", 0x7f002f: "first", 0x7f0030: "second replaced", 0x7f0038: "",
		0x7f0040: "", 0x7f0050: "", 0x7f0060: "", 0x7f0070: "", 0x7f0080: "",
	} {
		if got := m.find(addr); got != want {
			t.Errorf("%#x: got %q, want %q", addr, got, want)
		}
	}
	m.add([]byte("7f0080 10 complete\n7f0000 100 over all\n"))
	for addr, want := range map[uint64]string{0x7f0080: "over all", 0x7f0018: "over all", 0x7f0110: ""} {
		if got := m.find(addr); got != want {
			t.Errorf("%#x: got %q, want %q", addr, got, want)
		}
	}
}

func TestPerfFrame(t *testing.T) {
	for name, want := range map[string]Frame{
		"Lcom/example/Main;::run":     {Function: "Lcom/example/Main;::run", Kind: JIT},
		"py::serve:/srv/app.py":       {Function: "py::serve", File: "/srv/app.py", Kind: Python},
		"py::<module>":                {Function: "py::<module>", Kind: Python},
		"JS:*onEnd /srv/app.js:12:34": {Function: "onEnd", File: "/srv/app.js", Line: 12, Kind: JS},
		"JS:~endCb node:net:1:2":      {Function: "endCb", File: "node:net", Line: 1, Kind: JS},
		"JS:^odd":                     {Function: "odd", Kind: JS},
		"JS:* /srv/anonymous.js:1:1":  {Function: "", File: "/srv/anonymous.js", Line: 1, Kind: JS},
	} {
		want.Offset = 7
		if got := perfFrame(name, 7); got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

// perfMapPath is the perf map of a process that sees dir as its root, "" for ours.
func perfMapPath(p *object.Process, dir string) string {
	return filepath.Join(dir, "/tmp", fmt.Sprintf("perf-%d.map", p.Pid))
}

func appendTo(tb testing.TB, path, text string) {
	tb.Helper()
	makeDir(tb, path)
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := file.WriteString(text); err != nil {
		tb.Fatal(err)
	}
	if err := file.Close(); err != nil {
		tb.Fatal(err)
	}
}

func generatedAt(s *Symbolizer, p *object.Process, addr uint64, isReturn bool) Frame {
	return s.Frames(p, nil, nil, []event.Frame{{Kind: event.FrameAnon, Addr: addr, Return: isReturn}})[0]
}

// TestPerfMapGrows: code that was made after the first look has names, too.
func TestPerfMapGrows(t *testing.T) {
	dir := t.TempDir()
	p := startIdle(t, dir)
	path := perfMapPath(p, dir)
	s := New(Options{})
	want := func(addr uint64, name string) {
		t.Helper()
		if got := generatedAt(s, p, addr, false); got != (Frame{Function: name, Offset: addr, Kind: JIT}) {
			t.Errorf("%#x: got %+v, want %q", addr, got, name)
		}
	}
	want(0x1000, "")
	appendTo(t, path, "1000 10 one\n2000 10 tw")
	want(0x1000, "one")
	want(0x2000, "")
	appendTo(t, path, "o\n1000 10 three\n")
	want(0x1000, "three")
	want(0x2000, "two")
	if got := generatedAt(s, p, 0x2010, true); got.Function != "two" || got.Offset != 0x200f {
		t.Errorf("return address: got %+v", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	want(0x2000, "two") // what was known of a process stays
	appendTo(t, path, "3000 10 anew\n")
	want(0x3000, "anew")
	want(0x2000, "")
}

// TestPerfMapOfPidNamespace: a runtime writes the pid that it sees.
func TestPerfMapOfPidNamespace(t *testing.T) {
	testenv.RequireRoot(t)
	dir := t.TempDir()
	p := startIdleWith(t, dir, &syscall.SysProcAttr{Chroot: dir, Cloneflags: syscall.CLONE_NEWPID})
	appendTo(t, filepath.Join(dir, "tmp/perf-1.map"), "1000 10 inside\n")
	appendTo(t, perfMapPath(p, dir), "1000 10 outside\n")
	if got := generatedAt(New(Options{}), p, 0x1000, false); got.Function != "inside" {
		t.Errorf("got %+v", got)
	}
}

// TestHostilePerfMap: /tmp is everybody's.
func TestHostilePerfMap(t *testing.T) {
	testenv.RequireRoot(t)
	const stranger = 12345
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("1000 10 hostile\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		make func(path string) error
		want error
	}{
		"of a stranger": {func(path string) error {
			return errors.Join(os.WriteFile(path, []byte("1000 10 hostile\n"), 0o644), os.Chown(path, stranger, stranger))
		}, errOwner},
		"link":      {func(path string) error { return os.Symlink(other, path) }, errNotRegular},
		"pipe":      {func(path string) error { return syscall.Mkfifo(path, 0o644) }, errNotRegular},
		"directory": {func(path string) error { return os.Mkdir(path, 0o755) }, errNotRegular},
		"device": {func(path string) error {
			return unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) // /dev/zero
		}, errNotRegular},
		"none": {func(string) error { return nil }, fs.ErrNotExist},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := startIdle(t, dir)
			path := perfMapPath(p, dir)
			makeDir(t, path)
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			if err := new(perfMap).refresh("/proc", p); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if got := generatedAt(New(Options{}), p, 0x1000, false); got != (Frame{Offset: 0x1000, Kind: JIT}) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// TestPerfMapBounds: names and lines without end.
func TestPerfMapBounds(t *testing.T) {
	var m perfMap
	m.add([]byte("1000 10 " + strings.Repeat("x", 1<<20) + "\n2000 10 next\n"))
	if got := m.find(0x1000); len(got) > maxMangled {
		t.Errorf("a name of %d bytes", len(got))
	}
	if got := m.find(0x2000); got != "next" {
		t.Errorf("got %q", got)
	}
	var many strings.Builder
	for i := range maxPerfEntries + 10 {
		fmt.Fprintf(&many, "%x 1 f\n", i+1)
	}
	m = perfMap{}
	m.add([]byte(many.String()))
	if len(m.entries) != maxPerfEntries || m.find(maxPerfEntries) != "f" || m.find(maxPerfEntries+1) != "" {
		t.Errorf("%d entries", len(m.entries))
	}
}
