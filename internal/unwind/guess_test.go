//go:build amd64

package unwind

import (
	"io"
	"testing"
)

// codeMemory is a process's memory: bytes by address.
type codeMemory map[uint64][]byte

func (m codeMemory) ReadAt(buf []byte, addr uint64) (int, error) {
	for at, b := range m {
		if addr >= at && addr < at+uint64(len(b)) {
			n := copy(buf, b[addr-at:])
			if n < len(buf) {
				return n, io.ErrUnexpectedEOF
			}
			return n, nil
		}
	}
	return 0, io.ErrUnexpectedEOF
}

// Functions of a small program without tables, at unknownStart plus:
const (
	fnLeaf    = 0x100 // syscall; ret: the PC is after the system call
	fnWrapper = 0x200 // jmp fnLeaf
	fnOther   = 0x300 // nop; ret
	fnBranch  = 0x400 // je to a jump to fnLeaf; ret
	fnStub    = 0x500 // endbr64; jmp *toLeaf
	toLeaf    = 0x600 // a pointer to fnLeaf
	toOther   = 0x608 // a pointer to fnOther
	fnCaller  = 0x700 // the calls
	leafPC    = unknownStart + fnLeaf + 2
)

func relative(from, to int) []byte {
	d := uint32(to - from)
	return []byte{byte(d), byte(d >> 8), byte(d >> 16), byte(d >> 24)}
}

