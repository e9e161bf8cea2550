package python

import (
	"encoding/binary"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
)

// instructionSize is that of a code unit; the location table counts in them.
const instructionSize = 2

// Limits of what is read of a process for one frame.
const (
	maxInstructions = 1 << 24 // code units of one function
	maxLineTable    = 1 << 18 // bytes; a module of 20,000 lines has about that
)

// code is what is read of a code object.
type code struct {
	at                    uint64
	count                 uint64 // of code units
	file, qualname, lines uint64 // addresses of objects
	firstLine             int
	traceable             int // index of the first instruction of a complete frame
}

// Name names a frame that the kernel side walked. It reports false where the process no
// longer has what the frame had, or cannot be read.
//
// Some frames are none in the program: those that CPython puts where C code calls Python,
// where an object is being made, and the ones of functions that have not started. They get
// an empty name, and true.
func (r *Runtime) Name(f *event.Frame) (symbol.Frame, bool) {
	if f.Kind != event.FramePython {
		return symbol.Frame{}, false
	}
	nothing := symbol.Frame{Kind: symbol.Python}
	if f.Addr == r.types.none {
		return nothing, true
	}
	c, ok := r.code(f.Addr)
	if !ok {
		return symbol.Frame{}, false
	}
	i, ok := r.index(&c, f.Aux)
	if !ok {
		return symbol.Frame{}, false
	}
	if i < c.traceable {
		return nothing, true
	}
	function, ok := r.text(c.qualname)
	if !ok || function == "" {
		return symbol.Frame{}, false
	}
	file, ok := r.text(c.file)
	if !ok {
		return symbol.Frame{}, false
	}
	return symbol.Frame{
		Function: function, File: file, Line: r.line(&c, i), Kind: symbol.Python,
	}, true
}

// code reads the code object at an address, if one is there.
func (r *Runtime) code(at uint64) (code, bool) {
	o := &r.offsets.code
	header := make([]byte, o.instructions)
	if !plausible(at) || r.memory.read(header, at) != nil {
		return code{}, false
	}
	word := func(offset uint32) uint64 { return binary.LittleEndian.Uint64(header[offset:]) }
	half := func(offset uint32) int32 { return int32(binary.LittleEndian.Uint32(header[offset:])) }
	c := code{
		at: at, count: word(sizeOffset),
		file: word(o.file), qualname: word(o.qualname), lines: word(o.lines),
		firstLine: int(half(o.firstLine)), traceable: int(half(o.traceable)),
	}
	ok := word(typeOffset) == r.types.code && c.count > 0 && c.count <= maxInstructions &&
		c.traceable >= 0
	return c, ok
}

// index returns which of its instructions is at an address, -1 before the first: so it is
// until a function starts. An address outside says that this is not the code of the frame.
func (r *Runtime) index(c *code, instruction uint64) (int, bool) {
	past := instruction - (c.at + uint64(r.offsets.code.instructions) - instructionSize)
	if past%instructionSize != 0 || past/instructionSize > c.count {
		return 0, false
	}
	return int(past/instructionSize) - 1, true
}

// line returns the line of an instruction, 0 if it has none or cannot be read.
func (r *Runtime) line(c *code, i int) int {
	table, ok := r.bytes(c.lines, maxLineTable)
	if !ok {
		return 0
	}
	return lineOf(table, c.firstLine, i)
}

// bytes reads a bytes object of at most limit bytes.
func (r *Runtime) bytes(at, limit uint64) ([]byte, bool) {
	return r.memory.object(at, func(header []byte) (start, bytes uint64, ok bool) {
		bytes = binary.LittleEndian.Uint64(header[sizeOffset:])
		ok = binary.LittleEndian.Uint64(header[typeOffset:]) == r.types.bytes && bytes <= limit
		return bytesDataOffset, bytes, ok
	})
}
