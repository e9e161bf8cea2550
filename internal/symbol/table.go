package symbol

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sort"
)

// Bounds of a symbol table. Chromium's has about a million functions.
const (
	maxFunctions = 2 << 20
	maxSymtab    = 512 << 20 // bytes in the file
	// symtabChunk is how much of a symbol table is in memory at once while it is read.
	symtabChunk = 4096 * symbolSize
	// maxAliases is how many names of one address are considered.
	maxAliases = 16
	// maxNesting is how many symbols that begin between the one that contains an address
	// and that address are stepped over (labels inside hand-written assembly).
	maxNesting = 256
	entryBytes = 16
	// maxKeptNames is the largest string table that is taken into memory, in bytes. That of
	// Chromium has some 60 MB.
	maxKeptNames = 64 << 20
)

// entry is a function: 16 bytes. Its name stays in the file.
type entry struct {
	addr uint64
	// extent is the size in bytes; the top bit marks a local symbol.
	extent uint32
	// name is the offset in the string table.
	name uint32
}

const localSymbol = 1 << 31

func (e entry) size() uint64      { return uint64(e.extent &^ localSymbol) }
func (e entry) local() bool       { return e.extent&localSymbol != 0 }
func (e entry) has(a uint64) bool { return a >= e.addr && a-e.addr < e.size() }

// table is the functions of one symbol table, by address.
type table struct {
	entries []entry
	names   io.ReaderAt // of the string table alone
	length  uint64      // of the string table
	kept    int64       // bytes of the string table in memory
}

// alias is one name of a function.
type alias struct {
	name  string
	local bool
}

// function is what a table knows of an address: the function it is in.
type function struct {
	start, end uint64 // addresses
	aliases    []alias
}

// readTable reads the functions of the section named .symtab or .dynsym.
func readTable(f *elfFile, name string) (*table, error) {
	s := f.section(name)
	switch {
	case s == nil:
		return nil, fmt.Errorf("read %s: %w", name, errNoSection)
	case s.kind == elf.SHT_NOBITS:
		return nil, fmt.Errorf("read %s: %w", name, errNoContents)
	case s.size > maxSymtab:
		return nil, fmt.Errorf("read %s: %d bytes: %w", name, s.size, errTooLarge)
	case s.off > f.size || s.size > f.size-s.off:
		return nil, fmt.Errorf("read %s: %w", name, io.ErrUnexpectedEOF)
	case int(s.link) >= len(f.sections):
		return nil, fmt.Errorf("read %s: its string table: %w", name, errNoSection)
	}
	text := f.sections[s.link]
	if text.kind != elf.SHT_STRTAB || text.off > f.size || text.size > f.size-text.off {
		return nil, fmt.Errorf("read %s: its string table: %w", name, errNoContents)
	}
	t := &table{
		names:  io.NewSectionReader(f.r, int64(text.off), int64(text.size)),
		length: text.size,
	}
	if err := t.read(f.r, s.off, s.size); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return t, nil
}

func (t *table) read(r io.ReaderAt, off, size uint64) error {
	buf := make([]byte, min(size, symtabChunk))
	for size >= symbolSize {
		n := min(size, uint64(len(buf)))
		n -= n % symbolSize
		if _, err := r.ReadAt(buf[:n], int64(off)); err != nil {
			return err
		}
		for b := buf[:n]; len(b) > 0; b = b[symbolSize:] {
			e, ok := readEntry(b)
			if !ok {
				continue
			}
			if len(t.entries) >= maxFunctions {
				return fmt.Errorf("%d functions: %w", maxFunctions, errTooLarge)
			}
			t.entries = append(t.entries, e)
		}
		off, size = off+n, size-n
	}
	t.entries = slices.Clip(t.entries)
	slices.SortFunc(t.entries, func(a, b entry) int {
		if c := cmp.Compare(a.addr, b.addr); c != 0 {
			return c
		}
		return cmp.Compare(a.name, b.name)
	})
	return nil
}

// readEntry reads an Elf64_Sym. Symbols without a size are left out: which addresses they
// name is not known.
func readEntry(b []byte) (entry, bool) {
	const (
		info, section, value, size = 4, 6, 8, 16 // offsets in Elf64_Sym
		// maxFunction bounds a function; a larger one is no function.
		maxFunction = 1 << 30
	)
	e := entry{
		name:   binary.LittleEndian.Uint32(b),
		addr:   binary.LittleEndian.Uint64(b[value:]),
		extent: uint32(min(binary.LittleEndian.Uint64(b[size:]), maxFunction)),
	}
	switch elf.ST_TYPE(b[info]) {
	case elf.STT_FUNC, elf.STT_GNU_IFUNC, elf.STT_NOTYPE:
	default:
		return e, false
	}
	switch elf.SectionIndex(binary.LittleEndian.Uint16(b[section:])) {
	case elf.SHN_UNDEF, elf.SHN_ABS, elf.SHN_COMMON:
		return e, false
	default:
	}
	if elf.ST_BIND(b[info]) == elf.STB_LOCAL {
		e.extent |= localSymbol
	}
	return e, e.name != 0 && e.addr != 0 && e.size() != 0
}

// find returns the innermost function that contains the address, with all its names.
func (t *table) find(addr uint64) (function, bool) {
	above := sort.Search(len(t.entries), func(i int) bool { return t.entries[i].addr > addr })
	i := above - 1
	for ; i >= 0 && i >= above-maxNesting; i-- {
		if t.entries[i].has(addr) {
			break
		}
	}
	if i < 0 || i < above-maxNesting {
		return function{}, false
	}
	at := t.entries[i]
	f := function{start: at.addr, end: at.addr + at.size()}
	for ; i >= 0 && t.entries[i].addr == at.addr && len(f.aliases) < maxAliases; i-- {
		if !t.entries[i].has(addr) {
			continue
		}
		if name := t.name(t.entries[i].name); name != "" {
			f.aliases = append(f.aliases, alias{name: name, local: t.entries[i].local()})
		}
	}
	return f, len(f.aliases) > 0
}

// name reads a name; "" where there is none, or one longer than any that is of use.
func (t *table) name(off uint32) string {
	if uint64(off) >= t.length {
		return ""
	}
	// Most names fit the first read.
	for _, size := range []uint64{128, maxMangled} {
		b := make([]byte, min(size, t.length-uint64(off)))
		if _, err := t.names.ReadAt(b, int64(off)); err != nil {
			return ""
		}
		if s := cString(b, 0); s != "" {
			return s
		}
	}
	return ""
}

// keep takes the names into memory, so that the file can be closed.
func (t *table) keep() error {
	if t.length > maxKeptNames {
		return fmt.Errorf("names of %d bytes: %w", t.length, errTooLarge)
	}
	names := make([]byte, t.length)
	if _, err := t.names.ReadAt(names, 0); err != nil && len(names) > 0 {
		return fmt.Errorf("read names: %w", err)
	}
	t.names, t.kept = bytes.NewReader(names), int64(len(names))
	return nil
}

// bytes is about what the table costs.
func (t *table) bytes() int64 { return int64(cap(t.entries))*entryBytes + t.kept }
