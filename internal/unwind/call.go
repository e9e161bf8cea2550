package unwind

import (
	"golang.org/x/arch/x86/x86asm"
)

// fit says how well a word of the stack fits as the return address of a frame.
type fit uint8

const (
	// fitNone: it cannot be: no call is before it, or one that cannot have led here.
	fitNone fit = iota
	// fitMaybe: a call is before it, whose target is not known or may lead here.
	fitMaybe
	// fitYes: a call is before it, whose target leads here.
	fitYes
)

// maxCall is the length of the longest call instruction: prefix, opcode, two bytes of
// addressing, displacement.
const maxCall = 8

// returnsTo says how well ra fits as the return address of the code at pc.
func (w *walker) returnsTo(ra, pc uint64) fit {
	m := w.mapped(ra - 1)
	if m == nil {
		return fitNone
	}
	best := fitNone
	// Calls have different lengths, and the end of one can look like a shorter one.
	for n := uint64(2); n <= maxCall && best < fitYes; n++ {
		if ra-m.Start < n {
			break
		}
		in, ok := w.decode(ra - n)
		if !ok || in.Op != x86asm.CALL || in.Len != int(n) {
			continue
		}
		target, known := w.target(ra, in.Args[0])
		if !known {
			best = max(best, fitMaybe)
			continue
		}
		best = max(best, w.leads(target, pc))
	}
	return best
}

// maxPath bounds the instructions looked at for one target.
const maxPath = 1024

// leads says whether a function called at target can be at pc without having called
// anything: it may have jumped into another function (a tail call, a stub of the linkage
// table). Jumps through registers can lead anywhere.
func (w *walker) leads(target, pc uint64) fit {
	switch {
	case w.mapped(target) == nil:
		return fitNone
	case w.sameFunction(target, pc):
		return fitYes
	}
	best := fitNone
	seen := map[uint64]bool{target: true}
	for todo := []uint64{target}; len(todo) > 0; {
		if len(seen) > maxPath {
			return fitMaybe
		}
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		in, ok := w.decode(at)
		if !ok {
			best = fitMaybe
			continue
		}
		if holds(at, in, pc) {
			return fitYes
		}
		next, n, ok := w.successors(at, in)
		if !ok {
			best = fitMaybe
		}
		for _, to := range next[:n] {
			if !seen[to] && to != 0 {
				seen[to] = true
				todo = append(todo, to)
			}
		}
	}
	return best
}

// holds reports whether the instruction in at at is the one that a frame with this pc is in.
func holds(at uint64, in x86asm.Inst, pc uint64) bool {
	end := at + uint64(in.Len)
	if pc == end {
		return in.Op == x86asm.CALL || in.Op == x86asm.SYSCALL
	}
	return at <= pc && pc < end
}

// sameFunction reports whether start is where the function that pc is in begins, if
// somebody can tell.
func (w *walker) sameFunction(start, pc uint64) bool {
	if w.u.functions == nil {
		return false
	}
	m := w.mapped(pc)
	if m == nil || m.Object == nil || start < m.Start || start >= m.End {
		return false
	}
	from, _, ok := w.u.functions(m.Object.ID, pc-m.Start+m.Offset)
	return ok && from == start-m.Start+m.Offset
}
