package unwind

import (
	"encoding/binary"

	"golang.org/x/arch/x86/x86asm"
)

// maxWork bounds the guesses of one walk: instructions decoded and words looked at, some
// 10 ms. The stack of a musl program took 840.
const maxWork = 1 << 16

// window is a piece of code that was read at once.
type window struct {
	at  uint64
	n   int
	buf [256]byte
}

// code returns up to n bytes of code at addr, none if they cannot be read. They are valid
// until the next call. The file is asked and not the process, which may be gone.
func (w *walker) code(addr uint64, n int) []byte {
	win := &w.window
	if addr < win.at || addr-win.at > uint64(win.n) || uint64(win.n)-(addr-win.at) < uint64(n) {
		win.at, win.n = addr, w.readCode(win.buf[:], addr)
	}
	b := win.buf[addr-win.at : win.n]
	return b[:min(n, len(b))]
}

func (w *walker) readCode(buf []byte, addr uint64) int {
	m := w.mapped(addr)
	if m == nil {
		return 0
	}
	if left := m.End - addr; left < uint64(len(buf)) {
		buf = buf[:left]
	}
	n := 0
	// How much there is counts, an error says nothing more.
	switch {
	case m.Object != nil && m.Object.File != nil:
		n, _ = m.Object.File.ReadAt(buf, int64(addr-m.Start+m.Offset))
	case w.p.Memory != nil:
		n, _ = w.p.Memory.ReadAt(buf, addr)
	}
	return max(0, min(n, len(buf)))
}

// read fills buf from the process, which has gone on since: it is for what describes code,
// never for the stack.
func (w *walker) read(buf []byte, addr uint64) bool {
	if w.p.Memory == nil {
		return false
	}
	n, err := w.p.Memory.ReadAt(buf, addr)
	return err == nil && n == len(buf)
}

// pointer reads an entry of the global offset table: once a function was called through it,
// it does not change.
func (w *walker) pointer(addr uint64) (uint64, bool) {
	var b [8]byte
	ok := w.read(b[:], addr)
	return binary.LittleEndian.Uint64(b[:]), ok
}

// decode returns the instruction at pc. It is false for what is no code or what the
// decoder does not know, and when there was enough work.
func (w *walker) decode(pc uint64) (x86asm.Inst, bool) {
	const longest, bits = 15, 64
	if w.work--; w.work < 0 {
		return x86asm.Inst{}, false
	}
	b := w.code(pc, longest)
	if len(b) >= 4 && b[0] == 0xf3 && b[1] == 0x0f && b[2] == 0x1e && b[3] == 0xfa {
		return x86asm.Inst{Op: x86asm.NOP, Len: 4}, true // endbr64, at the start of functions
	}
	in, err := x86asm.Decode(b, bits)
	return in, err == nil
}

// successors returns where execution goes on after the instruction in at pc, calls
// taken to return. It is false if that is not known. After a return there is nothing.
func (w *walker) successors(pc uint64, in x86asm.Inst) (next [2]uint64, n int, ok bool) {
	after := pc + uint64(in.Len)
	switch in.Op {
	case x86asm.RET, x86asm.HLT, x86asm.UD2, x86asm.INT:
		return next, 0, true
	case x86asm.JMP:
		next[0], ok = w.target(after, in.Args[0])
		return next, 1, ok
	case x86asm.JA, x86asm.JAE, x86asm.JB, x86asm.JBE, x86asm.JCXZ, x86asm.JE, x86asm.JECXZ, x86asm.JG,
		x86asm.JGE, x86asm.JL, x86asm.JLE, x86asm.JNE, x86asm.JNO, x86asm.JNP, x86asm.JNS, x86asm.JO,
		x86asm.JP, x86asm.JRCXZ, x86asm.JS, x86asm.LOOP, x86asm.LOOPE, x86asm.LOOPNE:
		next[0] = after
		next[1], ok = w.target(after, in.Args[0])
		return next, 2, ok
	default:
		next[0] = after
		return next, 1, true
	}
}

// target returns where a jump or call to arg goes, from the instruction that ends at
// after: to a place relative to it, or through a pointer at such a place.
func (w *walker) target(after uint64, arg x86asm.Arg) (uint64, bool) {
	switch a := arg.(type) {
	case x86asm.Rel:
		return after + uint64(int64(a)), true
	case x86asm.Mem:
		if a.Base == x86asm.RIP && a.Index == 0 {
			return w.pointer(after + displacement(a))
		}
	}
	return 0, false
}

// displacement returns that of an operand. The decoder does not always extend the sign of
// its 32 bits.
func displacement(m x86asm.Mem) uint64 { return uint64(int64(int32(m.Disp))) }
