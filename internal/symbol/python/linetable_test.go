package python

import "testing"

func TestLineOf(t *testing.T) {
	// One entry of every form, each of 1 code unit but the first, which has 8.
	table := []byte{
		0x80 | 0<<3 | 7, 0x12, // short: the same line
		0x80 | 10<<3, 4, 9, // one line: the same
		0x80 | 12<<3, 4, 9, // one line: 2 more
		0x80 | 13<<3, 0x7f, 0x3f, // no columns: -(0xfff>>1)
		0x80 | 14<<3, 0x7e, 0x3f, 1, 2, 3, // long: the way back
		0x80 | 15<<3,       // none
		0x80 | 11<<3, 4, 9, // one line: 1 more
	}
	const first = 5000
	for i, want := range map[int]int{
		-1: first, 0: first, 7: first, 8: first, 9: first + 2, 10: first + 2 - 2047,
		11: first + 2, 12: 0, 13: first + 3, 14: 0, 1000: 0,
	} {
		if got := lineOf(table, first, i); got != want {
			t.Errorf("unit %d: line %d, want %d", i, got, want)
		}
	}
}

func FuzzLineTable(f *testing.F) {
	f.Add([]byte{0x80 | 14<<3, 0x7e, 0x3f, 1, 2, 3}, 1, 0)
	f.Add([]byte{0xf0, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f}, 0, 3)
	f.Add([]byte{0xff}, 1, 7)
	f.Add([]byte{}, -1, -1)
	f.Fuzz(func(t *testing.T, table []byte, first, i int) {
		line := lineOf(table, first, i)
		if line < 0 {
			t.Errorf("line %d", line)
		}
		if last := 8 * len(table); i >= last && line != 0 {
			t.Errorf("line %d of unit %d of at most %d", line, i, last)
		}
	})
}
