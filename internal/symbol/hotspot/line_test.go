package hotspot

import "testing"

// write5 is how HotSpot writes a number (Pack200, with excluded values at the bottom).
func write5(excluded, v uint32) []byte {
	low := 256 - 64 - excluded
	var b []byte
	for i := 0; v >= low && i < 4; i++ {
		v -= low
		b = append(b, byte(excluded+low+v%64))
		v /= 64
	}
	return append(b, byte(excluded+v))
}

func TestUnsigned5(t *testing.T) {
	for version, excluded := range map[uint32]uint32{17: 0, 25: 1} {
		o := offsets{version: version}
		var data []byte
		numbers := []uint32{0, 1, 190, 191, 192, 12414, 12415, 794750, 50864254, 1<<32 - 1}
		for _, n := range numbers {
			data = append(data, write5(excluded, n)...)
		}
		u := o.unsigned5(data)
		for _, want := range numbers {
			if got := u.next(); got != want || u.bad {
				t.Errorf("JDK %d: read %d, want %d (bad: %v)", version, got, want, u.bad)
			}
		}
		if u.next(); !u.bad {
			t.Errorf("JDK %d: the end went unnoticed", version)
		}
	}
	if u := (&offsets{version: 25}).unsigned5([]byte{0}); u.next() != 0 || !u.bad {
		t.Error("JDK 25: a zero byte is no number")
	}
}

func TestLineAt(t *testing.T) {
	const mark = 0xff
	signed := func(n int32) []byte { return write5(0, uint32(n<<1)^uint32(n>>31)) }
	table := []byte{
		0<<3 | 7,       // 0: line 7
		5<<3 | 1, mark, // 5: line 8
	}
	table = append(append(table, signed(20)...), signed(300)...) // 25: line 308
	table = append(append(append(table, mark), signed(6)...), signed(-301)...)
	table = append(table, 0) // 31: line 7
	for bci, want := range map[int32]int{0: 7, 4: 7, 5: 8, 24: 8, 25: 308, 30: 308, 31: 7, 1000: 7} {
		if got := lineAt((&offsets{version: 17}).unsigned5(table), bci); got != want {
			t.Errorf("line of %d is %d, want %d", bci, got, want)
		}
	}
	if got := lineAt((&offsets{version: 17}).unsigned5(table[:len(table)-1]), 1000); got != 0 {
		t.Errorf("line %d from a table without an end", got)
	}
}
