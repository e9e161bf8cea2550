package symbol

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
)

// Go binaries carry the tables by which the runtime prints tracebacks, also when they are
// stripped: .gopclntab, laid out in runtime/symtab.go and runtime/runtime2.go (pcHeader,
// functab, _func). They are read in place, a few words for each lookup.
//
// debug/gosym takes the start of .text for the start of Go's code, which gives wrong names
// for externally linked (cgo) binaries since Go 1.26; and it, as others, knows nothing of
// inlined calls, so that its function is the outer one while its line is the inner one's.

var errNotGo = errors.New("no Go function table of a known version")

// The versions of the function table: the magic numbers of internal/abi.PCLnTabMagic.
const (
	goMagic118 = 0xfffffff0
	goMagic120 = 0xfffffff1
)

// Sizes and offsets of the table's structures.
const (
	goHeaderSize  = 72 // pcHeader
	goFunctabSize = 8  // functab: entryoff, funcoff
	goFuncFixed   = 44 // _func without its arrays; 4 less before Go 1.20
	goInlinedCall = 16 // inlinedCall since Go 1.20

	goPCDataInlTree   = 2
	goFuncDataInlTree = 3
)

// Bounds on what a table may ask for.
const (
	maxGoFuncs   = 16 << 20
	maxGoTab     = 1 << 30
	maxGoPCData  = 1 << 20 // bytes of one function's pc-value table
	maxGoInlined = 64      // calls inlined into each other
	maxGoPCTabs  = 16      // pc-value and data tables of a function; Go 1.26 has 5 and 8
)

// goTable is the function table of one Go binary.
type goTable struct {
	f       *elfFile
	tab     *io.SectionReader
	old     bool // before Go 1.20
	quantum uint64
	text    uint64 // address of runtime.text
	gofunc  uint64 // address of go:func.*, 0 unknown
	funcs   int
	names   span
	cutab   span
	files   span
	pctab   span
	functab span
}

// span is a part of the table.
type span struct{ off, size uint64 }

// goFunc is a function of the table.
type goFunc struct {
	start, end  uint64 // addresses
	name        uint32
	file, line  uint32 // offsets of pc-value tables
	inlineIndex uint32 // same, 0 if there is none
	inlineTree  uint32 // offset of the inlined calls from go:func.*, ^0 if there are none
	cu          uint32
}

// openGo finds the function table. Which files are Go's is told by their sections.
func openGo(f *elfFile) (*goTable, error) {
	at, err := findGoTable(f)
	if err != nil {
		return nil, err
	}
	g := &goTable{f: f, tab: io.NewSectionReader(f.r, int64(at.off), int64(at.size))}
	if err := g.readHeader(at.size); err != nil {
		return nil, fmt.Errorf("read Go function table: %w", err)
	}
	if start, ok := f.vaddr(at.off); ok {
		g.readModule(start)
	}
	last, err := g.uint32(g.functab, uint64(g.funcs)*goFunctabSize)
	if err != nil {
		return nil, fmt.Errorf("read Go function table: %w", err)
	}
	if last == 0 || !f.executable(g.text) || !f.executable(g.text+uint64(last)-1) {
		return nil, fmt.Errorf("read Go function table: start of the code: %w", errNotGo)
	}
	return g, nil
}

// findGoTable returns where the table is in the file.
func findGoTable(f *elfFile) (span, error) {
	for _, name := range []string{".gopclntab", ".data.rel.ro.gopclntab"} {
		if s := f.section(name); s != nil && s.kind != elf.SHT_NOBITS && s.off <= f.size {
			return span{s.off, min(s.size, f.size-s.off, maxGoTab)}, nil
		}
	}
	if f.section(".go.buildinfo") == nil {
		return span{}, errNotGo
	}
	// External linkers merge the table into another section.
	left := uint64(maxGoTab)
	for _, s := range f.segments {
		if s.exec || s.off > f.size {
			continue
		}
		size := min(s.filesz, f.size-s.off, left)
		left -= size
		if off, ok := searchGoHeader(f, s.off, size); ok {
			return span{off, s.off + size - off}, nil
		}
	}
	return span{}, errNotGo
}

