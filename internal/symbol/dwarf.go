package symbol

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"sort"
)

// Source lines of native code come from .debug_line alone: its programs hold the addresses
// and the file names themselves, so that the rest of DWARF, a hundred times larger, need
// not be read. What it does not tell is which calls are inlined: the line is that of the
// innermost one, under the name of the function that it was inlined into.
//
// debug/dwarf is not used because a few bytes of a hostile file make it allocate without
// bound, which cannot be recovered from.

// Bounds of line tables. glibc's is 2 MB, Chromium's some 100 MB.
const (
	maxLineSection = 128 << 20 // bytes unpacked
	maxLineStrings = 32 << 20
	maxSequences   = 4 << 20
	sequenceBytes  = 24
	maxLineFormats = 16 // fields of an entry of the file table; compilers write 2 to 5
	maxPathBytes   = 4096
)

var errDWARF = errors.New("malformed line table")

// lineTable is the line programs of one file.
type lineTable struct {
	line, strings []byte
	// sequences by address. A sequence is a piece of code without holes.
	sequences []sequence
}

type sequence struct {
	low, high uint64
	unit      uint64 // offset of its program's header in the section
}

// readLines reads .debug_line and finds out which program covers which addresses.
func readLines(f *elfFile, executable func(uint64) bool) (*lineTable, error) {
	t := &lineTable{}
	var err error
	if t.line, err = f.contents(".debug_line", maxLineSection); err != nil {
		return nil, err
	}
	// Before DWARF 5 there is none.
	if t.strings, err = f.contents(".debug_line_str", maxLineStrings); err != nil && !errors.Is(err, errNoSection) {
		return nil, err
	}
	for off := uint64(0); off < uint64(len(t.line)); {
		u, err := t.unit(off)
		if err != nil {
			// The next header cannot be found. What was read so far is good.
			break
		}
		if err := t.addSequences(u, executable); err != nil {
			return nil, err
		}
		off = u.end
	}
	if len(t.sequences) == 0 {
		return nil, fmt.Errorf("read .debug_line: %w", errDWARF)
	}
	slices.SortFunc(t.sequences, func(a, b sequence) int { return cmp.Compare(a.low, b.low) })
	t.sequences = slices.Clip(t.sequences)
	return t, nil
}

func (t *lineTable) addSequences(u *lineUnit, executable func(uint64) bool) error {
	var first row
	open := false
	return u.run(func(r row) error {
		if !open {
			first, open = r, true
		}
		if !r.end {
			return nil
		}
		open = false
		// Code that the linker dropped keeps its lines, at address 0 or so.
		if r.addr <= first.addr || !executable(first.addr) {
			return nil
		}
		if len(t.sequences) >= maxSequences {
			return fmt.Errorf("read .debug_line: %d sequences: %w", maxSequences, errTooLarge)
		}
		t.sequences = append(t.sequences, sequence{first.addr, r.addr, u.start})
		return nil
	})
}

// find returns the source line of an address, "" and 0 if it is not known.
func (t *lineTable) find(addr uint64) (file string, line int) {
	i := sort.Search(len(t.sequences), func(i int) bool { return t.sequences[i].low > addr }) - 1
	if i < 0 || addr >= t.sequences[i].high {
		return "", 0
	}
	u, err := t.unit(t.sequences[i].unit)
	if err != nil {
		return "", 0
	}
	var last, found row
	open := false
	// errStop is no failure here: found tells.
	_ = u.run(func(r row) error {
		if open && addr >= last.addr && addr < r.addr {
			found = last
			return errStop
		}
		last, open = r, !r.end
		return nil
	})
	// Line 0 is code without a source.
	if found.line == 0 {
		return "", 0
	}
	if file = u.file(found.file, t.strings); file == "" {
		return "", 0
	}
	return file, int(found.line)
}

var errStop = errors.New("stop")

func (t *lineTable) bytes() int64 {
	return int64(cap(t.line)+cap(t.strings)) + int64(cap(t.sequences))*sequenceBytes
}

// lineUnit is one line program with its header (DWARF 5, section 6.2.4).
type lineUnit struct {
	start, end uint64
	version    uint16
	wide       bool // 64-bit DWARF
	minLength  uint64
	lineBase   int64
	lineRange  uint64
	opcodes    []byte // how many operands the standard opcodes have
	tables     []byte // of directories and files
	program    []byte
}

