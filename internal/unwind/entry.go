package unwind

import (
	"bytes"

	"golang.org/x/arch/x86/x86asm"
)

// entryBlock returns a stop rule for the code that a program starts with, from the entry
// point to the return address of its first call. It is needed where no table covers that
// code (musl's). It is false for everything that does not look like such code: the entry
// point of a shared library can be any function.
func entryBlock(im *image, stop uint16) (block, bool) {
	const longest, longestCode, bits = 15, 64, 64
	from, to, ok := im.code(im.head.Entry, im.head.Entry+longestCode)
	if !ok {
		return block{}, false
	}
	code := make([]byte, to-from)
	if _, err := im.r.ReadAt(code, int64(from)); err != nil {
		return block{}, false
	}
	endbr := []byte{0xf3, 0x0f, 0x1e, 0xfa}
	at := len(code) - len(bytes.TrimPrefix(code, endbr))
	// The ABI asks the outermost frame to clear the frame pointer: xor %ebp,%ebp, musl has
	// it in 64 bits.
	if !bytes.HasPrefix(code[at:], []byte{0x31, 0xed}) && !bytes.HasPrefix(code[at:], []byte{0x48, 0x31, 0xed}) {
		return block{}, false
	}
	for at < len(code)-longest {
		in, err := x86asm.Decode(code[at:], bits)
		if err != nil || in.Op == x86asm.JMP || in.Op == x86asm.RET {
			return block{}, false
		}
		at += in.Len
		if in.Op == x86asm.CALL {
			return block{from, from + uint64(at), []change{{0, stop}}}, true
		}
	}
	return block{}, false
}

// covered reports whether one of the blocks has the code at a file offset.
func covered(blocks []block, off uint64) bool {
	for _, b := range blocks {
		if b.start <= off && off < b.end {
			return true
		}
	}
	return false
}
