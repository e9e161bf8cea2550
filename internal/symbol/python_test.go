package symbol

import (
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

func TestMergePython(t *testing.T) {
	const eval = evalFrame
	cases := map[string]struct {
		native string
		runs   []string
		want   string
	}{
		"one run":                {"recv sock_recv " + eval + " main _start", []string{"read serve module"}, "recv sock_recv read serve module main _start"},
		"C between":              {"recv " + eval + " map_next " + eval + " main", []string{"inner", "outer module"}, "recv inner map_next outer module main"},
		"no Python":              {"recv " + eval + " main", nil, "recv " + eval + " main"},
		"fewer runs than loops":  {"recv " + eval + " call " + eval + " main", []string{"inner"}, "recv inner call " + eval + " main"},
		"more runs than loops":   {"recv " + eval + " main", []string{"inner", "outer", "module"}, "recv inner outer module main"},
		"truncated before loops": {"recv sock_recv", []string{"inner", "outer"}, "recv sock_recv inner outer"},
		"nothing native":         {"", []string{"inner"}, "inner"},
		"clones":                 {"recv " + eval + ".llvm.12 call " + eval + ".cold main", []string{"inner", "outer"}, "recv inner call outer main"},
		"others of that name":    {eval + "2 my" + eval + " main", []string{"inner"}, eval + "2 my" + eval + " main inner"},
		"run of shims only":      {"recv " + eval + " call " + eval + " main", []string{"", "outer"}, "recv " + eval + " call outer main"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			native := framesOf(Native, c.native)
			var runs [][]Frame
			for _, r := range c.runs {
				runs = append(runs, framesOf(Python, r))
			}
			if got := functions(mergePython(native, runs)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if got := functions(native); got != c.native {
				t.Errorf("changed what it was given: %s", got)
			}
		})
	}
}

func framesOf(kind Kind, names string) (frames []Frame) {
	for _, name := range strings.Fields(names) {
		frames = append(frames, Frame{Function: name, Kind: kind})
	}
	return frames
}

func functions(frames []Frame) string {
	names := make([]string, 0, len(frames))
	for _, f := range frames {
		names = append(names, f.Function)
	}
	return strings.Join(names, " ")
}

// pythonNamer names code objects by number; 0 is CPython's own.
type pythonNamer map[uint64]string

func (n pythonNamer) Name(f *event.Frame) (Frame, bool) {
	name, ok := n[f.Addr]
	return Frame{Function: name, Kind: Python}, ok && f.Kind == event.FramePython
}

// TestPythonRuns: the flag of a frame ends its run, also where the frame is left out.
func TestPythonRuns(t *testing.T) {
	names := pythonNamer{1: "read", 2: "serve", 3: "", 4: "module"}
	python := func(code uint64, last bool) event.Frame {
		return event.Frame{Kind: event.FramePython, Addr: code, Return: last}
	}
	got := New(Options{}).Frames(nil, nil, []Namer{names}, []event.Frame{
		python(1, false), python(2, false), python(3, true), python(4, false), python(9, false), python(3, true),
	})
	want := []Frame{
		{Function: "read", Kind: Python},
		{Function: "serve", Kind: Python},
		{Function: "module", Kind: Python},
		{Kind: Python, Offset: 9}, // nobody knows it, but it is there
	}
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("frame %d: got %+v, want %+v", i, got[i], want[i])
		}
	}
}
