package object

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// mapping returns an executable mapping of this process that comes from a file.
func mapping(t *testing.T) (vma VMA, path string) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var perms, dev string
		var ino uint64
		n, _ := fmt.Sscanf(line, "%x-%x %s %x %s %d %s", &vma.Start, &vma.End, &perms, &vma.Offset, &dev, &ino, &path)
		if n == 7 && strings.Contains(perms, "x") && strings.HasPrefix(path, "/") {
			vma.Key = Key{Ino: inode(t, path), Ctime: 1, Dev: 1}
			return vma, path
		}
	}
	t.Fatal("no mapping of a file in /proc/self/maps")
	return vma, path
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

func TestOneObjectForOneFile(t *testing.T) {
	testenv.RequireRoot(t)
	vma, path := mapping(t)
	r := NewRegistry("/proc")
	pid := uint32(os.Getpid())
	first, err := r.Open(pid, &vma)
	if err != nil {
		t.Fatal(err)
	}
	if first.Path != path || first.ID == 0 {
		t.Errorf("got %+v, want the path %s and a number", first, path)
	}
	again, err := r.OpenProgram(pid, vma.Key, "")
	if err != nil || again != first || r.Get(first.ID) != first {
		t.Errorf("the same file again is %+v, %v; by number %+v", again, err, r.Get(first.ID))
	}
	other := vma
	other.Key.Ctime++
	changed, err := r.Open(pid, &other)
	if err != nil || changed.ID == first.ID {
		t.Errorf("a changed file is %+v, %v; want another number", changed, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := first.File.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file is still open: %v", err)
	}
}

// Of a process that is gone the program is found where it was started from, if it is still there.
func TestProgramOfTheDead(t *testing.T) {
	testenv.RequireRoot(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	pid := uint32(dead.Process.Pid)
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("ELF"), 0o700); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	key := Key{Ino: st.Ino, Ctime: uint64(st.Ctim.Nano()), Dev: 1}
	r := NewRegistry("/proc")
	defer r.Close()
	for name, look := range map[string]struct {
		key  Key
		path string
	}{
		"no path":       {key, ""},
		"relative path": {key, "program"},
		"nothing there": {key, path + "2"},
		"another file":  {Key{Ino: key.Ino + 1, Ctime: key.Ctime}, path},
		"changed since": {Key{Ino: key.Ino, Ctime: key.Ctime - 1}, path},
		"a directory":   {key, filepath.Dir(path)},
	} {
		if o, err := r.OpenProgram(pid, look.key, look.path); o != nil || err == nil {
			t.Errorf("%s: %+v, %v", name, o, err)
		}
	}
	o, err := r.OpenProgram(pid, key, path)
	if err != nil || o.Path != path {
		t.Fatalf("%+v, %v", o, err)
	}
	if again, err := r.Open(pid, &VMA{Key: key}); again != o || err != nil {
		t.Errorf("its mappings are of %+v, %v", again, err)
	}
}

// A pid may be another process's by the time somebody looks: its files are not those asked
// for.
func TestFileOfAnotherProcess(t *testing.T) {
	testenv.RequireRoot(t)
	vma, _ := mapping(t)
	vma.Key.Ino++
	r := NewRegistry("/proc")
	defer r.Close()
	for range 2 {
		if o, err := r.Open(uint32(os.Getpid()), &vma); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %+v, %v; want ErrNotExist", o, err)
		}
	}
}

func TestProcessThatIsGone(t *testing.T) {
	r := NewRegistry(filepath.Join(t.TempDir(), "proc"))
	defer r.Close()
	vma := VMA{Start: 1, End: 2, Key: Key{Ino: 3}}
	if o, err := r.Open(23, &vma); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %+v, %v; want ErrNotExist", o, err)
	}
	if o := r.Get(1); o != nil {
		t.Errorf("object 1 is %+v", o)
	}
}

func TestMemory(t *testing.T) {
	m := OpenMemory(uint32(os.Getpid()))
	vma, _ := mapping(t)
	buf := make([]byte, 4)
	if n, err := m.ReadAt(buf, vma.Start-vma.Offset); err != nil || n != 4 || string(buf) != "\x7fELF" {
		// Not every program is mapped from its first byte.
		if n, err := m.ReadAt(buf, vma.Start); err != nil || n != 4 {
			t.Errorf("read %d bytes, %v", n, err)
		}
	}
	if n, err := m.ReadAt(buf, 8); err == nil {
		t.Errorf("read %d bytes at address 8", n)
	}
}
