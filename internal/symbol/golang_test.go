package symbol

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// buildGo builds a program in testdata.
func buildGo(tb testing.TB, program string, cgo bool, flags ...string) string {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), program)
	tb.Setenv("CGO_ENABLED", "0")
	if cgo {
		requireTool(tb, "gcc")
		tb.Setenv("CGO_ENABLED", "1")
	}
	run(tb, "go", append(append([]string{"build", "-o", out}, flags...), "./testdata/"+program)...)
	return out
}

func openGoFile(tb testing.TB, path string) *goTable {
	tb.Helper()
	g, err := openGo(elfAt(tb, path))
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

// TestGoAgainstRuntime compares the table of this very program with what the runtime makes
// of it, at several addresses of every function.
func TestGoAgainstRuntime(t *testing.T) {
	g := openGoFile(t, "/proc/self/exe")
	inlined, bad := 0, 0
	for i := range g.funcs {
		start, end := g.entry(i), g.entry(i+1)
		for addr := start; addr < end && bad < 10; addr += 1 + (end-start)/3 {
			got, ok := g.frames(addr)
			if !ok {
				t.Fatalf("%#x: nothing", addr)
			}
			if got[0].Kind == Native {
				continue // the runtime does not know C
			}
			want, _ := runtime.CallersFrames([]uintptr{uintptr(addr + 1)}).Next()
			if want.File == "?" {
				want.File = ""
			}
			if got[0].Function != want.Function || got[0].File != want.File || got[0].Line != want.Line {
				t.Errorf("%#x: got %+v, want %s %s:%d", addr, got, want.Function, want.File, want.Line)
				bad++
			}
			if len(got) > 1 {
				inlined++
			}
		}
	}
	if inlined == 0 {
		t.Error("no inlined call was seen")
	}
}

//go:noinline
func callers() []uintptr {
	pcs := make([]uintptr, 16)
	return pcs[:runtime.Callers(1, pcs)]
}

func inlinedInner() []uintptr { return callers() }

func inlinedOuter() []uintptr { return inlinedInner() }

// TestGoInlined: a call of a function in which calls are inlined gives a frame for each of
// these, each with the line of its own call.
func TestGoInlined(t *testing.T) {
	pcs := inlinedOuter()
	// The runtime names each inlined frame by an address of its own; that of the innermost
	// one, behind callers, is the real return address.
	got, ok := openGoFile(t, "/proc/self/exe").frames(uint64(pcs[1]) - 1)
	if !ok || len(got) != 3 {
		t.Fatalf("got %+v, want 3 frames; is the test built without inlining?", got)
	}
	frames := runtime.CallersFrames(pcs)
	frames.Next() // callers
	for i := range got {
		want, _ := frames.Next()
		if got[i].Function != want.Function || got[i].File != want.File || got[i].Line != want.Line {
			t.Errorf("frame %d: got %+v, want %s %s:%d", i, got[i], want.Function, want.File, want.Line)
		}
	}
}

// TestGoBuilds: however a program was built and stripped, its functions have the names that
// the linker's symbols gave them, and lines.
func TestGoBuilds(t *testing.T) {
	cases := map[string]struct {
		program string
		cgo     bool
		flags   []string
	}{
		"normal":     {program: "goserver"},
		"pie":        {program: "goserver", flags: []string{"-buildmode=pie"}},
		"net in C":   {program: "goserver", cgo: true},
		"cgo":        {program: "gocgo", cgo: true},
		"cgo pie":    {program: "gocgo", cgo: true, flags: []string{"-buildmode=pie"}},
		"cgo static": {program: "gocgo", cgo: true, flags: []string{"-ldflags=-linkmode=external -extldflags=-static"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			path := buildGo(t, c.program, c.cgo, c.flags...)
			stripped := strip(t, path)
			wantGoNames(t, path, path)
			wantGoNames(t, stripped, path)
		})
	}
}

// TestGoLinkerStripped: -s -w, as programs are released.
func TestGoLinkerStripped(t *testing.T) {
	path := buildGo(t, "goserver", false, "-ldflags=-s -w")
	o := objectAt(t, path)
	g := openGoFile(t, path)
	found := map[string]bool{}
	s := New(Options{})
	for i := range g.funcs {
		frames := nameAt(t, s, nil, o, g.entry(i))
		outer := frames[len(frames)-1]
		found[outer.Function] = true
		if outer.Function == "main.acceptLoop" && (filepath.Base(outer.File) != "main.go" || outer.Line == 0 || outer.Kind != Go || outer.Module != path) {
			t.Errorf("got %+v", outer)
		}
	}
	for _, name := range []string{"main.main", "main.acceptLoop", "net.(*netFD).accept", "internal/poll.(*FD).Accept", "runtime.goexit", "syscall.Syscall6"} {
		if !found[name] {
			t.Errorf("no %s", name)
		}
	}
}

func wantGoNames(t *testing.T, path, original string) {
	t.Helper()
	g := openGoFile(t, path)
	end := g.entry(g.funcs)
	compared := 0
	for name, sym := range symbolsOf(t, original) {
		// The C code of a cgo program is not Go's to name; two symbols are no functions.
		if sym.Value < g.text || sym.Value >= end || sym.Size == 0 || name == "runtime.text" || name == "runtime.etext" {
			continue
		}
		frames, ok := g.frames(sym.Value)
		if !ok {
			t.Errorf("%s: nothing", name)
			continue
		}
		outer := frames[len(frames)-1]
		if want := goName(strings.TrimSuffix(name, ".abi0")); strings.ReplaceAll(outer.Function, "·", ".") != want && outer.Kind == Go {
			t.Errorf("%s: got %+v", name, outer)
		}
		if outer.Function == "main.main" && (filepath.Base(outer.File) != "main.go" || outer.Line == 0) {
			t.Errorf("got %+v", outer)
		}
		compared++
	}
	if compared < 500 {
		t.Errorf("only %d functions compared", compared)
	}
}

// TestGoWithC: the C functions in a Go program are named by its symbols.
func TestGoWithC(t *testing.T) {
	path := buildGo(t, "gocgo", true)
	o := objectAt(t, path)
	symbols := symbolsOf(t, path)
	s := New(Options{})
	for name, kind := range map[string]Kind{"c_inner": Native, "c_outer": Native, "main.callC": Go, "runtime.asmcgocall.abi0": Go} {
		got := nameAt(t, s, nil, o, symbols[name].Value+1)
		if outer := got[len(got)-1]; outer.Function != strings.TrimSuffix(name, ".abi0") || outer.Kind != kind {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

// TestGoSignal: Go brings its own signal trampoline.
func TestGoSignal(t *testing.T) {
	path := buildGo(t, "goserver", false)
	for name, sym := range symbolsOf(t, path) {
		if !strings.HasPrefix(name, "runtime.sigreturn__sigaction") {
			continue
		}
		if got := nameAt(t, New(Options{}), nil, objectAt(t, path), sym.Value); len(got) != 1 || got[0].Kind != Signal {
			t.Errorf("got %+v", got)
		}
		return
	}
	t.Error("no trampoline")
}

// TestNoGo: what is not Go's is left to the symbol tables.
func TestNoGo(t *testing.T) {
	if _, err := openGo(elfAt(t, compileC(t, "server.c"))); !errors.Is(err, errNotGo) {
		t.Errorf("got %v, want %v", err, errNotGo)
	}
}

// TestGoWithoutInlineTree: where inlined calls cannot be undone names must stay true: the
// outer function without the line of an inlined one.
func TestGoWithoutInlineTree(t *testing.T) {
	g := openGoFile(t, "/proc/self/exe")
	pc := uint64(inlinedOuter()[1]) - 1
	for _, wrong := range []uint64{0, 1, g.gofunc + 4, g.text} {
		broken := *g
		broken.gofunc = wrong
		got, ok := broken.frames(pc)
		if !ok || len(got) != 1 || !strings.HasSuffix(got[0].Function, ".TestGoWithoutInlineTree") || got[0].File != "" {
			t.Errorf("%#x: got %+v", wrong, got)
		}
	}
}

// TestGoModuleLayouts: with a word more or less before gofunc it is not found, rather than
// another word taken for it.
func TestGoModuleLayouts(t *testing.T) {
	g := openGoFile(t, "/proc/self/exe")
	start, _ := g.f.vaddr(g.f.section(".gopclntab").off)
	at, ok := g.findModule(start)
	if !ok {
		t.Fatal("no module data")
	}
	words, ok := g.moduleWords(at)
	if !ok || g.gofunc == 0 || words.gofunc(true) != g.gofunc {
		t.Fatalf("got %#x, want %#x", words.gofunc(true), g.gofunc)
	}
	if got := words.gofunc(false); got != 0 {
		t.Errorf("as of an older Go: got %#x", got)
	}
	for shift := 1; shift <= 3; shift++ {
		var more, less goModule
		copy(more[shift:], words[:])
		copy(less[:], words[shift:])
		if a, b := more.gofunc(true), less.gofunc(true); a != 0 || b != 0 {
			t.Errorf("%d words more or less: got %#x, %#x", shift, a, b)
		}
	}
}

func TestGoFunctionBounds(t *testing.T) {
	path := buildGo(t, "goserver", false)
	sym := symbolsOf(t, path)["main.acceptLoop"]
	first := fileOffset(t, path, sym.Value)
	start, end, ok := New(Options{}).Function(objectAt(t, path), first+1)
	if !ok || start != first || end < first+sym.Size || end > first+sym.Size+64 {
		t.Errorf("got %#x-%#x %v, want %#x-%#x", start, end, ok, first, first+sym.Size)
	}
}

// TestGoAfterExit: objects stay open, so names need no process.
func TestGoAfterExit(t *testing.T) {
	path := buildGo(t, "goserver", false, "-ldflags=-s -w")
	o := objectAt(t, path)
	g := openGoFile(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	addr := g.entry(g.funcs / 2)
	off, ok := g.f.offset(addr)
	if !ok {
		t.Fatal("no offset")
	}
	f := event.Frame{Kind: event.FrameFile, Object: o.ID, Addr: off}
	if got := New(Options{}).Frames(nil, only(o), nil, []event.Frame{f}); got[0].Function == "" || got[0].Kind != Go {
		t.Errorf("got %+v", got)
	}
}
