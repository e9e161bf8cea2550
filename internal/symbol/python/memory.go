package python

import (
	"encoding/binary"
	"fmt"

	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// Bounds of what can be an address of an object in a process on x86-64.
const (
	lowestAddress  = 1 << 12 // the first page is never mapped
	highestAddress = 1 << 47 // more only where a program asks for it
	alignment      = 8
)

// objectHeader is the start of an object that says how large it is: of strings the longest,
// to the end of PyASCIIObject.state.
const objectHeader = 36

// smallObject is what one read of an object gets; a longer one costs a second.
const smallObject = 256

// memory reads words and objects of a process.
type memory struct{ object.Memory }

// read fills buf; less than all of it is an error.
func (m memory) read(buf []byte, at uint64) error {
	if at < lowestAddress || at >= highestAddress {
		return fmt.Errorf("address %#x is none", at)
	}
	n, err := m.ReadAt(buf, at)
	if n < len(buf) {
		return fmt.Errorf("read %d bytes at %#x: %w", len(buf), at, err)
	}
	return nil
}

// object reads the header of an object and, in the same go if it is small, what follows:
// after the header, size says how many bytes of data there are and where in the object
// they start. Less than all of it is no object.
func (m memory) object(at uint64, size func(header []byte) (start, bytes uint64, ok bool),
) ([]byte, bool) {
	if !plausible(at) {
		return nil, false
	}
	var buf [smallObject]byte
	n, _ := m.ReadAt(buf[:], at) // the page after the object may not be there
	if n < objectHeader {
		return nil, false
	}
	start, bytes, ok := size(buf[:objectHeader])
	if !ok {
		return nil, false
	}
	if start+bytes <= uint64(n) {
		return append([]byte(nil), buf[start:start+bytes]...), true
	}
	data := make([]byte, bytes)
	return data, m.read(data, at+start) == nil
}

func (m memory) uint32(at uint64) (uint32, error) {
	var b [4]byte
	err := m.read(b[:], at)
	return binary.LittleEndian.Uint32(b[:]), err
}

func (m memory) uint64(at uint64) (uint64, error) {
	var b [8]byte
	err := m.read(b[:], at)
	return binary.LittleEndian.Uint64(b[:]), err
}

// pointer reads an address of an object; 0 is allowed.
func (m memory) pointer(at uint64) (uint64, error) {
	p, err := m.uint64(at)
	if err != nil {
		return 0, err
	}
	if p != 0 && !plausible(p) {
		return 0, fmt.Errorf("no pointer at %#x: %#x", at, p)
	}
	return p, nil
}

// plausible reports whether an object can be there.
func plausible(at uint64) bool {
	return at >= lowestAddress && at < highestAddress && at%alignment == 0
}
