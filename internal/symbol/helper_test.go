package symbol

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// requireTool skips the test where a program it needs is absent.
func requireTool(tb testing.TB, name string) string {
	tb.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		testenv.Skip(tb, name, "not in PATH; install it")
	}
	return p
}

// run runs a program that must succeed.
func run(tb testing.TB, name string, args ...string) {
	tb.Helper()
	if out, err := exec.Command(requireTool(tb, name), args...).CombinedOutput(); err != nil {
		tb.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// compileC compiles testdata/NAME.
func compileC(tb testing.TB, source string, flags ...string) string {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), "program")
	args := append([]string{"-O2", "-fomit-frame-pointer", "-Wl,--build-id=sha1", "-o", out, filepath.Join("testdata", source)}, flags...)
	compiler := "gcc"
	if filepath.Ext(source) == ".cc" {
		compiler = "g++"
	}
	run(tb, compiler, args...)
	return out
}

// objectAt opens a file as the registry of objects does.
func objectAt(tb testing.TB, path string) *object.Object {
	tb.Helper()
	file, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = file.Close() })
	info, err := file.Stat()
	if err != nil {
		tb.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	return &object.Object{
		ID: 1, Path: path, File: file,
		Key: object.Key{Ino: st.Ino, Ctime: uint64(st.Ctim.Nano()), Dev: uint32(st.Dev)},
	}
}

// symbolsOf reads the symbols of a file by debug/elf: by name.
func symbolsOf(tb testing.TB, path string) map[string]elf.Symbol {
	tb.Helper()
	f, err := elf.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	all, _ := f.Symbols()
	exported, _ := f.DynamicSymbols()
	found := map[string]elf.Symbol{}
	for _, s := range append(exported, all...) {
		if elf.ST_TYPE(s.Info) == elf.STT_FUNC && s.Section != elf.SHN_UNDEF {
			found[s.Name] = s
		}
	}
	return found
}

// fileOffset converts an address by debug/elf.
func fileOffset(tb testing.TB, path string, addr uint64) uint64 {
	tb.Helper()
	f, err := elf.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && addr >= p.Vaddr && addr < p.Vaddr+p.Filesz {
			return addr - p.Vaddr + p.Off
		}
	}
	tb.Fatalf("%s: no file offset for %#x", path, addr)
	return 0
}

// nameAt names one address of a file, in the process p.
func nameAt(tb testing.TB, s *Symbolizer, p *object.Process, o *object.Object, addr uint64) []Frame {
	tb.Helper()
	off := fileOffset(tb, o.File.Name(), addr)
	return s.Frames(p, only(o), nil, []event.Frame{{Kind: event.FrameFile, Object: o.ID, Addr: off}})
}

// only knows one object.
func only(o *object.Object) func(event.ObjectID) *object.Object {
	return func(id event.ObjectID) *object.Object {
		if id == o.ID {
			return o
		}
		return nil
	}
}
