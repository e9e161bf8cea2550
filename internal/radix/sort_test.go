package radix

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
)

type item struct {
	key   uint64
	place int
}

func keyOf(i *item) uint64 { return i.key }

func FuzzSort(f *testing.F) {
	f.Add(uint64(1), uint16(503), uint8(0))
	f.Add(uint64(2), uint16(503), uint8(56))
	f.Add(uint64(3), uint16(1), uint8(3))
	f.Add(uint64(5), uint16(0), uint8(0))
	f.Fuzz(func(t *testing.T, seed uint64, n uint16, shift uint8) {
		r := rand.New(rand.NewPCG(seed, 7))
		list := make([]item, n)
		for i := range list {
			list[i] = item{r.Uint64() >> (shift & 63), i}
		}
		want := slices.Clone(list)
		slices.SortStableFunc(want, func(a, b item) int { return cmp.Compare(a.key, b.key) })
		if got := Sort(list, keyOf); !slices.Equal(got, want) {
			t.Errorf("%d keys: not sorted, or not as they were where equal", n)
		}
	})
}
