package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// image is what we take from the headers of an ELF file. The library's own reading of
// headers, and debug/elf's, allocate as much as a hostile file asks for.
type image struct {
	r    io.ReaderAt
	size int64
	head elf.Header64
	// loads are the PT_LOAD headers.
	loads []elf.Prog64
	// dynamic and ehHeader are PT_DYNAMIC and PT_GNU_EH_FRAME, nil if there is none.
	dynamic, ehHeader *elf.Prog64
	// sections are the ones with data in the file, by name; the first of a name counts.
	sections map[string]elf.Section64
}

// readImage reads the headers. It fails for what is not an ELF file for x86-64.
func readImage(r io.ReaderAt, size int64) (*image, error) {
	if size > maxFileSize {
		return nil, limit("file size", maxFileSize)
	}
	im := &image{r: r, size: size}
	if err := im.read(&im.head, 0); err != nil {
		return nil, fmt.Errorf("read ELF header: %w", err)
	}
	h := &im.head
	switch {
	case string(h.Ident[:len(elf.ELFMAG)]) != elf.ELFMAG:
		return nil, errors.New("read ELF header: not an ELF file")
	case elf.Class(h.Ident[elf.EI_CLASS]) != elf.ELFCLASS64, elf.Data(h.Ident[elf.EI_DATA]) != elf.ELFDATA2LSB,
		elf.Machine(h.Machine) != elf.EM_X86_64:
		return nil, errors.New("read ELF header: not for x86-64")
	}
	if err := im.readProgs(); err != nil {
		return nil, fmt.Errorf("read program headers: %w", err)
	}
	if err := im.readSections(); err != nil {
		return nil, fmt.Errorf("read section headers: %w", err)
	}
	return im, nil
}

// read fills v, a pointer to a structure of fixed size or a slice of such.
func (im *image) read(v any, off uint64) error {
	n := uint64(binary.Size(v))
	if !im.has(off, n) {
		return fmt.Errorf("%d bytes at %#x of %d: %w", n, off, im.size, io.ErrUnexpectedEOF)
	}
	return binary.Read(io.NewSectionReader(im.r, int64(off), int64(n)), binary.LittleEndian, v)
}

// has reports whether the file has n bytes at off.
func (im *image) has(off, n uint64) bool {
	size := uint64(im.size)
	return off <= size && n <= size-off
}

func (im *image) readProgs() error {
	if im.head.Phnum > maxProgs {
		return limit("number", maxProgs)
	}
	progs := make([]elf.Prog64, im.head.Phnum)
	if err := im.read(progs, im.head.Phoff); err != nil {
		return err
	}
	for i := range progs {
		p := &progs[i]
		switch elf.ProgType(p.Type) {
		case elf.PT_LOAD:
			im.loads = append(im.loads, *p)
		case elf.PT_DYNAMIC:
			im.dynamic = p
		case elf.PT_GNU_EH_FRAME:
			im.ehHeader = p
		default: // nothing we need
		}
	}
	return nil
}

// readSections fills im.sections. A file may do without: programs run without them.
func (im *image) readSections() error {
	h := &im.head
	if h.Shnum == 0 || h.Shstrndx >= h.Shnum || !im.has(h.Shoff, 0) {
		return nil
	}
	if h.Shnum > maxSections {
		return limit("number", maxSections)
	}
	headers := make([]elf.Section64, h.Shnum)
	if err := im.read(headers, h.Shoff); err != nil {
		return err
	}
	names, err := im.bytes(headers[h.Shstrndx], maxNames)
	if err != nil {
		return fmt.Errorf("names: %w", err)
	}
	im.sections = make(map[string]elf.Section64, len(headers))
	for _, s := range headers {
		name := stringAt(names, uint64(s.Name))
		_, known := im.sections[name]
		if known || name == "" || elf.SectionType(s.Type) == elf.SHT_NOBITS || elf.SectionFlag(s.Flags)&elf.SHF_COMPRESSED != 0 {
			continue
		}
		im.sections[name] = s
	}
	return nil
}

// bytes returns the content of a section of at most most bytes.
func (im *image) bytes(s elf.Section64, most int) ([]byte, error) {
	if err := im.check(s, most); err != nil {
		return nil, err
	}
	b := make([]byte, s.Size)
	if _, err := im.r.ReadAt(b, int64(s.Off)); err != nil {
		return nil, err
	}
	return b, nil
}

// check fails if a section has more than most bytes, or more than the file.
func (im *image) check(s elf.Section64, most int) error {
	if s.Size > uint64(most) {
		return limit("size in bytes", most)
	}
	if !im.has(s.Off, s.Size) {
		return fmt.Errorf("%d bytes at %#x of %d: %w", s.Size, s.Off, im.size, io.ErrUnexpectedEOF)
	}
	return nil
}

// stringAt returns the NUL-terminated string at off, "" if there is none.
func stringAt(b []byte, off uint64) string {
	if off >= uint64(len(b)) {
		return ""
	}
	s, _, ok := bytes.Cut(b[off:], []byte{0})
	if !ok {
		return ""
	}
	return string(s)
}

// code returns the file offsets of the code at the addresses from start to end, cut to
// the mapped part of the segment that start is in. It is false if start is in none.
func (im *image) code(start, end uint64) (from, to uint64, ok bool) {
	for _, p := range im.loads {
		if elf.ProgFlag(p.Flags)&elf.PF_X == 0 || start < p.Vaddr || start-p.Vaddr >= p.Filesz {
			continue
		}
		if !im.has(p.Off, p.Filesz) {
			return 0, 0, false
		}
		end = min(end, p.Vaddr+p.Filesz)
		return start - p.Vaddr + p.Off, end - p.Vaddr + p.Off, true
	}
	return 0, 0, false
}
