// Package radix sorts long lists by numbers.
package radix

// Sort is stable, and takes one pass over the list for each byte in which the keys differ: three for
// a million numbers that are counted up. It returns the sorted list and needs the memory of another
// one; either may be list.
func Sort[T any](list []T, key func(*T) uint64) []T {
	var differ uint64
	for i := range list {
		differ |= key(&list[i]) ^ key(&list[0])
	}
	var sorted []T
	for shift := 0; differ>>shift != 0; shift += 8 {
		if byte(differ>>shift) == 0 {
			continue
		}
		var next [257]int // where the next of each byte goes
		for i := range list {
			next[1+int(byte(key(&list[i])>>shift))]++
		}
		for i := 1; i < len(next); i++ {
			next[i] += next[i-1]
		}
		if sorted == nil {
			sorted = make([]T, len(list))
		}
		for i := range list {
			digit := byte(key(&list[i]) >> shift)
			sorted[next[digit]] = list[i]
			next[digit]++
		}
		list, sorted = sorted, list
	}
	return list
}
