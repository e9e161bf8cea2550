package unwind

import (
	"golang.org/x/arch/x86/x86asm"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// caller is where a frame may return to.
type caller struct {
	pc, sp, fp uint64
	fit        fit
}

// stepWithoutRule goes on from code of a file that has no rule here, for the reason why.
// V8's built-ins keep frame pointers and that is known; anything else is a guess.
func (w *walker) stepWithoutRule(why event.UnwindReason) {
	if w.s.Runtime.V8 {
		w.stepFramePointer(false)
		return
	}
	w.accept(w.guess(), why)
}

// accept goes to a caller that was guessed, or stops for the reason why.
func (w *walker) accept(c caller, why event.UnwindReason) {
	if c.fit == fitNone {
		w.stop(why)
		return
	}
	w.guessed = true
	w.regs[RegFP] = c.fp
	w.enter(c.pc, c.sp)
}

// guess looks for the return address of the frame. What the code itself does from here to
// its end is the best evidence, then the frame pointer, then any word on the stack; but of
// the last two only as far as the call before the return address leads to this code.
func (w *walker) guess() caller {
	byCode := w.runToReturn()
	if byCode.fit != fitNone {
		return byCode
	}
	byPointer := w.byFramePointer()
	if byPointer.fit == fitYes {
		return byPointer
	}
	byScan := w.scan()
	if byScan.fit > byPointer.fit {
		return byScan
	}
	return byPointer
}

// byFramePointer takes this code to keep frame pointers.
func (w *walker) byFramePointer() caller {
	fp := w.regs[RegFP]
	saved, ok := w.word(fp)
	ra, ok2 := w.word(fp + 8)
	if !ok || !ok2 || fp < w.regs[RegSP] {
		return caller{}
	}
	return caller{ra, fp + 16, saved, w.returnsTo(ra, w.regs[RegPC])}
}

// maxScan is how far above the stack pointer a return address is looked for, in bytes. A
// function with a larger frame is not found that way, and old return addresses in an
// unused buffer are less often taken for ours.
const maxScan = 2048

// scan takes the first word that fits surely, or else the first that fits at all. The
// frame pointer is left alone: code that does not use it preserves it.
func (w *walker) scan() caller {
	best := caller{}
	sp, fp := w.regs[RegSP], w.regs[RegFP]
	for at := sp; at-sp < maxScan && w.work > 0; at += 8 {
		v, ok := w.word(at)
		if !ok {
			break
		}
		w.work--
		if f := w.returnsTo(v, w.regs[RegPC]); f > best.fit {
			best = caller{v, at + 8, fp, f}
		}
		if best.fit == fitYes {
			break
		}
	}
	return best
}

// maxRun bounds the instructions looked at on the way to a return.
const maxRun = 1024

// run is a state of the code on its way to a return.
type run struct {
	pc, sp, fp uint64
}

// runToReturn follows the code from the frame's PC to a return, and looks what would be
// the return address there. Calls are taken to return, both ways of a branch are tried. It
// gives the first that fits surely, or else the first that fits at all.
func (w *walker) runToReturn() caller {
	best := caller{}
	start := run{w.regs[RegPC], w.regs[RegSP], w.regs[RegFP]}
	seen := map[uint64]bool{start.pc: true}
	for todo := []run{start}; len(todo) > 0 && len(seen) <= maxRun; {
		r := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		in, ok := w.decode(r.pc)
		if !ok {
			continue
		}
		if in.Op == x86asm.RET {
			if c := w.returned(r); c.fit > best.fit {
				best = c
			}
			if best.fit == fitYes {
				break
			}
			continue
		}
		if !w.execute(&r, in) {
			continue
		}
		next, n, _ := w.successors(r.pc, in)
		// The last one in is the first one out: the way straight on.
		for i := n - 1; i >= 0; i-- {
			if to := next[i]; to != 0 && !seen[to] {
				seen[to] = true
				todo = append(todo, run{to, r.sp, r.fp})
			}
		}
	}
	return best
}

// returned is what a return instruction at r does.
func (w *walker) returned(r run) caller {
	ra, ok := w.word(r.sp)
	if !ok {
		return caller{}
	}
	return caller{ra, r.sp + 8, r.fp, w.returnsTo(ra, w.regs[RegPC])}
}

// execute changes the stack pointer and the frame pointer of r as the instruction does. It
// is false if the stack pointer is not known after it. A frame pointer that is not known
// is 0: it then leads nowhere.
func (w *walker) execute(r *run, in x86asm.Inst) bool {
	const word = 8
	switch in.Op {
	case x86asm.PUSH:
		r.sp -= word
		return true
	case x86asm.POP:
		if in.Args[0] == x86asm.RBP {
			r.fp, _ = w.word(r.sp)
		}
		r.sp += word
		return in.Args[0] != x86asm.RSP
	case x86asm.LEAVE:
		r.sp = r.fp + word
		r.fp, _ = w.word(r.sp - word)
		return true
	case x86asm.CALL, x86asm.CMP, x86asm.TEST:
		return true // nothing is written
	default:
	}
	switch in.Args[0] {
	case x86asm.RSP:
		return r.setSP(in)
	case x86asm.RBP, x86asm.EBP, x86asm.BP, x86asm.BPB:
		r.fp = 0
		if in.Op == x86asm.MOV && in.Args[1] == x86asm.RSP {
			r.fp = r.sp
		}
	}
	return true
}

// setSP is an instruction that writes to the stack pointer.
func (r *run) setSP(in x86asm.Inst) bool {
	switch in.Op {
	case x86asm.ADD, x86asm.SUB:
		n, ok := in.Args[1].(x86asm.Imm)
		if in.Op == x86asm.SUB {
			n = -n
		}
		r.sp += uint64(n)
		return ok
	case x86asm.MOV:
		r.sp = r.fp
		return in.Args[1] == x86asm.RBP
	case x86asm.LEA:
		m, ok := in.Args[1].(x86asm.Mem)
		switch {
		case !ok || m.Index != 0:
			return false
		case m.Base == x86asm.RSP:
			r.sp += displacement(m)
			return true
		case m.Base == x86asm.RBP:
			r.sp = r.fp + displacement(m)
			return true
		}
	default:
	}
	return false
}
