package symbol

import (
	"bytes"
	"compress/zlib"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Bounds on what an ELF header may ask for. Linkers make some 40 sections and 15 program
// headers; a kernel-sized executable stays far below these too.
const (
	maxSections   = 8192
	maxSegments   = 1024
	maxShstrtab   = 1 << 20
	maxNote       = 64 << 10
	maxBuildID    = 64 // bytes; SHA-1, the common one, has 20
	maxDebugLink  = 4 << 10
	headerSize    = 64 // sizeof(Elf64_Ehdr)
	sectionSize   = 64 // sizeof(Elf64_Shdr)
	segmentSize   = 56 // sizeof(Elf64_Phdr)
	symbolSize    = 24 // sizeof(Elf64_Sym)
	chdrSize      = 24 // sizeof(Elf64_Chdr)
	noteHeader    = 12 // sizeof(Elf64_Nhdr)
	noteAlignment = 4
)

var (
	errNotELF     = errors.New("not a 64-bit little-endian ELF file")
	errTooLarge   = errors.New("larger than is read")
	errNoSection  = errors.New("no such section")
	errNoContents = errors.New("section has no contents in this file")
)

// elfFile is the frame of an ELF file: where its parts are. The parts are read when they
// are asked for, with read(2) and not mapped: a mapped file that its owner truncates kills
// the reader. debug/elf is not used because it trusts sizes.
type elfFile struct {
	r        io.ReaderAt
	size     uint64
	machine  elf.Machine
	segments []segment
	sections []section
	// buildID is in hexadecimal digits, "" if there is none.
	buildID string
}

// segment is a PT_LOAD.
type segment struct {
	off, vaddr, filesz, memsz uint64
	exec, write               bool
}

type section struct {
	name      string
	kind      elf.SectionType
	flags     elf.SectionFlag
	addr      uint64
	off, size uint64
	link      uint32
}

// parseELF reads the headers of a file of size bytes.
func parseELF(r io.ReaderAt, size uint64) (*elfFile, error) {
	f := &elfFile{r: r, size: size}
	head, err := f.bytes(0, headerSize, headerSize)
	if err != nil {
		return nil, fmt.Errorf("read ELF header: %w", err)
	}
	if string(head[:4]) != elf.ELFMAG || elf.Class(head[elf.EI_CLASS]) != elf.ELFCLASS64 ||
		elf.Data(head[elf.EI_DATA]) != elf.ELFDATA2LSB {
		return nil, errNotELF
	}
	var h elf.Header64
	if err := decode(head, &h); err != nil {
		return nil, fmt.Errorf("read ELF header: %w", err)
	}
	f.machine = elf.Machine(h.Machine)
	if err := f.readSegments(h.Phoff, int(h.Phnum), int(h.Phentsize)); err != nil {
		return nil, err
	}
	if err := f.readSections(h.Shoff, int(h.Shnum), int(h.Shentsize), int(h.Shstrndx)); err != nil {
		// A file without section headers still has addresses and, in its notes, an identity.
		f.sections = nil
	}
	if f.buildID == "" {
		f.buildID = f.sectionBuildID()
	}
	return f, nil
}

// decode reads a structure of fixed size.
func decode(b []byte, into any) error {
	_, err := binary.Decode(b, binary.LittleEndian, into)
	return err
}

// bytes reads n bytes at off, none of them beyond the end of the file.
func (f *elfFile) bytes(off, n, limit uint64) ([]byte, error) {
	if n > limit {
		return nil, fmt.Errorf("%d bytes: %w", n, errTooLarge)
	}
	if off > f.size || n > f.size-off {
		return nil, fmt.Errorf("%d bytes at %#x: %w", n, off, io.ErrUnexpectedEOF)
	}
	b := make([]byte, n)
	if _, err := f.r.ReadAt(b, int64(off)); err != nil {
		return nil, fmt.Errorf("%d bytes at %#x: %w", n, off, err)
	}
	return b, nil
}

func (f *elfFile) readSegments(off uint64, count, size int) error {
	if count == 0 {
		return nil
	}
	if count > maxSegments || size != segmentSize {
		return fmt.Errorf("read program headers: %d of %d bytes: %w", count, size, errTooLarge)
	}
	raw, err := f.bytes(off, uint64(count*size), maxSegments*segmentSize)
	if err != nil {
		return fmt.Errorf("read program headers: %w", err)
	}
	for i := range count {
		var p elf.Prog64
		if err := decode(raw[i*size:], &p); err != nil {
			return fmt.Errorf("read program headers: %w", err)
		}
		switch elf.ProgType(p.Type) {
		case elf.PT_LOAD:
			f.segments = append(f.segments, segment{
				off: p.Off, vaddr: p.Vaddr, filesz: p.Filesz, memsz: p.Memsz,
				exec:  elf.ProgFlag(p.Flags)&elf.PF_X != 0,
				write: elf.ProgFlag(p.Flags)&elf.PF_W != 0,
			})
		case elf.PT_NOTE:
			if f.buildID == "" {
				f.buildID = f.noteBuildID(p.Off, p.Filesz)
			}
		default:
		}
	}
	return nil
}

func (f *elfFile) readSections(off uint64, count, size, names int) error {
	if count > maxSections || count > 0 && size != sectionSize || names >= count {
		return fmt.Errorf("read section headers: %d of %d bytes: %w", count, size, errTooLarge)
	}
	raw, err := f.bytes(off, uint64(count*size), maxSections*sectionSize)
	if err != nil {
		return fmt.Errorf("read section headers: %w", err)
	}
	heads := make([]elf.Section64, count)
	if err := decode(raw, heads); err != nil {
		return fmt.Errorf("read section headers: %w", err)
	}
	text, err := f.bytes(heads[names].Off, heads[names].Size, maxShstrtab)
	if err != nil {
		return fmt.Errorf("read section names: %w", err)
	}
	f.sections = make([]section, count)
	for i, h := range heads {
		f.sections[i] = section{
			name: cString(text, uint64(h.Name)),
			kind: elf.SectionType(h.Type), flags: elf.SectionFlag(h.Flags),
			addr: h.Addr, off: h.Off, size: h.Size, link: h.Link,
		}
	}
	return nil
}

// cString is the text in b from off to the next NUL, "" where there is none.
func cString(b []byte, off uint64) string {
	if off >= uint64(len(b)) {
		return ""
	}
	b = b[off:]
	if end := bytes.IndexByte(b, 0); end >= 0 {
		return string(b[:end])
	}
	return ""
}

// section returns the first section of that name, nil if there is none.
func (f *elfFile) section(name string) *section {
	for i := range f.sections {
		if f.sections[i].name == name {
			return &f.sections[i]
		}
	}
	return nil
}

// contents reads a section of at most limit bytes, decompressed if need be.
func (f *elfFile) contents(name string, limit uint64) ([]byte, error) {
	s := f.section(name)
	switch {
	case s == nil:
		return nil, fmt.Errorf("read %s: %w", name, errNoSection)
	case s.kind == elf.SHT_NOBITS:
		return nil, fmt.Errorf("read %s: %w", name, errNoContents)
	}
	raw, err := f.bytes(s.off, s.size, limit)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if s.flags&elf.SHF_COMPRESSED == 0 {
		return raw, nil
	}
	if raw, err = inflate(raw, limit); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return raw, nil
}

// inflate undoes zlib, the compression Debian uses. Zstandard is not in Go's library.
func inflate(raw []byte, limit uint64) ([]byte, error) {
	if len(raw) < chdrSize {
		return nil, io.ErrUnexpectedEOF
	}
	var h elf.Chdr64
	if err := decode(raw, &h); err != nil {
		return nil, err
	}
	if kind := elf.CompressionType(h.Type); kind != elf.COMPRESS_ZLIB {
		return nil, fmt.Errorf("compression %v: %w", kind, errors.ErrUnsupported)
	}
	if h.Size > limit {
		return nil, fmt.Errorf("%d bytes: %w", h.Size, errTooLarge)
	}
	z, err := zlib.NewReader(bytes.NewReader(raw[chdrSize:]))
	if err != nil {
		return nil, err
	}
	// Not made at the size the header claims: that is memory for nothing if it lies.
	out, err := io.ReadAll(io.LimitReader(z, int64(h.Size)))
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (f *elfFile) sectionBuildID() string {
	s := f.section(".note.gnu.build-id")
	if s == nil || s.kind != elf.SHT_NOTE {
		return ""
	}
	return f.noteBuildID(s.off, s.size)
}

// noteBuildID looks for NT_GNU_BUILD_ID among notes.
func (f *elfFile) noteBuildID(off, size uint64) string {
	notes, err := f.bytes(off, size, maxNote)
	if err != nil {
		return ""
	}
	const ntGNUBuildID = 3
	for len(notes) >= noteHeader {
		name := uint64(binary.LittleEndian.Uint32(notes))
		desc := uint64(binary.LittleEndian.Uint32(notes[4:]))
		kind := binary.LittleEndian.Uint32(notes[8:])
		notes = notes[noteHeader:]
		nameEnd := (name + noteAlignment - 1) &^ (noteAlignment - 1)
		descEnd := nameEnd + (desc+noteAlignment-1)&^(noteAlignment-1)
		if descEnd > uint64(len(notes)) {
			return ""
		}
		// Two bytes are what a path needs: .build-id/xx/yy.debug.
		if kind == ntGNUBuildID && string(notes[:name]) == "GNU\x00" && desc >= 2 && desc <= maxBuildID {
			return fmt.Sprintf("%x", notes[nameEnd:nameEnd+desc])
		}
		notes = notes[descEnd:]
	}
	return ""
}

// debugLink is the file name in .gnu_debuglink, "" if there is none.
func (f *elfFile) debugLink() string {
	raw, err := f.contents(".gnu_debuglink", maxDebugLink)
	if err != nil {
		return ""
	}
	return cString(raw, 0)
}

// vaddr converts a file offset to the address the linker gave it.
func (f *elfFile) vaddr(off uint64) (uint64, bool) {
	// One page of a file can be in two segments (the end of the text and the start of the
	// data); frames are in the executable one.
	best := -1
	for i, s := range f.segments {
		if off >= s.off && off-s.off < s.filesz && (best < 0 || s.exec && !f.segments[best].exec) {
			best = i
		}
	}
	if best < 0 {
		return 0, false
	}
	return off - f.segments[best].off + f.segments[best].vaddr, true
}

// offset converts an address to a file offset.
func (f *elfFile) offset(vaddr uint64) (uint64, bool) {
	for _, s := range f.segments {
		if vaddr >= s.vaddr && vaddr-s.vaddr < s.filesz {
			return vaddr - s.vaddr + s.off, true
		}
	}
	return 0, false
}

// executable reports whether there can be code at the address.
func (f *elfFile) executable(vaddr uint64) bool {
	for _, s := range f.segments {
		if s.exec && vaddr >= s.vaddr && vaddr-s.vaddr < s.memsz {
			return true
		}
	}
	return false
}