// searchGoHeader looks for a pcHeader among size bytes at off.
func searchGoHeader(f *elfFile, off, size uint64) (uint64, bool) {
	// The bytes after the first of the magic: 0xff three times, two of padding, the
	// instruction size and the pointer size.
	quantum := byte(1)
	if f.machine == elf.EM_AARCH64 {
		quantum = 4
	}
	mark := []byte{0xff, 0xff, 0xff, 0, 0, quantum, 8}
	const (
		chunk   = 1 << 20
		aligned = 8 // pcHeader's alignment
	)
	buf := make([]byte, min(size, chunk+goHeaderSize))
	for done := uint64(0); done+goHeaderSize <= size; done += chunk {
		b := buf[:min(uint64(len(buf)), size-done)]
		if _, err := f.r.ReadAt(b, int64(off+done)); err != nil {
			return 0, false
		}
		for i := 1; i+goHeaderSize <= len(b); {
			n := bytes.Index(b[i:], mark)
			if n < 0 {
				break
			}
			at := i + n - 1
			i = at + 2
			magic := binary.LittleEndian.Uint32(b[at:])
			if (off+done+uint64(at))%aligned == 0 && (magic == goMagic118 || magic == goMagic120) {
				return off + done + uint64(at), true
			}
		}
	}
	return 0, false
}

func (g *goTable) readHeader(size uint64) error {
	raw := make([]byte, goHeaderSize)
	if _, err := g.tab.ReadAt(raw, 0); err != nil {
		return err
	}
	magic := binary.LittleEndian.Uint32(raw)
	const pad, quantum, pointer = 4, 6, 7 // offsets in pcHeader
	if magic != goMagic118 && magic != goMagic120 || raw[pad] != 0 || raw[pad+1] != 0 || raw[pointer] != 8 {
		return errNotGo
	}
	g.old = magic == goMagic118
	g.quantum = uint64(raw[quantum])
	var h struct{ Funcs, Files, Text, Names, CU, FileTab, PCTab, Functab uint64 }
	if err := decode(raw[8:], &h); err != nil {
		return err
	}
	ordered := h.Names <= h.CU && h.CU <= h.FileTab && h.FileTab <= h.PCTab && h.PCTab <= h.Functab &&
		h.Functab <= size
	if !ordered || h.Funcs > maxGoFuncs || h.Funcs*goFunctabSize+4 > size-h.Functab {
		return fmt.Errorf("header of %d functions: %w", h.Funcs, io.ErrUnexpectedEOF)
	}
	g.funcs, g.text = int(h.Funcs), h.Text
	g.names = span{h.Names, h.CU - h.Names}
	g.cutab = span{h.CU, h.FileTab - h.CU}
	g.files = span{h.FileTab, h.PCTab - h.FileTab}
	g.pctab = span{h.PCTab, h.Functab - h.PCTab}
	g.functab = span{h.Functab, size - h.Functab}
	return nil
}

// uint32 reads a number at off in a part of the table.
func (g *goTable) uint32(in span, off uint64) (uint32, error) {
	var b [4]byte
	if off > in.size || in.size-off < uint64(len(b)) {
		return 0, io.ErrUnexpectedEOF
	}
	if _, err := g.tab.ReadAt(b[:], int64(in.off+off)); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b[:]), nil
}

// string reads a NUL-terminated string at off in a part of the table.
func (g *goTable) string(in span, off uint64) string {
	if off >= in.size {
		return ""
	}
	// Most names and paths fit the first read.
	for _, size := range []uint64{128, maxMangled} {
		b := make([]byte, min(size, in.size-off))
		if _, err := g.tab.ReadAt(b, int64(in.off+off)); err != nil {
			return ""
		}
		if s := cString(b, 0); s != "" {
			return s
		}
	}
	return ""
}

// entry is the i-th entry of the function table; entry funcs is the end of the code.
func (g *goTable) entry(i int) uint64 {
	off, err := g.uint32(g.functab, uint64(i)*goFunctabSize)
	if err != nil {
		// Sorts behind every address; the search ends elsewhere and finds nothing.
		return ^uint64(0)
	}
	return g.text + uint64(off)
}

