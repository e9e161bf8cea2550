package unwind

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
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

// TestUnwindJava: HotSpot's code has no frame pointers to rely on, so its stacks are never
// complete here.
func TestUnwindJava(t *testing.T) {
	java := requireTool(t, "java")
	file := filepath.Join(t.TempDir(), "Chain.java")
	const source = `class Chain {
	static int inner() throws Exception { return System.in.read(); }
	public static void main(String[] a) throws Exception { inner(); }
}`
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	th := start(t, sysRead, "0x0 ", java, "-Xint", file)
	r, names := unwindNow(t, th, false, nil)
	t.Logf("%v %v: %s", r.Quality, r.Reason, strings.Join(names, " < "))
	if r.Quality == event.QualityComplete {
		t.Error("complete")
	}
	if len(r.Frames) < 3 || !slices.ContainsFunc(r.Frames, func(f event.Frame) bool { return f.Kind == event.FrameAnon }) {
		t.Errorf("%d frames, none of Java: %v", len(r.Frames), names)
	}
}
