package symbol

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// serverFunctions are what testdata/server.c defines.
var serverFunctions = []string{"do_accept", "next_client", "serve_forever", "main"}

// wantNames checks that functions are named by the file at path, which was made of the one
// at original: from their first byte to their last, and no further.
func wantNames(t *testing.T, path, original string, functions []string) {
	t.Helper()
	o := objectAt(t, path)
	s := New(Options{})
	symbols := symbolsOf(t, original)
	for _, name := range functions {
		sym, ok := symbols[name]
		if !ok || sym.Size == 0 {
			t.Fatalf("%s: no %s", original, name)
		}
		for _, at := range []uint64{0, sym.Size / 2, sym.Size - 1} {
			got := nameAt(t, s, nil, o, sym.Value+at)
			want := Frame{Function: name, Module: path, Offset: sym.Value + at, Kind: Native}
			if len(got) != 1 || got[0] != want {
				t.Errorf("%s+%d: got %+v, want %+v", name, at, got, want)
			}
		}
	}
}

func TestSymtab(t *testing.T) {
	for _, flag := range []string{"-no-pie", "-pie", "-static", "-static-pie"} {
		t.Run(flag, func(t *testing.T) {
			path := compileC(t, "server.c", flag)
			wantNames(t, path, path, serverFunctions)
		})
	}
}

// TestReturnAddress: the call, not what comes behind it, is what a return address means.
func TestReturnAddress(t *testing.T) {
	path := compileC(t, "server.c")
	o := objectAt(t, path)
	sym := symbolsOf(t, path)["next_client"]
	end := sym.Value + sym.Size
	f := event.Frame{Kind: event.FrameFile, Object: o.ID, Addr: fileOffset(t, path, end), Return: true}
	s := New(Options{})
	got := s.Frames(nil, only(o), nil, []event.Frame{f})
	if len(got) != 1 || got[0].Function != "next_client" || got[0].Offset != end-1 {
		t.Errorf("return address at the end: got %+v", got)
	}
	f.Return = false
	if got := s.Frames(nil, only(o), nil, []event.Frame{f}); len(got) != 1 || got[0].Function == "next_client" || got[0].Offset != end {
		t.Errorf("address behind the end: got %+v", got)
	}
}

func TestStrippedHasNoNames(t *testing.T) {
	original := compileC(t, "server.c")
	stripped := strip(t, original)
	o := objectAt(t, stripped)
	s := New(Options{})
	for _, name := range serverFunctions {
		sym := symbolsOf(t, original)[name]
		got := nameAt(t, s, nil, o, sym.Value+1)
		want := Frame{Module: stripped, Offset: sym.Value + 1, Kind: Native}
		if len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

// TestExportedOnly: a stripped program that exports functions names these and no others.
func TestExportedOnly(t *testing.T) {
	original := compileC(t, "server.c", "-rdynamic")
	stripped := strip(t, original)
	wantNames(t, stripped, original, []string{"serve_forever", "main"})
	sym := symbolsOf(t, original)["do_accept"]
	if got := nameAt(t, New(Options{}), nil, objectAt(t, stripped), sym.Value); got[0].Function != "" {
		t.Errorf("do_accept is not exported: got %+v", got)
	}
}

func TestDebugdata(t *testing.T) {
	original := compileC(t, "server.c", "-rdynamic")
	path := withDebugdata(t, original)
	wantNames(t, path, original, serverFunctions)
}

// withDebugdata strips a program and adds MiniDebugInfo, as Fedora's find-debuginfo does.
func withDebugdata(tb testing.TB, original string) string {
	tb.Helper()
	dir := tb.TempDir()
	mini, out := filepath.Join(dir, "mini"), filepath.Join(dir, "program")
	run(tb, "objcopy", "-S", "--remove-section", ".gdb_index", "--remove-section", ".comment",
		"--keep-symbol=do_accept", "--keep-symbol=next_client", original, mini)
	run(tb, "xz", mini)
	run(tb, "objcopy", "-S", "--add-section", ".gnu_debugdata="+mini+".xz", original, out)
	return out
}

func strip(tb testing.TB, path string) string {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), "stripped")
	run(tb, "strip", "-o", out, path)
	return out
}

// TestAliases: the names of the C library that programs are written with.
func TestAliases(t *testing.T) {
	o := objectAt(t, libcFile(t))
	s := New(Options{})
	symbols := symbolsOf(t, o.Path)
	for _, name := range []string{"accept4", "accept", "close", "recv", "read", "write", "send", "connect", "shutdown", "poll"} {
		got := nameAt(t, s, nil, o, symbols[name].Value+1)
		if len(got) != 1 || got[0].Function != name {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

// libcFile is the C library that programs of this machine use.
func libcFile(tb testing.TB) string {
	tb.Helper()
	out, err := exec.Command(requireTool(tb, "gcc"), "-print-file-name=libc.so.6").Output()
	if err != nil {
		tb.Fatal(err)
	}
	path, err := filepath.EvalSymlinks(strings.TrimSpace(string(out)))
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// TestSignalTrampoline: glibc's __restore_rt has neither a size nor, stripped, a name.
func TestSignalTrampoline(t *testing.T) {
	path := libcFile(t)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(raw), "\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05")
	if at < 0 {
		testenv.Skip(t, "trampoline", "this C library's is another one")
	}
	o := objectAt(t, path)
	for _, isReturn := range []bool{false, true} {
		f := event.Frame{Kind: event.FrameFile, Object: o.ID, Addr: uint64(at), Return: isReturn}
		got := New(Options{}).Frames(nil, only(o), nil, []event.Frame{f})
		if len(got) != 1 || got[0].Kind != Signal || got[0].Function != "<signal>" || got[0].Module != path {
			t.Errorf("return %v: got %+v", isReturn, got)
		}
	}
}

func TestFunctionBounds(t *testing.T) {
	path := compileC(t, "server.c")
	o := objectAt(t, path)
	s := New(Options{})
	sym := symbolsOf(t, path)["do_accept"]
	first := fileOffset(t, path, sym.Value)
	start, end, ok := s.Function(o, first+sym.Size/2)
	if !ok || start != first || end != first+sym.Size {
		t.Errorf("got %#x-%#x %v, want %#x-%#x", start, end, ok, first, first+sym.Size)
	}
	if _, _, ok := s.Function(o, 0); ok {
		t.Error("the ELF header is no function")
	}
	if _, _, ok := s.Function(nil, 0); ok {
		t.Error("no object, no function")
	}
}

func TestNotELF(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, []byte(strings.Repeat("not an ELF file ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	o := objectAt(t, path)
	got := New(Options{}).Frames(nil, only(o), nil, []event.Frame{{Kind: event.FrameFile, Object: o.ID, Addr: 0x40}})
	want := Frame{Module: path, Offset: 0x40, Kind: Native}
	if len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
