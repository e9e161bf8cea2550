// Package dynsym finds exported symbols in the files a process maps: by their hash table,
// as the dynamic linker does it, so that a lookup costs a few reads of the file however
// many symbols it has (node: 75,000).
package dynsym

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Sizes of the structures of an ELF file, in bytes; names as in elf.h.
const (
	dynSize        = 16
	symSize        = 24
	gnuHeaderSize  = 16
	bloomWordSize  = 8
	bloomWordBits  = 64
	hashSize       = 4
	symShndxOffset = 6
	symValueOffset = 8
)

// Limits for broken and hostile files; real ones stay far below.
const (
	maxDynamic = 1 << 16 // bytes of PT_DYNAMIC; libc has 512
	maxChain   = 1 << 12 // symbols in one hash bucket; node has 14
	pageMask   = 1<<12 - 1
)

// dtGNUHash is DT_GNU_HASH.
const dtGNUHash = elf.DynTag(0x6ffffef5)

// errNone says that a file exports nothing, or not in a way the dynamic linker of this
// century uses.
var errNone = errors.New("no DT_GNU_HASH table")

// Table is what one file exports. It reads the file at each lookup and keeps nothing of it.
type Table struct {
	file  io.ReaderAt
	loads []elf.ProgHeader

	symbols, names uint64 // virtual addresses
	nameSize       uint64

	bloom, buckets, chains   uint64 // virtual addresses
	bloomWords, bloomShift   uint32
	bucketCount, firstHashed uint32
}

// Open reads the headers of a 64-bit little-endian ELF file.
func Open(file io.ReaderAt) (*Table, error) {
	f, err := elf.NewFile(file)
	if err != nil {
		return nil, fmt.Errorf("read ELF headers: %w", err)
	}
	if f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB {
		return nil, fmt.Errorf("read ELF headers: %v %v is not read here", f.Class, f.Data)
	}
	t := &Table{file: file}
	var dynamic *elf.Prog
	for _, p := range f.Progs {
		switch p.Type {
		case elf.PT_LOAD:
			t.loads = append(t.loads, p.ProgHeader)
		case elf.PT_DYNAMIC:
			dynamic = p
		default:
		}
	}
	if dynamic == nil {
		return nil, errNone
	}
	return t, t.readDynamic(dynamic)
}

func (t *Table) readDynamic(p *elf.Prog) error {
	data := make([]byte, min(p.Filesz, maxDynamic)/dynSize*dynSize)
	if _, err := p.ReadAt(data, 0); err != nil {
		return fmt.Errorf("read dynamic section: %w", err)
	}
	var hash uint64
	for ; len(data) > 0; data = data[dynSize:] {
		value := binary.LittleEndian.Uint64(data[8:])
		switch elf.DynTag(binary.LittleEndian.Uint64(data)) {
		case elf.DT_SYMTAB:
			t.symbols = value
		case elf.DT_STRTAB:
			t.names = value
		case elf.DT_STRSZ:
			t.nameSize = value
		case dtGNUHash:
			hash = value
		default:
		}
	}
	if hash == 0 || t.symbols == 0 || t.names == 0 {
		return errNone
	}
	return t.readHash(hash)
}

func (t *Table) readHash(at uint64) error {
	var header [gnuHeaderSize]byte
	if err := t.read(header[:], at); err != nil {
		return fmt.Errorf("read hash table: %w", err)
	}
	t.bucketCount = binary.LittleEndian.Uint32(header[0:])
	t.firstHashed = binary.LittleEndian.Uint32(header[4:])
	t.bloomWords = binary.LittleEndian.Uint32(header[8:])
	t.bloomShift = binary.LittleEndian.Uint32(header[12:])
	if t.bucketCount == 0 || t.bloomWords == 0 {
		return fmt.Errorf("read hash table: %w", errNone)
	}
	t.bloom = at + gnuHeaderSize
	t.buckets = t.bloom + bloomWordSize*uint64(t.bloomWords)
	t.chains = t.buckets + hashSize*uint64(t.bucketCount)
	return nil
}

// Lookup returns the virtual address of an exported symbol. A file that cannot be read
// where it should be has no such symbol.
func (t *Table) Lookup(name string) (address uint64, ok bool) {
	hash := gnuHash(name)
	if !t.mayHave(hash) {
		return 0, false
	}
	first, err := t.uint32(t.buckets + hashSize*uint64(hash%t.bucketCount))
	if err != nil || first < t.firstHashed {
		return 0, false
	}
	for i := uint64(first); i < uint64(first)+maxChain; i++ {
		h, err := t.uint32(t.chains + hashSize*(i-uint64(t.firstHashed)))
		if err != nil {
			return 0, false
		}
		// The lowest bit is not part of the hash: it ends the chain.
		if h|1 == hash|1 {
			if address, ok = t.symbol(i, name); ok {
				return address, true
			}
		}
		if h&1 != 0 {
			break
		}
	}
	return 0, false
}

// mayHave asks the Bloom filter: most files do not have most symbols.
func (t *Table) mayHave(hash uint32) bool {
	var word [bloomWordSize]byte
	at := t.bloom + bloomWordSize*uint64(hash/bloomWordBits%t.bloomWords)
	if t.read(word[:], at) != nil {
		return false
	}
	bits := uint64(1)<<(hash%bloomWordBits) | uint64(1)<<(hash>>(t.bloomShift%32)%bloomWordBits)
	return binary.LittleEndian.Uint64(word[:])&bits == bits
}

// symbol returns the address of symbol i if that is its name and it is defined here.
func (t *Table) symbol(i uint64, name string) (uint64, bool) {
	var sym [symSize]byte
	if t.read(sym[:], t.symbols+symSize*i) != nil {
		return 0, false
	}
	section := elf.SectionIndex(binary.LittleEndian.Uint16(sym[symShndxOffset:]))
	at := uint64(binary.LittleEndian.Uint32(sym[:]))
	if section == elf.SHN_UNDEF || at >= t.nameSize {
		return 0, false
	}
	text := make([]byte, len(name)+1)
	if t.read(text, t.names+at) != nil || string(text) != name+"\x00" {
		return 0, false
	}
	return binary.LittleEndian.Uint64(sym[symValueOffset:]), true
}

// Bias is what to add to virtual addresses of the file where a process maps its executable
// code from file offset offset on at start.
func (t *Table) Bias(start, offset uint64) (uint64, bool) {
	for _, p := range t.loads {
		// The kernel maps whole pages.
		if p.Flags&elf.PF_X != 0 && offset >= p.Off&^pageMask && offset < p.Off+p.Filesz {
			return start - (p.Vaddr - p.Off + offset), true
		}
	}
	return 0, false
}

func (t *Table) uint32(at uint64) (uint32, error) {
	var b [hashSize]byte
	err := t.read(b[:], at)
	return binary.LittleEndian.Uint32(b[:]), err
}

// read reads what the file has at a virtual address.
func (t *Table) read(buf []byte, at uint64) error {
	for _, p := range t.loads {
		if at >= p.Vaddr && at-p.Vaddr < p.Filesz {
			_, err := t.file.ReadAt(buf, int64(p.Off+at-p.Vaddr))
			return err
		}
	}
	return fmt.Errorf("address %#x is not in the file", at)
}

// gnuHash is the hash of DT_GNU_HASH: Bernstein's, h*33 + c.
func gnuHash(name string) uint32 {
	h := uint32(5381)
	for i := range len(name) {
		h = h*33 + uint32(name[i])
	}
	return h
}