func (t *lineTable) unit(off uint64) (*lineUnit, error) {
	u := &lineUnit{start: off}
	b := cursor{data: t.line[off:]}
	length := uint64(b.uint32())
	if length == 0xffffffff {
		u.wide = true
		length = b.uint64()
	}
	if b.failed || length > uint64(len(b.data)) {
		return nil, errDWARF
	}
	b.data = b.data[:length]
	u.end = uint64(len(t.line[:off])) + b.read + length
	u.version = b.uint16()
	if u.version < 2 || u.version > 5 {
		// Skipped: its successor can be of a known version.
		return u, nil
	}
	if u.version >= 5 {
		b.skip(2) // sizes of addresses and of segment selectors
	}
	header := b.offset(u.wide)
	if b.failed || header > uint64(len(b.data)) {
		return nil, errDWARF
	}
	u.program = b.data[header:]
	b.data = b.data[:header]
	u.minLength = uint64(b.byte())
	if u.version >= 4 {
		b.skip(1) // operations of an instruction: 1 but for VLIW machines
	}
	b.skip(1) // default_is_stmt
	u.lineBase = int64(int8(b.byte()))
	u.lineRange = uint64(b.byte())
	if base := b.byte(); base > 0 {
		u.opcodes = b.bytes(uint64(base) - 1)
	}
	u.tables = b.data
	if b.failed || u.lineRange == 0 || len(u.opcodes) == 0 {
		return nil, errDWARF
	}
	return u, nil
}

// row is a row of the matrix that a line program stands for.
type row struct {
	addr uint64
	file uint64
	line uint64
	end  bool // the end of a sequence
}

// The opcodes of line programs.
const (
	lnsCopy          = 1
	lnsAdvancePC     = 2
	lnsAdvanceLine   = 3
	lnsSetFile       = 4
	lnsConstAddPC    = 8
	lnsFixedAdvance  = 9
	lneEndSequence   = 1
	lneSetAddress    = 2
	addressBytes     = 8
	maxSpecialOpcode = 255
)

// run executes the program and calls visit with each row until that returns an error.
func (u *lineUnit) run(visit func(row) error) error {
	b := cursor{data: u.program}
	initial := row{file: 1, line: 1}
	state := initial
	base := byte(len(u.opcodes) + 1)
	special := func(opcode byte) uint64 {
		adjusted := uint64(opcode - base)
		state.addr += adjusted / u.lineRange * u.minLength
		return adjusted
	}
	for len(b.data) > 0 && !b.failed {
		emit := false
		switch opcode := b.byte(); {
		case opcode >= base:
			adjusted := special(opcode)
			state.line += uint64(u.lineBase + int64(adjusted%u.lineRange))
			emit = true
		case opcode == 0:
			emit = u.extended(&b, &state)
		case opcode == lnsCopy:
			emit = true
		case opcode == lnsAdvancePC:
			state.addr += b.uleb() * u.minLength
		case opcode == lnsAdvanceLine:
			state.line += uint64(b.sleb())
		case opcode == lnsSetFile:
			state.file = b.uleb()
		case opcode == lnsConstAddPC:
			special(maxSpecialOpcode)
		case opcode == lnsFixedAdvance:
			state.addr += uint64(b.uint16())
		default:
			for range u.opcodes[opcode-1] {
				b.uleb()
			}
		}
		if !emit || b.failed {
			continue
		}
		if err := visit(state); err != nil {
			return err
		}
		if state.end {
			state = initial
		}
	}
	return nil
}

// extended executes an extended opcode and reports whether it makes a row.
func (u *lineUnit) extended(b *cursor, state *row) bool {
	body := cursor{data: b.bytes(b.uleb())}
	switch body.byte() {
	case lneEndSequence:
		state.end = !body.failed
		return state.end
	case lneSetAddress:
		if len(body.data) == addressBytes {
			state.addr = body.uint64()
		}
	}
	return false
}

// file returns the path of a file of the unit, relative to an unknown directory where the
// compiler did not write an absolute one.
func (u *lineUnit) file(number uint64, lineStrings []byte) string {
	b := cursor{data: u.tables}
	if u.version < 5 {
		return b.oldFile(number)
	}
	const all = ^uint64(0)
	dirs := b.lineEntries()
	dirs.each(&b, all, u.wide, lineStrings)
	files := b.lineEntries()
	name, dir, ok := files.each(&b, number, u.wide, lineStrings)
	if !ok {
		return ""
	}
	parts := []string{name}
	for _, i := range []uint64{dir, 0} {
		if path.IsAbs(parts[0]) {
			break
		}
		at := dirs.at
		d, _, _ := dirs.each(&at, i, u.wide, lineStrings)
		parts = append([]string{d}, parts...)
		if i == 0 {
			break
		}
	}
	return joinPath(parts)
}

func joinPath(parts []string) string {
	if parts[len(parts)-1] == "" {
		return ""
	}
	p := path.Join(parts...)
	if len(p) > maxPathBytes {
		return ""
	}
	return p
}

