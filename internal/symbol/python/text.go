package python

import (
	"encoding/binary"
	"strings"
)

// maxText bounds the characters of a name or path: PATH_MAX.
const maxText = 4096

// The bits of PyASCIIObject.state.
const (
	kindShift, kindMask = 2, 7 // bytes of a character
	compactBit          = 1 << 5
	asciiBit            = 1 << 6
)

// text reads a string object. CPython keeps every character of a string in 1, 2 or 4 bytes.
func (r *Runtime) text(at uint64) (string, bool) {
	var width uint64
	data, ok := r.memory.object(at, func(header []byte) (start, bytes uint64, ok bool) {
		length := binary.LittleEndian.Uint64(header[sizeOffset:])
		state := binary.LittleEndian.Uint32(header[textStateOffset:])
		width = uint64(state >> kindShift & kindMask)
		start = r.offsets.compact
		if state&asciiBit != 0 {
			start = r.offsets.ascii
		}
		ok = binary.LittleEndian.Uint64(header[typeOffset:]) == r.types.unicode &&
			state&compactBit != 0 && length <= maxText && (width == 1 || width == 2 || width == 4)
		return start, length * width, ok
	})
	if !ok {
		return "", false
	}
	return decode(data, int(width)), true
}

// decode turns characters of a width into UTF-8; what is no character becomes U+FFFD.
func decode(data []byte, width int) string {
	var s strings.Builder
	s.Grow(len(data))
	for ; len(data) >= width; data = data[width:] {
		var c uint32
		switch width {
		case 1:
			c = uint32(data[0])
		case 2:
			c = uint32(binary.LittleEndian.Uint16(data))
		default:
			c = binary.LittleEndian.Uint32(data)
		}
		s.WriteRune(rune(c))
	}
	return s.String()
}
