package python

// The location table (co_linetable) since 3.11, Objects/locations.md: entries of one byte
// with the top bit set and more bytes without it. The first byte has a code in bits 3-6 and
// how many code units the entry covers, less one, in bits 0-2.

// The codes that change the line; what follows them are columns.
const (
	codeOneLine0  = 10 // to 12: the line grows by 0 to 2
	codeNoColumns = 13
	codeLong      = 14
	codeNone      = 15
)

// lineOf returns the line of code unit i, 0 if it has none.
func lineOf(table []byte, firstLine, i int) int {
	t := lineTable{rest: table}
	line, end := firstLine, 0
	for len(t.rest) > 0 {
		head := t.byte()
		code, units := head>>3&15, int(head&7)+1
		switch {
		case code == codeNoColumns || code == codeLong:
			line += t.signed()
		case code >= codeOneLine0 && code != codeNone:
			line += int(code - codeOneLine0)
		}
		if end += units; i < end {
			if code == codeNone || line < 0 {
				return 0
			}
			return line
		}
		t.skip()
	}
	return 0
}

// lineTable is what is left of a table.
type lineTable struct{ rest []byte }

// byte takes one byte, 0 at the end.
func (t *lineTable) byte() byte {
	if len(t.rest) == 0 {
		return 0
	}
	b := t.rest[0]
	t.rest = t.rest[1:]
	return b
}

// skip goes to the next entry.
func (t *lineTable) skip() {
	for len(t.rest) > 0 && t.rest[0]&0x80 == 0 {
		t.rest = t.rest[1:]
	}
}

// signed takes a number of groups of 6 bits, lowest first; bit 6 says that more follow. The
// lowest bit of the number is its sign.
func (t *lineTable) signed() int {
	const bits, more, widest = 6, 1 << 6, 30
	var u uint
	for shift := 0; shift <= widest; shift += bits {
		b := t.byte()
		u |= uint(b&(more-1)) << shift
		if b&more == 0 {
			break
		}
	}
	if u&1 != 0 {
		return -int(u >> 1)
	}
	return int(u >> 1)
}
