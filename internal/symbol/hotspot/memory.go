package hotspot

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// view is a copy of foreign memory. Reads beyond its end give 0.
type view []byte

func (v view) u8(off uint64) uint8 {
	if off >= uint64(len(v)) {
		return 0
	}
	return v[off]
}

func (v view) u16(off uint64) uint16 {
	if !v.has(off, 2) {
		return 0
	}
	return binary.LittleEndian.Uint16(v[off:])
}

func (v view) u32(off uint64) uint32 {
	if !v.has(off, 4) {
		return 0
	}
	return binary.LittleEndian.Uint32(v[off:])
}

func (v view) u64(off uint64) uint64 {
	if !v.has(off, pointerSize) {
		return 0
	}
	return binary.LittleEndian.Uint64(v[off:])
}

func (v view) has(off, size uint64) bool {
	return off <= uint64(len(v)) && size <= uint64(len(v))-off
}

// pointerSize is that of the JVMs we read: 64-bit ones.
const pointerSize = 8

// memory reads a process.
type memory struct{ object.Memory }

// read copies n bytes from addr on, all or nothing.
func (m memory) read(addr uint64, n int) (view, error) {
	if addr == 0 {
		return nil, fmt.Errorf("read %d bytes: null pointer", n)
	}
	buf := make(view, n)
	got, err := m.ReadAt(buf, addr)
	if err != nil {
		return nil, fmt.Errorf("read %d bytes at %#x: %w", n, addr, err)
	}
	if got != n {
		return nil, fmt.Errorf("read %d bytes at %#x: got %d", n, addr, got)
	}
	return buf, nil
}

func (m memory) u64(addr uint64) (uint64, error) {
	v, err := m.read(addr, pointerSize)
	return v.u64(0), err
}

func (m memory) u32(addr uint64) (uint32, error) {
	v, err := m.read(addr, 4)
	return v.u32(0), err
}

// pageSize is the unit of what pages keeps; it divides every page size there is.
const pageSize = 4096

// pages reads strings that lie close together, each page once.
type pages struct {
	memory
	// room is how many pages may still be read.
	room int
	kept map[uint64]view
}

func newPages(m memory, limit int) *pages {
	return &pages{memory: m, room: limit, kept: map[uint64]view{}}
}

func (p *pages) page(number uint64) (view, error) {
	if v, ok := p.kept[number]; ok {
		return v, nil
	}
	if p.room == 0 {
		return nil, fmt.Errorf("strings spread over too much memory")
	}
	p.room--
	v, err := p.read(number*pageSize, pageSize)
	if err == nil {
		p.kept[number] = v
	}
	return v, err
}

// text reads the string at addr that ends with a zero byte within limit bytes.
func (p *pages) text(addr uint64, limit int) (string, error) {
	var s []byte
	for at := addr; len(s) <= limit; at = (at/pageSize + 1) * pageSize {
		v, err := p.page(at / pageSize)
		if err != nil {
			return "", err
		}
		v = v[at%pageSize:]
		if end := bytes.IndexByte(v, 0); end >= 0 {
			s = append(s, v[:end]...)
			break
		}
		s = append(s, v...)
	}
	if len(s) > limit {
		return "", fmt.Errorf("string at %#x is longer than %d bytes", addr, limit)
	}
	return string(s), nil
}