func join(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// program returns its memory, with the bytes of call in fnCaller and room after them.
func program(call []byte) codeMemory {
	const u = unknownStart
	m := codeMemory{
		u + fnLeaf:    {0x0f, 0x05, 0xc3},
		u + fnWrapper: join([]byte{0xe9}, relative(fnWrapper+5, fnLeaf)),
		u + fnOther:   {0x90, 0xc3},
		u + fnBranch:  join([]byte{0x74, 0x01, 0xc3, 0xe9}, relative(fnBranch+8, fnLeaf)),
		u + fnStub:    join([]byte{0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25}, relative(fnStub+10, toLeaf)),
		u + toLeaf:    words(u+fnLeaf, u+fnOther),
		u + fnCaller:  append(call, 0xc3),
	}
	return m
}

func newWalker(t *testing.T, m codeMemory, stack ...uint64) *walker {
	t.Helper()
	s := &Snapshot{Regs: Registers{RegPC: leafPC, RegSP: stackStart}, Stack: words(stack...)}
	return &walker{u: fakeUnwinder(t), s: s, p: fakeProcess(m), regs: s.Regs, work: maxWork}
}

func TestReturnsTo(t *testing.T) {
	direct := func(to int) []byte { return join([]byte{0xe8}, relative(fnCaller+5, to)) }
	through := func(slot int) []byte { return join([]byte{0xff, 0x15}, relative(fnCaller+6, slot)) }
	for _, c := range []struct {
		name string
		call []byte
		want fit
	}{
		{"call of the function", direct(fnLeaf), fitYes},
		{"call of a function that jumps to it", direct(fnWrapper), fitYes},
		{"call of a function that may jump to it", direct(fnBranch), fitYes},
		{"call of a stub", direct(fnStub), fitYes},
		{"call through a pointer", through(toLeaf), fitYes},
		{"call of a function that returns", direct(fnOther), fitNone},
		{"call through a pointer of such", through(toOther), fitNone},
		{"call of no code", direct(0x7fff0000), fitNone},
		{"call of a register", []byte{0xff, 0xd0}, fitMaybe},
		{"call of a high register", []byte{0x41, 0xff, 0xd4}, fitMaybe},
		{"call of a method", []byte{0xff, 0x50, 0x18}, fitMaybe},
		{"call of a far method", []byte{0xff, 0x90, 0x18, 0x01, 0, 0}, fitMaybe},
		{"call of a table entry", []byte{0xff, 0x14, 0xc2}, fitMaybe},
		{"no call", []byte{0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90}, fitNone},
		{"a jump", []byte{0xff, 0xe0}, fitNone},
	} {
		w := newWalker(t, program(c.call))
		ra := uint64(unknownStart + fnCaller + len(c.call))
		if got := w.returnsTo(ra, leafPC); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	w := newWalker(t, program(direct(fnLeaf)))
	for _, ra := range []uint64{0, 1, 0x1234, unknownStart, ^uint64(0)} {
		if got := w.returnsTo(ra, leafPC); got != fitNone {
			t.Errorf("%#x: %d, want none", ra, got)
		}
	}
}

// TestRunToReturn: what the code does on its way out, from the PC at its start.
func TestRunToReturn(t *testing.T) {
	const ra = unknownStart + fnCaller + 2
	const junk = 0x99
	for _, c := range []struct {
		name   string
		code   []byte
		stack  []uint64
		sp, fp uint64
	}{
		{"ret", []byte{0xc3}, []uint64{ra}, 8, 0x50},
		{"pop; ret", []byte{0x5b, 0xc3}, []uint64{junk, ra}, 16, 0x50},
		{"pop rbp; ret", []byte{0x5d, 0xc3}, []uint64{junk, ra}, 16, junk},
		{"add rsp; ret", []byte{0x48, 0x83, 0xc4, 0x10, 0xc3}, []uint64{junk, junk, ra}, 24, 0x50},
		{"sub rsp, negative; ret", []byte{0x48, 0x83, 0xec, 0xf0, 0xc3}, []uint64{junk, junk, ra}, 24, 0x50},
		{"lea rsp; ret", []byte{0x48, 0x8d, 0x64, 0x24, 0x08, 0xc3}, []uint64{junk, ra}, 16, 0x50},
		{"push; call; pop; ret", []byte{0x53, 0xff, 0xd0, 0x5b, 0xc3}, []uint64{ra}, 8, 0x50},
		{"je to a trap; pop; ret", []byte{0x74, 0x02, 0x5b, 0xc3, 0x0f, 0x0b}, []uint64{junk, ra}, 16, 0x50},
		{"je to pop; trap; pop; ret", []byte{0x74, 0x02, 0x0f, 0x0b, 0x5b, 0xc3}, []uint64{junk, ra}, 16, 0x50},
		{"xor ebp; ret", []byte{0x31, 0xed, 0xc3}, []uint64{ra}, 8, 0},
		{"leave; ret", []byte{0xc9, 0xc3}, []uint64{junk, 0x77, ra}, 24, 0x77},
		{"mov rsp,rbp; pop rbp; ret", []byte{0x48, 0x89, 0xec, 0x5d, 0xc3}, []uint64{junk, 0x77, ra}, 24, 0x77},
		{"lea rsp,[rbp-8]; pop; pop rbp; ret", []byte{0x48, 0x8d, 0x65, 0xf8, 0x5b, 0x5d, 0xc3}, []uint64{junk, 0x77, ra}, 24, 0x77},
		{"the same with 32 bits", []byte{0x48, 0x8d, 0xa5, 0xf8, 0xff, 0xff, 0xff, 0x5b, 0x5d, 0xc3}, []uint64{junk, 0x77, ra}, 24, 0x77},
		{"loop that ends", []byte{0xff, 0xc8, 0x75, 0xfc, 0xc3}, []uint64{ra}, 8, 0x50},
	} {
		m := program([]byte{0xff, 0xd0})
		m[unknownStart+fnLeaf] = c.code
		w := newWalker(t, m, c.stack...)
		w.regs[RegPC], w.regs[RegFP] = unknownStart+fnLeaf, 0x50
		if c.fp == 0x77 {
			w.regs[RegFP] = stackStart + 8
		}
		got := w.runToReturn()
		if want := (caller{ra, stackStart + c.sp, c.fp, fitMaybe}); got != want {
			t.Errorf("%s: %+x, want %+x", c.name, got, want)
		}
	}
	for name, code := range map[string][]byte{
		"endless loop": {0xeb, 0xfe}, "unknown stack": {0x48, 0x83, 0xe4, 0xf0, 0xc3}, "no code": nil,
		"jump to a register": {0xff, 0xe0}, "stack from a register": {0x48, 0x89, 0xc4, 0xc3}, "trap": {0x0f, 0x0b, 0xc3},
	} {
		m := program([]byte{0xff, 0xd0})
		m[unknownStart+fnLeaf] = code
		w := newWalker(t, m, ra, ra, ra)
		w.regs[RegPC] = unknownStart + fnLeaf
		if got := w.runToReturn(); got.fit != fitNone {
			t.Errorf("%s: %+x, want none", name, got)
		}
	}
}

// TestScanPrefersTheSureOne: old words that may fit are lower on the stack.
func TestScanPrefersTheSureOne(t *testing.T) {
	call := join([]byte{0xe8}, relative(fnCaller+5, fnLeaf), []byte{0xff, 0xd0}, []byte{0xe8}, relative(fnCaller+12, fnOther))
	const sure, maybe, wrong = unknownStart + fnCaller + 5, unknownStart + fnCaller + 7, unknownStart + fnCaller + 12
	w := newWalker(t, program(call), 0, wrong, maybe, 0, sure, maybe)
	w.regs[RegFP] = 0x50
	if got, want := w.scan(), (caller{sure, stackStart + 40, 0x50, fitYes}); got != want {
		t.Errorf("%+x, want %+x", got, want)
	}
	w = newWalker(t, program(call), 0, wrong, maybe, 0)
	if got, want := w.scan(), (caller{maybe, stackStart + 24, 0, fitMaybe}); got != want {
		t.Errorf("%+x, want %+x", got, want)
	}
	if got := newWalker(t, program(call), 0, wrong, 0).scan(); got.fit != fitNone {
		t.Errorf("%+x, want none", got)
	}
}
