package python

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// told is what testdata/chain.py says of one of its threads.
type told struct {
	Name   string
	Thread uint64 // pthread_self(), the base of %fs
	Frames []struct {
		Function, File string
		Line           int
	}
}

func (w *told) frames() []symbol.Frame {
	var all []symbol.Frame
	for _, f := range w.Frames {
		all = append(all, symbol.Frame{
			Function: f.Function, File: f.File, Line: f.Line, Kind: symbol.Python,
		})
	}
	return all
}

// thread returns the state of a thread, found as the kernel side finds it.
func thread(tb testing.TB, r *Runtime, self uint64) uint64 {
	tb.Helper()
	threads, err := r.threads()
	if err != nil {
		tb.Fatal(err)
	}
	for _, at := range threads {
		id, err := r.memory.uint64(at + uint64(r.Layout().ThreadID))
		if err != nil {
			tb.Fatal(err)
		}
		if id == self {
			return at
		}
	}
	tb.Fatalf("no thread %#x among %d", self, len(threads))
	return 0
}

// TestFrames compares the frames of two blocked threads with what CPython says itself.
func TestFrames(t *testing.T) {
	each(t, func(t *testing.T, version, interpreter string) {
		t.Helper()
		s := start(t, interpreter, "testdata/chain.py")
		var both [2]told
		s.line(t, &both[0])
		s.line(t, &both[1])
		// Both have said where they will block; wait until they do.
		r, err := Detect(s.process(t))
		if err != nil || r == nil {
			t.Fatalf("Detect: %v, %v", r, err)
		}
		for i := range both {
			t.Run(both[i].Name, func(t *testing.T) {
				checkThread(t, r, version, &both[i])
			})
		}
	})
}

func checkThread(t *testing.T, r *Runtime, version string, want *told) {
	t.Helper()
	var frames []event.Frame
	var named []symbol.Frame
	// The thread goes on for a moment after it said where it is.
	for range 100 {
		frames = walked(t, r, want.Thread)
		named = names(r, frames)
		if len(named) > 0 && cmp.Equal(functions(named), want.frames()) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if diff := cmp.Diff(want.frames(), functions(named)); diff != "" {
		t.Fatalf("frames (-CPython +read):\n%s", diff)
	}
	checkRuns(t, frames, named)
	// A new object's __init__ is called by a frame that is none (3.12: not always).
	hidden := 0
	for i := range named {
		if named[i].Function == "" && !frames[i].Return {
			hidden++
		}
	}
	if version >= "3.13" && hidden == 0 || version == "3.11" && hidden > 0 {
		t.Errorf("%d hidden frames inside of runs", hidden)
	}
}

func walked(tb testing.TB, r *Runtime, self uint64) []event.Frame {
	tb.Helper()
	frames, err := r.frames(thread(tb, r, self))
	if err != nil {
		tb.Fatal(err)
	}
	return frames
}

func names(r *Runtime, frames []event.Frame) []symbol.Frame {
	named := make([]symbol.Frame, len(frames))
	for i := range frames {
		f, ok := r.Name(&frames[i])
		if !ok {
			f.Function = fmt.Sprintf("no name for %#x", frames[i].Addr)
		}
		named[i] = f
	}
	return named
}

// functions leaves out the frames that are none.
func functions(all []symbol.Frame) []symbol.Frame {
	var some []symbol.Frame
	for _, f := range all {
		if f.Function != "" {
			some = append(some, f)
		}
	}
	return some
}

// checkRuns compares where runs of frames end with what the functions' names promise.
func checkRuns(t *testing.T, frames []event.Frame, named []symbol.Frame) {
	t.Helper()
	checked := 0
	for i, f := range named {
		ends := frames[i].Return
		if !ends && i+1 < len(frames) && named[i+1].Function == "" {
			ends = frames[i+1].Return
		}
		fromC := strings.HasSuffix(f.Function, "_from_c") || i == len(named)-1
		if fromC || strings.HasSuffix(f.Function, "_inline") {
			checked++
			if ends != fromC {
				t.Errorf("%s (%d): the run ends there: %v", f.Function, i, ends)
			}
		}
	}
	const inNames = 6
	if checked < inNames {
		t.Errorf("%d functions checked", checked)
	}
}

// TestDetectUnsupported: programs that look like a CPython are refused, and told why.
func TestDetectUnsupported(t *testing.T) {
	const (
		runtime = "char _PyRuntime[4096];"
		types   = "char PyCode_Type, PyUnicode_Type, PyBytes_Type, _Py_NoneStruct;"
		version = "const unsigned int Py_Version = "
	)
	for name, test := range map[string]struct{ source, want string }{
		"no version": {runtime, "CPython older than 3.11: not supported"},
		"3.15":       {runtime + version + "0x030f00f0;", "CPython 3.15.0: not supported"},
		"not itself": {runtime + version + "0x030e00f0;", "CPython 3.14.0: no debug offsets"},
		"no types":   {runtime + version + "0x030b02f0;", "CPython 3.11.2: no symbol"},
		"starting":   {runtime + version + "0x030c01f0;" + types, "CPython 3.12.1: CPython is not running yet"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, compiled(t, test.source))
			if _, err := s.lines.ReadByte(); err != nil {
				t.Fatal(err)
			}
			r, err := Detect(s.process(t))
			if r != nil || err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("Detect: %v, %v, want %s", r, err, test.want)
			}
			if errors.Is(err, ErrStarting) != (name == "starting") {
				t.Errorf("%v: may be asked again: %v", err, errors.Is(err, ErrStarting))
			}
		})
	}
}