// find returns the function at the address.
func (g *goTable) find(addr uint64) (goFunc, bool) {
	i := sort.Search(g.funcs+1, func(i int) bool { return g.entry(i) > addr }) - 1
	if i < 0 || i >= g.funcs {
		return goFunc{}, false
	}
	off, err := g.uint32(g.functab, uint64(i)*goFunctabSize+4)
	if err != nil {
		return goFunc{}, false
	}
	fn := goFunc{start: g.entry(i), end: g.entry(i + 1)}
	fixed := uint64(goFuncFixed)
	if g.old {
		fixed -= 4 // no startLine
	}
	raw := make([]byte, goFuncFixed+maxGoPCTabs*2*4)
	part := uint64(off)
	if part >= g.functab.size || g.functab.size-part < fixed {
		return goFunc{}, false
	}
	raw = raw[:min(uint64(len(raw)), g.functab.size-part)]
	if _, err := g.tab.ReadAt(raw, int64(g.functab.off+part)); err != nil {
		return goFunc{}, false
	}
	if g.text+uint64(binary.LittleEndian.Uint32(raw)) != fn.start {
		return goFunc{}, false
	}
	fn.decode(raw, int(fixed))
	return fn, true
}

// decode fills in what the _func in raw says; its fixed part is fixed bytes long.
func (fn *goFunc) decode(raw []byte, fixed int) {
	const name, file, line, tables, cu = 4, 20, 24, 28, 32 // offsets in _func
	word := func(off int) uint32 { return binary.LittleEndian.Uint32(raw[off:]) }
	fn.name, fn.file, fn.line, fn.cu = word(name), word(file), word(line), word(cu)
	fn.inlineTree = ^uint32(0)
	pcdata, funcdata := word(tables), uint32(raw[fixed-1])
	if pcdata > maxGoPCTabs || funcdata > maxGoPCTabs || len(raw) < fixed+4*int(pcdata+funcdata) {
		return
	}
	if pcdata > goPCDataInlTree {
		fn.inlineIndex = word(fixed + 4*goPCDataInlTree)
	}
	if funcdata > goFuncDataInlTree {
		fn.inlineTree = word(fixed + 4*int(pcdata) + 4*goFuncDataInlTree)
	}
}

// value looks an address up in the pc-value table at off of the function: pairs of
// variable-length numbers, the change of the value and how many bytes of code it is for.
func (g *goTable) value(fn *goFunc, off uint32, addr uint64) (int32, bool) {
	if off == 0 || uint64(off) >= g.pctab.size {
		return 0, false
	}
	r := newByteReader(g.tab, g.pctab.off+uint64(off), min(g.pctab.size-uint64(off), maxGoPCData))
	value, pc := int32(-1), fn.start
	for first := true; ; first = false {
		change, ok := r.uvarint()
		if !ok || change == 0 && !first {
			return 0, false
		}
		length, ok := r.uvarint()
		if !ok {
			return 0, false
		}
		// Zigzag.
		value += int32(uint32(change)>>1) ^ -int32(uint32(change)&1)
		pc += length * g.quantum
		if addr < pc {
			return value, true
		}
	}
}

// position is the source line of an address. Where calls are inlined it is that of the
// innermost one.
func (g *goTable) position(fn *goFunc, addr uint64) (file string, line int) {
	number, ok := g.value(fn, fn.file, addr)
	if !ok || number < 0 {
		return "", 0
	}
	off, err := g.uint32(g.cutab, 4*(uint64(fn.cu)+uint64(number)))
	if err != nil {
		return "", 0
	}
	at, ok := g.value(fn, fn.line, addr)
	if file = g.string(g.files, uint64(off)); file == "" || !ok || at < 0 {
		return "", 0
	}
	return file, int(at)
}

// frames returns the functions at the address, the innermost inlined one first. false: it
// is not Go code.
func (g *goTable) frames(addr uint64) ([]Frame, bool) {
	fn, ok := g.find(addr)
	if !ok {
		return nil, false
	}
	outer := g.string(g.names, uint64(fn.name))
	if outer == "" {
		return nil, false
	}
	if fn.file == 0 {
		// C, linked by Go's own linker.
		return []Frame{{Function: shorten(outer), Kind: Native}}, true
	}
	frames, ok := g.inlined(&fn, addr, outer)
	if !ok {
		// A line of an inlined function under the name of another one would be a lie.
		frames = []Frame{{Function: outer}}
	}
	for i := range frames {
		frames[i].Kind = Go
		frames[i].Function = shorten(goName(frames[i].Function))
	}
	return frames, true
}

