package hotspot

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// decodeUTF8 turns the modified UTF-8 of class files into UTF-8. There, NUL has two bytes,
// and what is beyond U+FFFF is two surrogates of three bytes each. It reports false for
// what Java never writes: text with it is no name.
func decodeUTF8(b []byte) (string, bool) {
	var s strings.Builder
	s.Grow(len(b))
	for len(b) > 0 {
		r, size := decodeUnit(b)
		if size == 0 {
			return "", false
		}
		b = b[size:]
		if utf16.IsSurrogate(r) {
			low, n := decodeUnit(b)
			if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
				return "", false
			}
			b = b[n:]
		}
		s.WriteRune(r)
	}
	return s.String(), true
}

// decodeUnit decodes one UTF-16 unit, and says how many bytes it took: 0 for none.
func decodeUnit(b []byte) (unit rune, size int) {
	const (
		continued     = 0x80 // 10xxxxxx
		continuedMask = 0xc0
		bits          = 0x3f
	)
	follows := func(i int) bool { return len(b) > i && b[i]&continuedMask == continued }
	switch {
	case len(b) == 0 || b[0] == 0:
		return 0, 0
	case b[0] < utf8.RuneSelf:
		return rune(b[0]), 1
	case b[0]&0xe0 == 0xc0 && follows(1): // 110xxxxx: two bytes
		return rune(b[0]&0x1f)<<6 | rune(b[1]&bits), 2
	case b[0]&0xf0 == 0xe0 && follows(1) && follows(2): // 1110xxxx: three bytes
		return rune(b[0]&0x0f)<<12 | rune(b[1]&bits)<<6 | rune(b[2]&bits), 3
	default:
		return 0, 0
	}
}
