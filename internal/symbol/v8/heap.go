package v8

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"unicode/utf16"

	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol/python/dynsym"
)

// wordSize is that of a tagged value without compressed pointers, in bytes.
const wordSize = 8

// Bounds of what can be an address of an object in a process on x86-64.
const (
	lowestAddress  = 1 << 16
	highestAddress = 1 << 47
)

// Limits of what is read of a process for one name.
const (
	maxChars = 1024 // of a function's name or a file's
	maxParts = 16   // objects a string is made of
)

// heap reads V8's objects in a process.
type heap struct {
	constants
	memory object.Memory
	// meta is the map of maps met last: there are one or a few, and they stay where they are.
	meta atomic.Uint64
}

// readConstants reads the constants that a module exports.
func (h *heap) readConstants(m *dynsym.Module) error {
	for to, names := range h.named() {
		if err := h.readConstant(m, to, names); err != nil {
			return err
		}
	}
	return h.check()
}

func (h *heap) readConstant(m *dynsym.Module, to *int32, names []string) error {
	for _, name := range names {
		at, ok := m.Address("v8dbg_" + name)
		if !ok {
			continue
		}
		var b [4]byte
		if n, err := h.memory.ReadAt(b[:], at); n < len(b) {
			return fmt.Errorf("read v8dbg_%s: %w", name, err)
		}
		*to = int32(binary.LittleEndian.Uint32(b[:]))
		return nil
	}
	return fmt.Errorf("no constant v8dbg_%s", names[0])
}

// errNone says that something is not what it should be: moved, or never there. Why it is
// not does not matter to anybody.
var errNone = errors.New("no such object")

// value is a tagged value: a small integer, or the address of an object plus 1.
type value uint64

// object reports whether v can be a (strong) pointer to an object.
func (v value) object() bool {
	return v&3 == 1 && v >= lowestAddress && v < highestAddress && v%wordSize == 1
}

// smi reports whether v is a small integer.
func (v value) smi() bool { return v&1 == 0 }

func (v value) integer() int64 { return int64(v) >> 32 }

// headSize is how much of an object is read at once: all fields that are used here.
const headSize = 64

// head is the beginning of an object: its map and fields.
type head struct {
	data [headSize]byte
	size int   // less where memory ends
	kind int32 // the instance type
}

// field returns a field of the object.
func (o *head) field(offset int32) (value, error) {
	if int(offset)+wordSize > o.size {
		return 0, errNone
	}
	return value(binary.LittleEndian.Uint64(o.data[offset:])), nil
}

// head reads an object and its type.
func (h *heap) head(v value) (o head, err error) {
	if !v.object() {
		return o, errNone
	}
	o.size, _ = h.memory.ReadAt(o.data[:], uint64(v)-1) // the next page may not be there
	shape, err := o.field(h.heapObjectMap)
	if err != nil {
		return o, err
	}
	o.kind, err = h.instanceType(shape)
	return o, err
}

// headOf reads an object that must be of a type.
func (h *heap) headOf(v value, kind int32) (head, error) {
	o, err := h.head(v)
	if err == nil && o.kind != kind {
		err = errNone
	}
	return o, err
}

// instanceType returns the type in a map, if that is one: what has in its place an object of
// the type of maps. (Where an object was moved away there is an address without a tag.)
func (h *heap) instanceType(shape value) (int32, error) {
	kind, meta, err := h.readMap(shape)
	if err != nil || uint64(meta) == h.meta.Load() {
		return kind, err
	}
	if self, _, err := h.readMap(meta); err != nil || self != h.typeMap {
		return 0, errNone
	}
	h.meta.Store(uint64(meta))
	return kind, nil
}