// goName leaves type arguments out, as the runtime's tracebacks do: what is in the table
// are the compiler's shapes of them.
func goName(name string) string {
	first, last := strings.IndexByte(name, '['), strings.LastIndexByte(name, ']')
	if first < 0 || last < first {
		return name
	}
	return name[:first] + "[...]" + name[last+1:]
}

// inlined undoes inlining as runtime.inlineUnwinder does. false: calls are inlined here but
// their names cannot be read.
func (g *goTable) inlined(fn *goFunc, addr uint64, outer string) ([]Frame, bool) {
	var frames []Frame
	for range maxGoInlined {
		file, line := g.position(fn, addr)
		index := int32(-1)
		if fn.inlineIndex != 0 {
			if v, ok := g.value(fn, fn.inlineIndex, addr); ok {
				index = v
			}
		}
		if index < 0 {
			return append(frames, Frame{Function: outer, File: file, Line: line}), true
		}
		name, parent, ok := g.call(fn, index)
		if !ok {
			return nil, false
		}
		frames = append(frames, Frame{Function: name, File: file, Line: line})
		addr = fn.start + parent
	}
	return nil, false
}

// call reads an entry of the function's inline tree: what was inlined, and the offset in
// the function of an instruction at the call.
func (g *goTable) call(fn *goFunc, index int32) (name string, parent uint64, ok bool) {
	if g.gofunc == 0 || g.old || fn.inlineTree == ^uint32(0) {
		return "", 0, false
	}
	off, ok := g.f.offset(g.gofunc + uint64(fn.inlineTree) + uint64(index)*goInlinedCall)
	if !ok {
		return "", 0, false
	}
	raw, err := g.f.bytes(off, goInlinedCall, goInlinedCall)
	if err != nil {
		return "", 0, false
	}
	nameOff := binary.LittleEndian.Uint32(raw[4:])
	parent = uint64(binary.LittleEndian.Uint32(raw[8:]))
	if raw[1] != 0 || raw[2] != 0 || raw[3] != 0 || parent >= fn.end-fn.start || !g.isName(nameOff) {
		return "", 0, false
	}
	return g.string(g.names, uint64(nameOff)), parent, true
}

// isName reports whether a name begins there: behind the end of another one.
func (g *goTable) isName(off uint32) bool {
	if off == 0 || uint64(off) >= g.names.size {
		return false
	}
	var b [2]byte
	if _, err := g.tab.ReadAt(b[:], int64(g.names.off+uint64(off)-1)); err != nil {
		return false
	}
	return b[0] == 0 && b[1] != 0
}

// byteReader reads a bounded part of a file byte by byte.
type byteReader struct {
	r    io.ReaderAt
	off  uint64
	left uint64
	buf  []byte
	// room is buf's memory. Most tables end before it does.
	room [256]byte
}

func newByteReader(r io.ReaderAt, off, size uint64) *byteReader {
	return &byteReader{r: r, off: off, left: size}
}

func (r *byteReader) next() (byte, bool) {
	if len(r.buf) == 0 {
		n := min(uint64(len(r.room)), r.left)
		if n == 0 {
			return 0, false
		}
		if _, err := r.r.ReadAt(r.room[:n], int64(r.off)); err != nil {
			return 0, false
		}
		r.buf, r.off, r.left = r.room[:n], r.off+n, r.left-n
	}
	b := r.buf[0]
	r.buf = r.buf[1:]
	return b, true
}

// uvarint reads a number of at most 32 bits, 7 bits a byte.
func (r *byteReader) uvarint() (uint64, bool) {
	var v uint64
	for shift := 0; shift < 35; shift += 7 {
		b, ok := r.next()
		if !ok {
			return 0, false
		}
		v |= uint64(b&0x7f) << shift
		if b&0x80 == 0 {
			return v, true
		}
	}
	return 0, false
}
