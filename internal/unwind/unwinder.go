package unwind

import (
	"encoding/binary"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// MaxFrames is how many frames of a stack are kept, as on the kernel side.
const MaxFrames = 127

// Registers are the registers that rules can start from, by RegPC, RegSP and so on; the
// other places are zero.
type Registers [RegMax]uint64

// Snapshot is a thread at the moment it entered the kernel.
type Snapshot struct {
	Regs Registers
	// Stack is a copy of the memory from RegSP on, as much as there was and was taken.
	Stack []byte
	Task  event.Task
	// Runtime is what is known of the language runtime, the zero value is nothing.
	Runtime event.Runtime
}

// Result is a stack as far as it could be walked.
type Result struct {
	// Frames are innermost first.
	Frames []event.Frame
	// PCs are the addresses of the frames in the process.
	PCs     []uint64
	Quality event.Quality
	// Reason says why the walk ended early, 0 if it did not. A guessed stack can have one.
	Reason event.UnwindReason
}

// Functions returns the bounds of the function that the code at the offset off of an
// object belongs to, as offsets; it is false if that is not known.
type Functions func(id event.ObjectID, off uint64) (start, end uint64, ok bool)

// Unwinder walks copied stacks. It is safe for concurrent use.
type Unwinder struct {
	cache     *Cache
	functions Functions
}

// NewUnwinder returns an unwinder by the tables of cache. Functions helps it to guess
// and may be nil.
func NewUnwinder(cache *Cache, functions Functions) *Unwinder {
	return &Unwinder{cache: cache, functions: functions}
}

// Unwind walks the stack in s, of a thread of process p. The walk is that of the kernel
// side, by the same rules. In addition it guesses where there is no rule (see guess), and
// the stack is event.QualityGuessed then.
func (u *Unwinder) Unwind(s *Snapshot, p *object.Process) Result {
	w := walker{u: u, s: s, p: p, regs: s.Regs, work: maxWork}
	for w.end == goesOn {
		if len(w.res.Frames) == MaxFrames {
			w.stop(event.ReasonTooDeep)
			break
		}
		w.step()
	}
	switch {
	case w.guessed:
		w.res.Quality = event.QualityGuessed
	case w.end == atRoot:
		w.res.Quality = event.QualityComplete
	default:
		w.res.Quality = event.QualityTruncated
	}
	return w.res
}

// ending says how a walk ended.
type ending uint8

const (
	goesOn ending = iota
	// atRoot: at a stop rule or a zero return address.
	atRoot
	// early: for a reason.
	early
)

// walker is one walk.
type walker struct {
	u    *Unwinder
	s    *Snapshot
	p    *object.Process
	regs Registers
	// afterCall: the PC is a return address. That of the innermost frame and of the frame
	// that a signal interrupted are not.
	afterCall bool
	// switches counts the changes of the stack, see stepFramePointer.
	switches int
	guessed  bool
	end      ending
	res      Result
	// work is how many steps guesses may still take, window the code they look at.
	work   int
	window window
}

func (w *walker) stop(why event.UnwindReason) {
	w.end, w.res.Reason = early, why
}

// word reads the word at an address of the stack.
func (w *walker) word(addr uint64) (uint64, bool) {
	const size = 8
	off := addr - w.s.Regs[RegSP]
	if n := uint64(len(w.s.Stack)); off > n || n-off < size {
		return 0, false
	}
	return binary.LittleEndian.Uint64(w.s.Stack[off:]), true
}

// place returns the address of the instruction that the frame is at: the call is the
// instruction before the return address.
func (w *walker) place() uint64 {
	if w.afterCall {
		return w.regs[RegPC] - 1
	}
	return w.regs[RegPC]
}

// step records the frame and goes on to its caller.
func (w *walker) step() {
	at := w.place()
	m := w.mapped(at)
	if m == nil {
		w.stop(event.ReasonUnmapped)
		return
	}
	rule, why := w.rule(m, at)
	w.record(m, why != event.ReasonNone)
	switch {
	case why == event.ReasonNone:
		w.apply(rule)
	case m.Key == object.Key{}:
		w.stepAnonymous(at)
	default:
		w.stepWithoutRule(why)
	}
}

// rule returns the rule for the code at addr, or why there is none.
func (w *walker) rule(m *object.Mapped, addr uint64) (Rule, event.UnwindReason) {
	if m.Object == nil {
		return ruleInvalid, event.ReasonNoTable
	}
	t, err := w.u.cache.Table(m.Object)
	if err != nil {
		return ruleInvalid, event.ReasonNoTable
	}
	off := addr - m.Start + m.Offset
	n, ok := t.Find(uint32(off))
	if rule := w.u.cache.rules.At(n); ok && off <= maxFileSize && rule != ruleInvalid {
		return rule, event.ReasonNone
	}
	return ruleInvalid, event.ReasonNoRule
}

func (w *walker) record(m *object.Mapped, ruleless bool) {
	pc := w.regs[RegPC]
	f := event.Frame{Kind: event.FrameAnon, Return: w.afterCall, Addr: pc}
	switch {
	case m.Object != nil:
		f.Kind, f.Object, f.Addr = event.FrameFile, m.Object.ID, pc-m.Start+m.Offset
	case m.Key != object.Key{}:
		f.Kind = event.FrameUnmapped
	}
	if ruleless && w.s.Runtime.V8 {
		f.Aux = w.functionOfV8()
	}
	w.res.Frames = append(w.res.Frames, f)
	w.res.PCs = append(w.res.PCs, pc)
}

// functionOfV8 returns the JSFunction of a frame, 0 if it has none: where a context would
// be below the frame pointer is a marker then, a small integer, and those are even.
func (w *walker) functionOfV8() uint64 {
	fp := w.regs[RegFP]
	function, ok := w.word(fp - 16)
	context, ok2 := w.word(fp - 8)
	if fp <= w.regs[RegSP] || !ok || !ok2 || context%2 == 0 {
		return 0
	}
	return function
}

// mapped returns the mapping that the code at addr is in, nil if there is none.
func (w *walker) mapped(addr uint64) *object.Mapped {
	maps := w.p.Maps
	lo, hi := 0, len(maps)
	for lo < hi {
		if mid := int(uint(lo+hi) / 2); maps[mid].End <= addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(maps) || addr < maps[lo].Start {
		return nil
	}
	return &maps[lo]
}

// enter goes to the caller.
func (w *walker) enter(pc, sp uint64) {
	w.regs[RegPC], w.regs[RegSP], w.afterCall = pc, sp, true
	if pc == 0 {
		w.end = atRoot
	}
}
