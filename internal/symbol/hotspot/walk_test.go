package hotspot

import (
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
)

// maxWalk ends a walk that goes in circles.
const maxWalk = 512

// walker walks Java frames as the kernel side does, from what the layout says alone.
type walker struct {
	memory
	layout event.HotSpotLayout
}

// registers are those of a frame.
type registers struct{ pc, sp, fp uint64 }

// walk collects Java frames, until the first one that is none.
func (w *walker) walk(regs registers) []event.Frame {
	var frames []event.Frame
	for len(frames) < maxWalk {
		f, ok := w.step(&regs)
		if !ok {
			break
		}
		frames = append(frames, f)
	}
	return frames
}

func (w *walker) word(addr uint64) uint64 {
	v, _ := w.u64(addr)
	return v
}

// step returns the frame and moves to its caller.
func (w *walker) step(regs *registers) (event.Frame, bool) {
	f := event.Frame{Kind: event.FrameCompiled, Return: true, Addr: regs.pc}
	pc := regs.pc - 1
	if pc >= w.layout.InterpreterLow && pc < w.layout.InterpreterHigh {
		const (
			methodBelow = 24 // Method*, from the frame pointer down
			senderBelow = 8  // the caller's stack pointer before it made room for locals
			maxLocals   = 1 << 20
		)
		f.Kind, f.Aux = event.FrameInterpreted, w.word(regs.fp-methodBelow)
		fp := regs.fp
		sender := w.word(fp - senderBelow)
		if sender < fp+16 || sender >= fp+maxLocals {
			sender = fp + 16
		}
		*regs = registers{pc: w.word(fp + 8), sp: sender, fp: w.word(fp)}
		return f, true
	}
	if f.Aux = w.blob(pc); f.Aux == 0 {
		return f, false
	}
	size, _ := w.u32(f.Aux + uint64(w.layout.FrameSize))
	if size == 0 {
		fp := regs.fp
		*regs = registers{pc: w.word(fp + 8), sp: fp + 16, fp: w.word(fp)}
		return f, true
	}
	cfa := regs.sp + uint64(size)*8
	*regs = registers{pc: w.word(cfa - 8), sp: cfa, fp: w.word(cfa - 16)}
	return f, true
}

// blob finds the CodeBlob of an address through the segment map of its heap: a byte per
// segment says how many to go back, 0 is the start of a block.
func (w *walker) blob(pc uint64) uint64 {
	const free = 0xff
	heap := heapOf(&w.layout, pc)
	if heap == nil {
		return 0
	}
	segment := (pc - heap.Low) >> w.layout.SegmentLog2
	for range maxWalk {
		back, err := w.read(heap.Segmap+segment, 1)
		if err != nil || back[0] == free || uint64(back[0]) > segment {
			return 0
		}
		if back[0] == 0 {
			return heap.Low + segment<<w.layout.SegmentLog2 + uint64(w.layout.BlockHeader)
		}
		segment -= uint64(back[0])
	}
	return 0
}

// threads returns where the Java frames of each thread that is in native code or waits
// start, by thread id: the JVM notes it down for itself.
func (r *Runtime) threads(tb testing.TB, v *vmStructs) map[uint32]registers {
	tb.Helper()
	offset := func(names ...string) uint64 {
		f := finder{vmStructs: v}
		off := f.offset(names...)
		if len(f.missing) > 0 {
			tb.Fatalf("no field %v", names)
		}
		return off
	}
	word := func(addr uint64) uint64 {
		v, err := r.memory.u64(addr)
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
	list := word(v.fields["ThreadsSMRSupport._java_thread_list"].address)
	array := word(list + offset("ThreadsList._threads"))
	all := map[uint32]registers{}
	for i := range word(list+offset("ThreadsList._length")) & 0xffffffff {
		thread := word(array + i*pointerSize)
		anchor := thread + offset("JavaThread._anchor")
		regs := registers{
			pc: word(anchor + offset("JavaFrameAnchor._last_Java_pc")),
			sp: word(anchor + offset("JavaFrameAnchor._last_Java_sp")),
			fp: word(anchor + offset("JavaFrameAnchor._last_Java_fp")),
		}
		os := word(thread + offset("Thread._osthread", "JavaThread._osthread"))
		if regs.sp == 0 || os == 0 {
			continue
		}
		if regs.pc == 0 {
			regs.pc = word(regs.sp - pointerSize)
		}
		all[uint32(word(os+offset("OSThread._thread_id")))] = regs
	}
	return all
}

// walkAll walks the Java frames of all threads, by thread id.
func (r *Runtime) walkAll(tb testing.TB, j *java) map[uint32][]event.Frame {
	tb.Helper()
	w := walker{memory: r.memory, layout: r.Layout()}
	all := map[uint32][]event.Frame{}
	for tid, regs := range r.threads(tb, j.vmStructs(tb)) {
		all[tid] = w.walk(regs)
	}
	return all
}

// stacks are the named Java stacks of all threads, by thread id.
func (r *Runtime) stacks(tb testing.TB, j *java) map[uint32][]symbol.Frame {
	tb.Helper()
	all := map[uint32][]symbol.Frame{}
	for tid, frames := range r.walkAll(tb, j) {
		for i := range frames {
			names := r.Names(&frames[i])
			if names == nil {
				tb.Errorf("no name for %+v after %v", frames[i], functions(all[tid]))
			}
			all[tid] = append(all[tid], names...)
		}
	}
	return all
}

// functions are the names alone, without stubs.
func functions(frames []symbol.Frame) []string {
	var names []string
	for _, f := range frames {
		if !strings.HasPrefix(f.Function, "[stub ") {
			names = append(names, f.Function)
		}
	}
	return names
}