// compiled returns a program that says it runs and waits, with more C of the caller's.
func compiled(t *testing.T, source string) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		testenv.Skip(t, "gcc", err.Error())
	}
	program := filepath.Join(t.TempDir(), "program")
	source += "\n#include <unistd.h>\nint main() { write(1, \"!\", 1); return read(0, _PyRuntime, 1); }"
	cmd := exec.CommandContext(t.Context(), "gcc", "-rdynamic", "-o", program, "-x", "c", "-")
	cmd.Stdin = strings.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return program
}

func TestDetectNone(t *testing.T) {
	s := start(t, "/bin/sleep", "1000")
	if r, err := Detect(s.process(t)); r != nil || err != nil {
		t.Errorf("Detect of sleep: %v, %v", r, err)
	}
}

// TestDetectBusy: a program that calls and returns all the time is known all the same.
func TestDetectBusy(t *testing.T) {
	const busy = `
import os
def f(n):
    return n and f(n - 1)
os.write(1, b'"ready"\n')
while True:
    f(5)
`
	each(t, func(t *testing.T, _, interpreter string) {
		t.Helper()
		s := start(t, interpreter, "-c", busy)
		var ready string
		s.line(t, &ready)
		p := s.process(t)
		for range 20 {
			if r, err := Detect(p); r == nil || err != nil {
				t.Fatalf("Detect: %v, %v", r, err)
			}
		}
	})
}

func TestTrampoline(t *testing.T) {
	each(t, func(t *testing.T, version, interpreter string) {
		t.Helper()
		if version == "3.11" {
			return // it came with 3.12
		}
		for _, active := range []bool{false, true} {
			args := []string{"-c", `print('"ready"', flush=True); input()`}
			if active {
				args = append([]string{"-X", "perf"}, args...)
			}
			var s *script
			// Registered first, to run when the program has ended.
			t.Cleanup(func() {
				if s != nil {
					_ = os.Remove(fmt.Sprintf("/tmp/perf-%d.map", s.pid))
				}
			})
			s = start(t, interpreter, args...)
			var ready string
			s.line(t, &ready)
			r, err := Detect(s.process(t))
			if err != nil || r == nil {
				t.Fatalf("Detect: %v, %v", r, err)
			}
			// That of 3.14 keeps frame pointers.
			if want := active && version != "3.14"; r.Trampoline() != want {
				t.Errorf("Trampoline with -X perf=%v: %v", active, r.Trampoline())
			}
		}
	})
}

// BenchmarkName names the frames of a blocked thread, over and over.
func BenchmarkName(b *testing.B) {
	found := installed("3.11")
	if len(found) == 0 {
		b.Skip("no python3.11")
	}
	s := start(b, found[0], "testdata/chain.py")
	var said told
	s.line(b, &said)
	r, err := Detect(s.process(b))
	if err != nil {
		b.Fatal(err)
	}
	frames := walked(b, r, said.Thread)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, ok := r.Name(&frames[i%len(frames)]); !ok {
			b.Fatal("no name")
		}
	}
}

func BenchmarkDetect(b *testing.B) {
	found := installed("3.11")
	if len(found) == 0 {
		b.Skip("no python3.11")
	}
	s := start(b, found[0], "testdata/chain.py")
	var said told
	s.line(b, &said)
	p := s.process(b)
	b.ReportAllocs()
	for b.Loop() {
		if r, err := Detect(p); r == nil {
			b.Fatal(err)
		}
	}
}
