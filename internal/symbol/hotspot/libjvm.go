package hotspot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// libraryName is what HotSpot is called in every JDK that loads it as a library.
const libraryName = "libjvm.so"

// exportPrefix starts the names of the variables that describe the JVM.
const exportPrefix = "gHotSpotVM"

// Bounds of what is read of the library. libjvm of JDK 17 and 25 has 11 segments, 29
// sections, and 13 KiB each of dynamic symbols and of their names.
const (
	maxSegments    = 128
	maxSections    = 1024
	maxSymbolBytes = 4 << 20
)

// findLibrary returns the executable mapping of libjvm.so, nil if there is none.
func findLibrary(p *object.Process) *object.Mapped {
	for i := range p.Maps {
		m := &p.Maps[i]
		if m.Object != nil && m.Object.File != nil && path.Base(m.Object.Path) == libraryName {
			return m
		}
	}
	return nil
}

// exports are the addresses, in a process, of the variables that describe its JVM.
type exports map[string]uint64

// readExports finds them in the library's dynamic symbols. It reads no more of the file
// than the headers and these symbols: debug/elf would unpack what is compressed, without
// a bound.
func readExports(file io.ReaderAt, at *object.VMA) (exports, error) {
	var h elf.Header64
	if err := decodeAt(file, 0, &h); err != nil {
		return nil, fmt.Errorf("read ELF header: %w", err)
	}
	if !bytes.HasPrefix(h.Ident[:], []byte(elf.ELFMAG)) || elf.Class(h.Ident[elf.EI_CLASS]) != elf.ELFCLASS64 ||
		elf.Data(h.Ident[elf.EI_DATA]) != elf.ELFDATA2LSB {
		return nil, errors.New("not a 64-bit little-endian ELF file")
	}
	if h.Phnum > maxSegments || h.Shnum > maxSections {
		return nil, fmt.Errorf("%d segments and %d sections are too many", h.Phnum, h.Shnum)
	}
	segments := make([]elf.Prog64, h.Phnum)
	if err := decodeAt(file, h.Phoff, segments); err != nil {
		return nil, fmt.Errorf("read program headers: %w", err)
	}
	sections := make([]elf.Section64, h.Shnum)
	if err := decodeAt(file, h.Shoff, sections); err != nil {
		return nil, fmt.Errorf("read section headers: %w", err)
	}
	bias, err := loadBias(segments, at)
	if err != nil {
		return nil, err
	}
	return exportedSymbols(file, sections, bias)
}

// loadBias is what the loader added to the addresses in the file.
func loadBias(segments []elf.Prog64, at *object.VMA) (uint64, error) {
	for _, s := range segments {
		first := s.Off &^ (pageSize - 1)
		if elf.ProgType(s.Type) == elf.PT_LOAD && at.Offset >= first && at.Offset-first < s.Filesz {
			return at.Start - at.Offset + s.Off - s.Vaddr, nil
		}
	}
	return 0, fmt.Errorf("no segment of the file is mapped from offset %#x", at.Offset)
}

func exportedSymbols(file io.ReaderAt, sections []elf.Section64, bias uint64) (exports, error) {
	for _, s := range sections {
		if elf.SectionType(s.Type) != elf.SHT_DYNSYM || uint64(s.Link) >= uint64(len(sections)) {
			continue
		}
		names := sections[s.Link]
		if s.Size > maxSymbolBytes || names.Size > maxSymbolBytes {
			return nil, fmt.Errorf("dynamic symbols of %d and %d bytes are too many", s.Size, names.Size)
		}
		symbols := make([]elf.Sym64, s.Size/elf.Sym64Size)
		if err := decodeAt(file, s.Off, symbols); err != nil {
			return nil, fmt.Errorf("read dynamic symbols: %w", err)
		}
		text := make([]byte, names.Size)
		if _, err := file.ReadAt(text, int64(names.Off)); err != nil {
			return nil, fmt.Errorf("read names of dynamic symbols: %w", err)
		}
		e := exports{}
		for _, symbol := range symbols {
			if name := nameAt(text, symbol.Name); symbol.Value != 0 && strings.HasPrefix(name, exportPrefix) {
				e[name] = bias + symbol.Value
			}
		}
		if len(e) == 0 {
			return nil, errors.New("it is not HotSpot: no " + exportPrefix + " variables")
		}
		return e, nil
	}
	return nil, errors.New("no dynamic symbols")
}

// nameAt is the string in a string table at an offset, "" outside of it.
func nameAt(table []byte, offset uint32) string {
	if uint64(offset) >= uint64(len(table)) {
		return ""
	}
	name, _, _ := bytes.Cut(table[offset:], []byte{0})
	return string(name)
}

// decodeAt fills to, a pointer or a slice of structures of fixed size.
func decodeAt(file io.ReaderAt, off uint64, to any) error {
	size := binary.Size(to)
	return binary.Read(io.NewSectionReader(file, int64(off), int64(size)), binary.LittleEndian, to)
}