// oldFile reads the tables of directories and files as they were before DWARF 5.
func (b *cursor) oldFile(number uint64) string {
	dirs := *b
	for text := b.string(); text != ""; text = b.string() {
		continue
	}
	for i := uint64(1); !b.failed; i++ {
		name := b.string()
		if name == "" {
			return ""
		}
		dir := b.uleb()
		b.uleb() // time
		b.uleb() // size
		if i != number {
			continue
		}
		if path.IsAbs(name) || dir == 0 {
			return joinPath([]string{name})
		}
		for range dir - 1 {
			if dirs.string() == "" {
				return ""
			}
		}
		return joinPath([]string{dirs.string(), name})
	}
	return ""
}

// lineEntries is a table of directories or files of DWARF 5: fields of given forms.
type lineEntries struct {
	content, form []uint64
	count         uint64
	at            cursor
}

func (b *cursor) lineEntries() lineEntries {
	var e lineEntries
	for range b.byte() {
		if len(e.form) >= maxLineFormats || b.failed {
			b.failed = true
			return e
		}
		e.content = append(e.content, b.uleb())
		e.form = append(e.form, b.uleb())
	}
	e.count = b.uleb()
	if len(e.form) == 0 {
		// Entries of no bytes: any count of them is there.
		e.count = 0
	}
	e.at = *b
	return e
}

// each reads the entries up to the one of that number and returns its name and directory.
// All are read, and ok is false, if there is none.
func (e *lineEntries) each(b *cursor, number uint64, wide bool, lineStrings []byte) (name string, dir uint64, ok bool) {
	const contentPath, contentDirectory = 1, 2 // DW_LNCT_path, DW_LNCT_directory_index
	for i := uint64(0); i < e.count && !b.failed; i++ {
		for j, form := range e.form {
			text, value := b.lineField(form, wide, lineStrings, i == number)
			switch e.content[j] {
			case contentPath:
				name = text
			case contentDirectory:
				dir = value
			}
		}
		if i == number && !b.failed {
			return name, dir, true
		}
	}
	return "", 0, false
}

// lineField reads a value of one of the forms allowed here (DWARF 5, section 6.2.4.1).
// Strings of .debug_str, which compilers do not use here, stay unknown.
func (b *cursor) lineField(form uint64, wide bool, lineStrings []byte, want bool) (text string, value uint64) {
	const (
		formBlock, formData1, formData2, formData4, formData8, formData16 = 0x09, 0x0b, 0x05, 0x06, 0x07, 0x1e
		formString, formStrp, formLineStrp, formUdata                     = 0x08, 0x0e, 0x1f, 0x0f
	)
	switch form {
	case formString:
		text = b.string()
	case formLineStrp:
		if off := b.offset(wide); want {
			text = cString(lineStrings, off)
		}
	case formStrp:
		b.offset(wide)
	case formData1:
		value = uint64(b.byte())
	case formData2:
		value = uint64(b.uint16())
	case formData4:
		value = uint64(b.uint32())
	case formData8:
		value = b.uint64()
	case formData16:
		b.skip(16)
	case formUdata:
		value = b.uleb()
	case formBlock:
		b.skip(b.uleb())
	default:
		b.failed = true
	}
	return text, value
}

// cursor reads from a slice. Beyond its end it reads zeroes and has failed.
type cursor struct {
	data   []byte
	read   uint64 // bytes so far
	failed bool
}

func (b *cursor) bytes(n uint64) []byte {
	if n > uint64(len(b.data)) {
		b.failed = true
		b.data = nil
		return nil
	}
	out := b.data[:n]
	b.data = b.data[n:]
	b.read += n
	return out
}

func (b *cursor) skip(n uint64) { b.bytes(n) }

func (b *cursor) byte() byte {
	if p := b.bytes(1); p != nil {
		return p[0]
	}
	return 0
}

func (b *cursor) uint16() uint16 {
	if p := b.bytes(2); p != nil {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

func (b *cursor) uint32() uint32 {
	if p := b.bytes(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (b *cursor) uint64() uint64 {
	if p := b.bytes(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

// offset reads an offset into another section.
func (b *cursor) offset(wide bool) uint64 {
	if wide {
		return b.uint64()
	}
	return uint64(b.uint32())
}

func (b *cursor) uleb() uint64 {
	v, n := binary.Uvarint(b.data)
	if n <= 0 {
		b.failed = true
		b.data = nil
		return 0
	}
	b.skip(uint64(n))
	return v
}

func (b *cursor) sleb() int64 {
	var v int64
	for shift := 0; shift < 64; shift += 7 {
		c := b.byte()
		v |= int64(c&0x7f) << shift
		if c&0x80 == 0 {
			if shift+7 < 64 && c&0x40 != 0 {
				v |= -1 << (shift + 7)
			}
			return v
		}
	}
	b.failed = true
	return 0
}

func (b *cursor) string() string {
	end := bytes.IndexByte(b.data, 0)
	if end < 0 {
		b.failed = true
		b.data = nil
		return ""
	}
	return string(b.bytes(uint64(end) + 1)[:end])
}
