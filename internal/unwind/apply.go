package unwind

import (
	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// apply goes to the caller by rule. Whoever changes it changes the kernel side, too.
func (w *walker) apply(rule Rule) {
	if rule.Flags&FlagCommand != 0 {
		w.command(rule.Param)
		return
	}
	if rule.Flags&FlagLeaf != 0 && w.afterCall {
		// Callees had their own use of the register.
		w.stop(event.ReasonBadFrame)
		return
	}
	cfa, ok := w.cfa(rule)
	if !ok {
		w.stop(event.ReasonUnreadable)
		return
	}
	w.regs[RegCFA] = cfa
	aux := w.regs[rule.Aux%RegMax] + uint64(int64(rule.AuxParam))
	if rule.Flags&FlagRegisterRA != 0 {
		w.enter(aux, cfa)
		return
	}
	switch {
	case rule.Aux != RegNone:
		// Unreadable only where the return address is, too.
		if fp, ok := w.word(aux); ok {
			w.regs[RegFP] = fp
		}
	case rule.Base == RegFP:
		w.regs[RegFP] = 0
	}
	w.stepCFA(cfa, rule.Flags&FlagDeref != 0)
}

func (w *walker) cfa(rule Rule) (cfa uint64, ok bool) {
	base := w.regs[rule.Base%RegMax]
	if rule.Flags&FlagDeref == 0 {
		return base + uint64(int64(rule.Param)), true
	}
	v, ok := w.word(base + uint64(int64(rule.Param&^derefMask)))
	return v + uint64(rule.Param&derefMask)*derefUnit, ok
}

// stepCFA goes to the caller whose return address is below cfa. Code that aligned its
// stack may know where that is only from memory (anywhere): it need not be above.
func (w *walker) stepCFA(cfa uint64, anywhere bool) {
	if cfa <= w.regs[RegSP] && !anywhere {
		w.stop(event.ReasonBadFrame)
		return
	}
	ra, ok := w.word(cfa - 8)
	if !ok {
		w.stop(event.ReasonUnreadable)
		return
	}
	w.enter(ra, cfa)
}

func (w *walker) command(command int32) {
	switch command {
	case CommandStop:
		w.end = atRoot
	case CommandPLT:
		// A stub is 16 bytes: a jump of 6, a push of 5, a jump. What was pushed is on the
		// stack from byte 11 on.
		const entry, pushed, word = 16, 11, 8
		cfa := w.regs[RegSP] + word
		if w.regs[RegPC]%entry >= pushed {
			cfa += word
		}
		w.stepCFA(cfa, false)
	case CommandSignal:
		w.stepSignal()
	case CommandFP:
		w.stepFramePointer(true)
	default:
		w.stepWithoutRule(event.ReasonNoRule)
	}
}

// stepSignal goes to the code that a signal interrupted. The kernel keeps its registers in
// the frame: struct ucontext of asm-generic/ucontext.h, where flags, link and stack are
// before struct sigcontext of asm/sigcontext.h.
func (w *walker) stepSignal() {
	const before = 8 + 8 + 24
	context := [...]uint8{
		RegR8, RegR9, RegNone, RegR11, RegNone, RegR13, RegNone, RegR15, RegRDI,
		RegNone, RegFP, RegNone, RegNone, RegRAX, RegNone, RegSP, RegPC,
	}
	regs := w.regs
	for i, reg := range context {
		v, ok := w.word(w.regs[RegSP] + before + 8*uint64(i))
		if !ok {
			w.stop(event.ReasonUnreadable)
			return
		}
		if reg != RegNone {
			regs[reg] = v
		}
	}
	w.regs, w.afterCall = regs, false
}

// maxSwitches is how often a walk may change the stack, as on the kernel side.
const maxSwitches = 4

// stepFramePointer goes to the caller by the frame pointer. Where Go changes from the
// thread's stack to a goroutine's (cgo, the scheduler), the saved frame pointer leads to
// the other stack, which can be below. The copy does not reach there; a walk that does not
// say so would be wrong all the same.
func (w *walker) stepFramePointer(mayChange bool) {
	const null = 4096 // no stack is in the first page
	fp := w.regs[RegFP]
	if mayChange && fp > null && fp < w.regs[RegSP] && w.switches < maxSwitches {
		w.switches++
		w.regs[RegSP] = fp
	}
	if fp < w.regs[RegSP] {
		w.stop(event.ReasonBadFrame)
		return
	}
	saved, ok := w.word(fp)
	ra, ok2 := w.word(fp + 8)
	if !ok || !ok2 {
		w.stop(event.ReasonUnreadable)
		return
	}
	w.regs[RegFP] = saved
	w.enter(ra, fp+16)
}

// stepAnonymous goes on from code without a file: made at run time, mostly with frame
// pointers. HotSpot's has none unless it is told to, and who does it is not always known.
func (w *walker) stepAnonymous(at uint64) {
	switch r := &w.s.Runtime; {
	case r.HotSpot.Present() && w.stepHotSpot(at):
	case r.PythonTrampoline:
		const frame = 16 // sub $8,%rsp and the return address
		w.stepCFA(w.regs[RegSP]+frame, false)
	case r.V8:
		w.stepFramePointer(false)
	default:
		w.accept(w.byFramePointer(), event.ReasonNoRule)
	}
}
