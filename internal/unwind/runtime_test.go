//go:build amd64

package unwind

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol/hotspot"
)

func TestUnwindGo(t *testing.T) {
	for _, flags := range [][]string{nil, {"-buildmode=pie"}} {
		th := start(t, sysRead, "0x0 ", buildGo(t, flags...))
		r, names := unwindNow(t, th, false, nil)
		want := []string{"main.doRead", "main.nextClient", "main.serveForever", "main.main.func1", "runtime.goexit"}
		for i, n := range names {
			names[i] = strings.TrimSuffix(n, ".abi0") // the symbol table tells assembly functions apart
		}
		if r.Quality != event.QualityComplete || !hasInOrder(names, want) {
			t.Errorf("%v %v: %v, want %v in it", r.Quality, r.Reason, names, want)
		}
		pcs := gdbPCs(t, th)
		if n := len(pcs); pcs[n-1] == 0 {
			pcs = pcs[:n-1] // gdb has no stop at runtime.goexit and finds a zero above it
		}
		comparePCs(t, "go", r.PCs, pcs)
	}
}

func TestUnwindPython(t *testing.T) {
	th := start(t, sysRead, "0x0 ", requireFile(t, python...), "-c", "import os\ndef f(): os.read(0, 1)\nf()")
	r, names := unwindNow(t, th, false, nil)
	if r.Quality != event.QualityComplete {
		t.Errorf("%v %v: %v", r.Quality, r.Reason, names)
	}
	comparePCs(t, "python", r.PCs, gdbPCs(t, th))
}

// TestUnwindNode: V8's built-ins have no rules and keep frame pointers. Without knowing
// that it is V8 the stack is a guess at best.
func TestUnwindNode(t *testing.T) {
	program := requireFile(t, node[:2]...)
	th := start(t, sysRead, "0x0 ", program, "-e", "require('fs').readSync(0, Buffer.alloc(1))")
	r, names := unwindNow(t, th, false, func(s *Snapshot) { s.Runtime.V8 = true })
	if r.Quality != event.QualityComplete || len(names) < 20 || names[len(names)-1] != "_start" {
		t.Errorf("V8: %v %v: %v", r.Quality, r.Reason, names)
	}
	functions := 0
	for _, f := range r.Frames {
		if f.Aux&3 == 1 { // V8's tag of a pointer
			functions++
		}
	}
	if functions < 5 {
		t.Errorf("%d frames with a JSFunction", functions)
	}
	guess, _ := unwindNow(t, th, false, nil)
	if guess.Quality == event.QualityComplete {
		t.Error("frames by pointers nobody vouched for, and called complete")
	}
	t.Logf("without V8: %v %v, %d of %d frames", guess.Quality, guess.Reason, len(guess.Frames), len(r.Frames))
}

// TestUnwindJava: with the layout of HotSpot's code its frames are found, without it there
// are frame pointers to guess by. Neither is complete: code is looked up after the fact.
func TestUnwindJava(t *testing.T) {
	for _, mode := range []string{"-Xint", "-Xcomp"} {
		t.Run(mode, func(t *testing.T) { testUnwindJava(t, mode) })
	}
}

func testUnwindJava(t *testing.T, mode string) {
	t.Helper()
	dir := t.TempDir()
	const source = `class Chain {
	static int inner() throws Exception { return System.in.read(); }
	static int outer() throws Exception { return inner() + 1; }
	public static void main(String[] a) throws Exception { outer(); }
}`
	if err := os.WriteFile(filepath.Join(dir, "Chain.java"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	runTool(t, requireTool(t, "javac"), "-d", dir, filepath.Join(dir, "Chain.java"))
	args := []string{mode, "-cp", dir, "Chain"}
	if mode == "-Xcomp" {
		// Only what stands on the stack, and each method for itself.
		args = append([]string{"-XX:CompileCommand=quiet", "-XX:CompileCommand=compileonly,Chain::*", "-XX:-Inline"}, args...)
	}
	th := start(t, sysRead, "0x0 ", requireTool(t, "java"), args...)
	java, err := hotspot.Detect(process(t, th.pid))
	if err != nil || java == nil {
		t.Fatalf("HotSpot: %v, %v", java, err)
	}
	r, names := unwindNow(t, th, false, func(s *Snapshot) { s.Runtime.HotSpot = java.Layout() })
	if r.Quality != event.QualityGuessed || r.Reason != event.ReasonNone {
		t.Errorf("%v %v: %v", r.Quality, r.Reason, names)
	}
	kind := event.FrameInterpreted
	if mode == "-Xcomp" {
		kind = event.FrameCompiled
	}
	for i, f := range r.Frames {
		if n, ok := java.Name(&f); ok {
			names[i] = n.Function
			if strings.HasPrefix(n.Function, "Chain.") && f.Kind != kind {
				t.Errorf("%s is of kind %d, want %d", n.Function, f.Kind, kind)
			}
		}
	}
	if want := []string{"Chain.inner", "Chain.outer", "Chain.main"}; !hasInOrder(names, want) {
		t.Errorf("%v, want %v in it", names, want)
	}
	if !slices.Contains(names, "JavaMain") {
		t.Errorf("%v, want JavaMain below", names)
	}
	if blind, names := unwindNow(t, th, false, nil); blind.Quality == event.QualityComplete {
		t.Errorf("without layout: complete: %v", names)
	}
}
