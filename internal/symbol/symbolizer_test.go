package symbol

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// auxNamer names frames by their Aux.
type auxNamer map[uint64]string

func (n auxNamer) Name(f *event.Frame) (Frame, bool) {
	name, ok := n[f.Aux]
	return Frame{Function: name, Kind: JS}, ok
}

// TestWhoNames: which frames runtimes are asked for, and what is left for the others.
func TestWhoNames(t *testing.T) {
	path := compileC(t, "server.c")
	o := objectAt(t, path)
	sym := symbolsOf(t, path)["main"]
	off := fileOffset(t, path, sym.Value)
	p := &object.Process{Maps: []object.Mapped{
		{VMA: object.VMA{Start: 0x1000, End: 0x2000}},
		{VMA: object.VMA{Start: 0x7f0000, End: 0x7f1000, Offset: off &^ 0xfff}, Object: o},
	}}
	mapped := 0x7f0000 + off&0xfff
	runtimes := []Namer{auxNamer{7: "seven"}, auxNamer{7: "not asked", 8: "eight"}}
	byMain := Frame{Function: "main", Module: path, Offset: sym.Value, Kind: Native}
	for name, c := range map[string]struct {
		frame event.Frame
		want  Frame
	}{
		"built-in of a runtime":  {event.Frame{Kind: event.FrameFile, Object: o.ID, Addr: off, Aux: 8}, Frame{Function: "eight", Kind: JS}},
		"built-in of nobody":     {event.Frame{Kind: event.FrameFile, Object: o.ID, Addr: off, Aux: 9}, byMain},
		"native":                 {event.Frame{Kind: event.FrameFile, Object: o.ID, Addr: off}, byMain},
		"unknown object":         {event.Frame{Kind: event.FrameFile, Object: o.ID + 1, Addr: off}, Frame{Offset: off, Kind: Native}},
		"generated":              {event.Frame{Kind: event.FrameAnon, Addr: 5, Aux: 7}, Frame{Function: "seven", Kind: JS}},
		"generated, unnamed":     {event.Frame{Kind: event.FrameAnon, Addr: 5}, Frame{Offset: 5, Kind: JIT}},
		"interpreted":            {event.Frame{Kind: event.FrameInterpreted, Addr: 5, Aux: 7}, Frame{Function: "seven", Kind: JS}},
		"interpreted, unnamed":   {event.Frame{Kind: event.FrameInterpreted, Addr: 5, Aux: 9}, Frame{Offset: 5, Kind: JIT}},
		"compiled":               {event.Frame{Kind: event.FrameCompiled, Addr: 5, Aux: 8}, Frame{Function: "eight", Kind: JS}},
		"compiled, unnamed":      {event.Frame{Kind: event.FrameCompiled, Addr: 5, Return: true}, Frame{Offset: 4, Kind: JIT}},
		"file without a number":  {event.Frame{Kind: event.FrameUnmapped, Addr: mapped}, byMain},
		"nowhere":                {event.Frame{Kind: event.FrameUnmapped, Addr: 0x5000}, Frame{Offset: 0x5000, Kind: Native}},
		"mapping without a file": {event.Frame{Kind: event.FrameUnmapped, Addr: 0x1800}, Frame{Offset: 0x1800, Kind: Native}},
	} {
		t.Run(name, func(t *testing.T) {
			got := New(Options{}).Frames(p, only(o), runtimes, []event.Frame{c.frame, {}})
			if len(got) != 1 || got[0] != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// inliner is a runtime that inlines.
type inliner struct{ auxNamer }

func (inliner) Names(f *event.Frame) []Frame {
	if f.Aux != 6 {
		return nil
	}
	return []Frame{{Function: "inlined", Kind: Java}, {Function: "outer", Kind: Java}}
}

func TestInlinedByRuntime(t *testing.T) {
	runtimes := []Namer{inliner{auxNamer{7: "not asked"}}, auxNamer{7: "seven"}}
	got := New(Options{}).Frames(nil, nil, runtimes, []event.Frame{{Kind: event.FrameCompiled, Aux: 6}, {Kind: event.FrameCompiled, Aux: 7}})
	if functions(got) != "inlined outer seven" {
		t.Errorf("got %+v", got)
	}
}

// TestNamesAfterClose: tables and names that were looked at stay when the registry closes
// the file; when it opens it anew, others come.
func TestNamesAfterClose(t *testing.T) {
	path := compileC(t, "server.c")
	symbols := symbolsOf(t, path)
	o := objectAt(t, path)
	s := New(Options{})
	want := func(name, function string) {
		t.Helper()
		if got := nameAt(t, s, nil, o, symbols[name].Value); got[0].Function != function {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	want("main", "main")
	if err := o.File.Close(); err != nil {
		t.Fatal(err)
	}
	want("main", "main")
	want("do_accept", "")
	again := objectAt(t, path)
	o.File = again.File
	want("next_client", "next_client")
	want("do_accept", "do_accept")
}

// TestOverwrittenFile: a file that was overwritten is another object.
func TestOverwrittenFile(t *testing.T) {
	first := compileC(t, "server.c")
	path := filepath.Join(t.TempDir(), "program")
	put(t, first, path)
	o := objectAt(t, path)
	s := New(Options{})
	addr := symbolsOf(t, first)["main"].Value
	if got := nameAt(t, s, nil, o, addr); got[0].Function != "main" {
		t.Fatalf("got %+v", got)
	}
	put(t, strip(t, first), path)
	renewed := objectAt(t, path)
	renewed.Key.Ctime++ // the clock may not have ticked between the two
	if got := nameAt(t, s, nil, renewed, addr); got[0].Function != "" {
		t.Errorf("got %+v", got)
	}
}

// TestTruncatedFile: the owner of a file cuts it while we read it.
func TestTruncatedFile(t *testing.T) {
	for _, program := range []string{compileC(t, "server.c", "-g"), buildGo(t, "goserver", false)} {
		path := filepath.Join(t.TempDir(), "program")
		put(t, program, path)
		var addr uint64
		for name, sym := range symbolsOf(t, program) {
			if name == "main" || name == "main.main" {
				addr = sym.Value
			}
		}
		off := fileOffset(t, program, addr)
		o := objectAt(t, path)
		s := New(Options{Lines: true})
		frame := func(off uint64) Frame {
			return s.Frames(nil, only(o), nil, []event.Frame{{Kind: event.FrameFile, Object: o.ID, Addr: off}})[0]
		}
		if got := frame(off); got.Function == "" {
			t.Errorf("before: got %+v", got)
		}
		if err := os.Truncate(path, 100); err != nil {
			t.Fatal(err)
		}
		if got := frame(off + 1); got.Function != "" {
			t.Errorf("after: got %+v", got)
		}
	}
}

// TestSmallLimits: whatever is forgotten is found again.
func TestSmallLimits(t *testing.T) {
	s := New(Options{MaxBytes: 1, MaxFrames: 1, MaxProcesses: 1})
	var objects []*object.Object
	for range 3 {
		o := objectAt(t, compileC(t, "server.c"))
		o.ID = event.ObjectID(len(objects) + 1)
		objects = append(objects, o)
	}
	for range 2 {
		for _, o := range objects {
			for _, name := range serverFunctions {
				if got := nameAt(t, s, nil, o, symbolsOf(t, o.Path)[name].Value); got[0].Function != name {
					t.Errorf("%s: got %+v", name, got)
				}
			}
		}
	}
	if len(s.images.entries) != 1 || len(s.memo.entries) != 1 {
		t.Errorf("%d images, %d frames kept", len(s.images.entries), len(s.memo.entries))
	}
	if err := s.Close(); err != nil || len(s.images.entries) != 0 {
		t.Errorf("close: %v, %d images kept", err, len(s.images.entries))
	}
}

// TestNothingKeptOpen: open files would keep a container's mounts busy.
func TestNothingKeptOpen(t *testing.T) {
	p := separate(t, "-g")
	dir := t.TempDir()
	put(t, p.debug, p.byBuildID(dir))
	process := startIdle(t, dir)
	appendTo(t, perfMapPath(process, dir), "1000 10 generated\n")
	o := objectAt(t, p.program)
	addr := symbolsOf(t, p.original)["do_accept"].Value
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := count()
	s := New(Options{Lines: true})
	nameAt(t, s, process, o, addr)
	nameAt(t, s, nil, o, addr+1)
	generatedAt(s, process, 0x1000, false)
	if err := os.Remove(p.byBuildID(dir)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(p.byBuildID(dir), 0o600); err != nil {
		t.Fatal(err)
	}
	nameAt(t, New(Options{}), process, o, addr)
	if after := count(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	p := separate(t)
	dir := t.TempDir()
	put(t, p.debug, p.byBuildID(dir))
	process := startIdle(t, dir)
	appendTo(t, perfMapPath(process, dir), "1000 10 generated\n")
	o := objectAt(t, p.program)
	sym := symbolsOf(t, p.original)["do_accept"]
	off := fileOffset(t, p.original, sym.Value)
	s := New(Options{})
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range uint64(50) {
				got := s.Frames(process, only(o), nil, []event.Frame{
					{Kind: event.FrameFile, Object: o.ID, Addr: off + i%sym.Size}, {Kind: event.FrameAnon, Addr: 0x1000},
				})
				if got[0].Function != "do_accept" || got[1].Function != "generated" {
					t.Errorf("got %+v", got)
				}
			}
		})
	}
	group.Wait()
}