// readMap returns the type in a map, and the map of the map.
func (h *heap) readMap(shape value) (int32, value, error) {
	if !shape.object() {
		return 0, 0, errNone
	}
	var b [headSize]byte
	end := max(h.mapInstanceType+2, h.heapObjectMap+wordSize)
	if n, _ := h.memory.ReadAt(b[:end], uint64(shape)-1); n < int(end) {
		return 0, 0, errNone
	}
	kind := binary.LittleEndian.Uint16(b[h.mapInstanceType:])
	return int32(kind), value(binary.LittleEndian.Uint64(b[h.heapObjectMap:])), nil
}

func (h *heap) isString(t int32) bool { return t&h.notStringMask == 0 }

// text reads a string, of whatever parts it is made. External strings are refused: their
// text is wherever the embedder keeps it.
func (h *heap) text(v value) (string, error) {
	r := textReader{heap: h, parts: maxParts}
	if err := r.read(v, 0, -1); err != nil {
		return "", err
	}
	var s strings.Builder
	for _, c := range utf16.Decode(r.chars) {
		s.WriteRune(c)
	}
	return s.String(), nil
}

// textReader puts the characters of the parts of a string together.
type textReader struct {
	*heap
	chars []uint16
	parts int // how many more are read
}

// read adds length characters from start on, all of them if length is negative.
func (r *textReader) read(v value, start, length int64) error {
	if r.parts--; r.parts < 0 {
		return errNone
	}
	o, err := r.head(v)
	if err != nil || !r.isString(o.kind) {
		return errNone
	}
	all, err := r.length(&o)
	if err != nil {
		return err
	}
	if length < 0 {
		length = all - start
	}
	if start < 0 || length < 0 || start+length > all || int64(len(r.chars))+length > maxChars {
		return errNone
	}
	switch o.kind & r.representationMask {
	case r.sequential:
		return r.sequence(v, o.kind, start, length)
	case r.thin:
		return r.follow(&o, r.thinActual, start, length)
	case r.sliced:
		offset, err := o.field(r.slicedOffset)
		if err != nil || !offset.smi() || offset.integer() < 0 {
			return errNone
		}
		return r.follow(&o, r.slicedParent, start+offset.integer(), length)
	case r.cons:
		return r.halves(&o, start, length)
	default:
		return errNone
	}
}

func (r *textReader) length(o *head) (int64, error) {
	if int(r.stringLength)+4 > o.size {
		return 0, errNone
	}
	return int64(int32(binary.LittleEndian.Uint32(o.data[r.stringLength:]))), nil
}

func (r *textReader) follow(o *head, offset int32, start, length int64) error {
	next, err := o.field(offset)
	if err != nil {
		return err
	}
	return r.read(next, start, length)
}

// halves reads a string that is two put together.
func (r *textReader) halves(o *head, start, length int64) error {
	first, err := o.field(r.consFirst)
	if err != nil {
		return err
	}
	half, err := r.head(first)
	if err != nil || !r.isString(half.kind) {
		return errNone
	}
	border, err := r.length(&half)
	if err != nil {
		return err
	}
	if start < border {
		n := min(length, border-start)
		if err := r.read(first, start, n); err != nil {
			return err
		}
		start, length = start+n, length-n
	}
	if length == 0 {
		return nil
	}
	return r.follow(o, r.consSecond, start-border, length)
}

// sequence reads the characters themselves: Latin-1 or UTF-16.
func (r *textReader) sequence(v value, kind int32, start, length int64) error {
	width, chars := int64(2), r.twoByteChars
	if kind&r.encodingMask == r.oneByte {
		width, chars = 1, r.oneByteChars
	}
	data := make([]byte, length*width)
	at := uint64(v) - 1 + uint64(chars) + uint64(start*width)
	if n, _ := r.memory.ReadAt(data, at); n < len(data) {
		return errNone
	}
	for ; len(data) > 0; data = data[width:] {
		c := uint16(data[0])
		if width > 1 {
			c |= uint16(data[1]) << 8
		}
		r.chars = append(r.chars, c)
	}
	return nil
}
