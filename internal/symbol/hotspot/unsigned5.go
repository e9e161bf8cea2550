package hotspot

// unsigned5 reads the compressed numbers of HotSpot (UNSIGNED5 of Pack200): one to five
// bytes, the least first, each above the low range says that another one follows.
type unsigned5 struct {
	data view
	pos  uint64
	// excluded is how many byte values at the bottom stand for nothing: since JDK 20 zero
	// is not used.
	excluded uint8
	// bad: the data ended too early, or had a value that stands for nothing.
	bad bool
}

// excludedSince is the JDK that stopped to use zero bytes.
const excludedSince = 20

func (o *offsets) unsigned5(data view) *unsigned5 {
	u := &unsigned5{data: data}
	if o.version >= excludedSince {
		u.excluded = 1
	}
	return u
}

func (u *unsigned5) byte() uint8 {
	if u.pos >= uint64(len(u.data)) {
		u.bad = true
		return 0
	}
	u.pos++
	return u.data[u.pos-1]
}

func (u *unsigned5) next() uint32 {
	const (
		maxBytes = 5
		highBits = 6 // a byte above the low range carries as many
		low      = 256 - 1<<highBits
	)
	sum := uint32(0)
	for i := range maxBytes {
		b := u.byte()
		if u.bad || b < u.excluded {
			u.bad = true
			return 0
		}
		sum += uint32(b-u.excluded) << (highBits * i)
		if b < low {
			break
		}
	}
	return sum
}

// signed reads a number whose lowest bit is its sign.
func (u *unsigned5) signed() int32 {
	v := u.next()
	return int32(v>>1) ^ -int32(v&1)
}
