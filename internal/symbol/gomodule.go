package symbol

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// Words of runtime.moduledata (runtime/symtab.go), the same from Go 1.20 to 1.26. Go 1.26
// has one more between gofunc and textsectmap, epclntab.
const (
	goModulePCHeader = 0
	goModuleMinPC    = 20
	goModuleText     = 22
	goModuleGofunc   = 40
	goModuleWords    = 45
)

// goModuleSection is where the module data is since Go 1.26.
const goModuleSection = ".go.module"

// goModule is the beginning of the module data.
type goModule [goModuleWords]uint64

// gofunc returns the address of go:func.*. Should a later Go lay the module data out
// otherwise, it is 0: what follows gofunc is a slice of the pieces that the code is in, of
// which there are few. newer: it is Go 1.26 or later.
func (words *goModule) gofunc(newer bool) uint64 {
	const maxTextSections = 1024
	next := goModuleGofunc + 1
	if newer {
		next++
	}
	at, length, capacity := words[next], words[next+1], words[next+2]
	if at <= maxTextSections || length != capacity || length == 0 || length > maxTextSections {
		return 0
	}
	return words[goModuleGofunc]
}

// Bounds on the search for the module data.
const (
	maxGoData      = 64 << 20
	maxGoModules   = 4         // pointers to the function table that are looked at
	maxRelocations = 256 << 20 // bytes
	relocationSize = 24        // an offset, a type and an addend of 8 bytes each
)

// readModule takes from the module data what the function table at the address start lacks:
// the start of the code (since Go 1.26, and in position-independent programs) and the place
// of the inline trees.
func (g *goTable) readModule(start uint64) {
	at, ok := g.findModule(start)
	if !ok {
		return
	}
	words, ok := g.moduleWords(at)
	if !ok || words[goModulePCHeader] != start {
		return
	}
	first, err := g.uint32(g.functab, 0)
	if err != nil || words[goModuleMinPC] != words[goModuleText]+uint64(first) {
		return
	}
	if g.text == 0 {
		g.text = words[goModuleText]
	}
	if g.text == words[goModuleText] && !g.old {
		g.gofunc = words.gofunc(g.f.section(goModuleSection) != nil)
	}
}

// findModule returns the address of runtime.firstmoduledata, whose first word points to the
// table.
func (g *goTable) findModule(start uint64) (uint64, bool) {
	if s := g.f.section(goModuleSection); s != nil {
		return s.addr, true
	}
	var want [8]byte
	binary.LittleEndian.PutUint64(want[:], start)
	left := uint64(maxGoData)
	for _, s := range g.f.segments {
		if s.exec || !s.write {
			continue
		}
		size := min(s.filesz, left)
		left -= size
		if at, ok := g.searchModule(s, size, want[:]); ok {
			return at, true
		}
	}
	// In position-independent programs the dynamic linker writes the pointer.
	var candidates []uint64
	g.f.relocations(func(where, to uint64) bool {
		if to == start {
			candidates = append(candidates, where)
		}
		return len(candidates) < maxGoModules
	})
	for _, at := range candidates {
		if words, ok := g.moduleWords(at); ok && g.f.executable(words[goModuleText]) {
			return at, true
		}
	}
	return 0, false
}

// searchModule looks in size bytes of a segment for a word that points to the table and is followed by
// what must follow.
func (g *goTable) searchModule(s segment, size uint64, want []byte) (uint64, bool) {
	const chunk = 1 << 20
	buf := make([]byte, min(size, chunk))
	for done := uint64(0); done+uint64(len(want)) <= size; {
		b := buf[:min(uint64(len(buf)), size-done)]
		if _, err := g.f.r.ReadAt(b, int64(s.off+done)); err != nil {
			return 0, false
		}
		for i := 0; ; {
			n := bytes.Index(b[i:], want)
			if n < 0 {
				break
			}
			at := s.vaddr + done + uint64(i+n)
			if off, ok := g.f.offset(at + goModuleText*8); ok && at%8 == 0 {
				raw, err := g.f.bytes(off, 8, 8)
				if err == nil && g.f.executable(binary.LittleEndian.Uint64(raw)) {
					return at, true
				}
			}
			i += n + len(want)
		}
		// Words are aligned, so none lies across two chunks.
		done += uint64(len(b))
	}
	return 0, false
}

// moduleWords reads the module data at the address as the dynamic linker leaves it,
// relative to the addresses in the file.
func (g *goTable) moduleWords(at uint64) (words goModule, ok bool) {
	off, ok := g.f.offset(at)
	if !ok {
		return words, false
	}
	raw, err := g.f.bytes(off, goModuleWords*8, goModuleWords*8)
	if err != nil || decode(raw, &words) != nil {
		return words, false
	}
	if words[goModulePCHeader] != 0 && words[goModuleText] != 0 {
		return words, true
	}
	g.f.relocations(func(where, to uint64) bool {
		if where >= at && where-at < goModuleWords*8 {
			words[(where-at)/8] = to
		}
		return true
	})
	return words, true
}

// sectionOfRelocations are those with addends.
const sectionOfRelocations = elf.SHT_RELA //nolint:misspell // so ELF spells it

// relocations calls visit for each word that the dynamic linker sets to an address in the
// file itself, until visit returns false.
func (f *elfFile) relocations(visit func(where, to uint64) bool) {
	relative := uint32(elf.R_X86_64_RELATIVE)
	if f.machine == elf.EM_AARCH64 {
		relative = uint32(elf.R_AARCH64_RELATIVE)
	}
	buf := make([]byte, 4096*relocationSize)
	left := uint64(maxRelocations)
	for _, s := range f.sections {
		if s.kind != sectionOfRelocations || s.flags&elf.SHF_ALLOC == 0 || s.off > f.size {
			continue
		}
		size := min(s.size, f.size-s.off, left)
		left -= size
		for done := uint64(0); size-done >= relocationSize; {
			b := buf[:min(uint64(len(buf)), (size-done)/relocationSize*relocationSize)]
			if _, err := f.r.ReadAt(b, int64(s.off+done)); err != nil {
				return
			}
			done += uint64(len(b))
			for ; len(b) > 0; b = b[relocationSize:] {
				if binary.LittleEndian.Uint32(b[8:]) != relative {
					continue
				}
				if !visit(binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[16:])) {
					return
				}
			}
		}
	}
}
