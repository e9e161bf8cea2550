//go:build amd64

package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-delve/delve/pkg/dwarf/frame"
)

// Objects to read, by where Debian and its usual images have them.
var (
	libc      = []string{"/lib/x86_64-linux-gnu/libc.so.6"}
	libcrypto = []string{"/usr/lib/x86_64-linux-gnu/libcrypto.so.3"}
	bash      = []string{"/bin/bash"}
	python    = []string{"/usr/bin/python3.11", "/usr/bin/python3.1?", "/usr/bin/python3"}
	node      = []string{"/usr/bin/node", "/usr/local/bin/node", "/usr/lib/x86_64-linux-gnu/libnode.so.*"}
	libjvm    = []string{"/usr/lib/jvm/*/lib/server/libjvm.so"}
	muslLibc  = []string{"/lib/ld-musl-x86_64.so.1"}
)

func readTable(tb testing.TB, path string, rules *Rules) *Table {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	table, err := ReadFile(f, rules)
	if err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
	return table
}

func TestReadRealObjects(t *testing.T) {
	rules := NewRules()
	for _, c := range []struct {
		name     string
		patterns []string
		// rows bounds the number of rows, so that a reader that finds a part only is noticed.
		least, most int
	}{
		{"bash", bash, 10_000, 40_000},
		{"libc", libc, 15_000, 50_000},
		{"libcrypto", libcrypto, 50_000, 150_000},
		{"python", python, 30_000, 150_000},
		{"node", node, 150_000, 600_000},
		{"libjvm", libjvm, 100_000, 300_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := requireFile(t, c.patterns...)
			table := readTable(t, path, rules)
			checkTable(t, table, rules)
			t.Logf("%s: %d rows, %d bytes, %d rules so far", path, len(table.Rows), table.Bytes(), len(rules.From(0)))
			if n := len(table.Rows); n < c.least || n > c.most {
				t.Errorf("%d rows, want %d to %d", n, c.least, c.most)
			}
		})
	}
	if n := len(rules.From(0)); n > MaxRules/4 {
		t.Errorf("%d rules for a handful of objects, there is room for %d", n, MaxRules)
	}
}

// checkTable: rows ascend, change something, have rules that exist, and end.
func checkTable(tb testing.TB, table *Table, rules *Rules) {
	tb.Helper()
	known := len(rules.From(0))
	for i, r := range table.Rows {
		off, rule := uint32(r), int(r>>ruleShift)
		if rule >= known {
			tb.Fatalf("row %d, offset %#x: rule %d of %d", i, off, rule, known)
		}
		if i == 0 {
			continue
		}
		before := table.Rows[i-1]
		if off <= uint32(before) || rule == int(before>>ruleShift) {
			tb.Fatalf("row %d is %#x, row %d %#x", i-1, before, i, r)
		}
	}
	if n := len(table.Rows); n > 0 && table.Rows[n-1]>>ruleShift != 0 {
		tb.Errorf("the last row has rule %d, want the invalid one", table.Rows[n-1]>>ruleShift)
	}
	if spare := cap(table.Rows) - len(table.Rows); spare > 8+len(table.Rows)/4 {
		tb.Errorf("room for %d rows is kept, for %d", cap(table.Rows), len(table.Rows))
	}
}

func TestReadMuslLibcIsNearlyEmpty(t *testing.T) {
	table := readTable(t, requireFile(t, muslLibc...), NewRules())
	if n := len(table.Rows); n > 100 {
		t.Errorf("%d rows, and it has no tables", n)
	}
}

// TestReadGo: the rows are the same stripped, position-independent or not, and the frame
// pointer rule is the usual one.
func TestReadGo(t *testing.T) {
	for name, flags := range map[string][]string{
		"plain": nil, "stripped": {"-ldflags=-s -w"}, "pie": {"-buildmode=pie"}, "stripped-pie": {"-buildmode=pie", "-ldflags=-s -w"},
	} {
		t.Run(name, func(t *testing.T) {
			rules := NewRules()
			path := buildGo(t, flags...)
			table := readTable(t, path, rules)
			checkTable(t, table, rules)
			f, err := elf.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			text := f.Section(".text")
			pointers := coverage(table, rules, text.Offset, text.Offset+text.Size, func(r Rule) bool {
				return r.Flags == FlagCommand && r.Param == CommandFP
			})
			if pointers < 0.5 {
				t.Errorf("%.0f %% of the code has the frame pointer rule, want most", 100*pointers)
			}
			if !slices.Contains(rules.From(0), Rule{Flags: FlagCommand, Param: CommandStop}) {
				t.Error("no stop rule, where runtime.goexit has one")
			}
		})
	}
}

// coverage is the part of the bytes from start to end whose rule is wanted.
func coverage(table *Table, rules *Rules, start, end uint64, wanted func(Rule) bool) float64 {
	n := 0
	for off := start; off < end; off++ {
		if rule, ok := table.Find(uint32(off)); ok && wanted(rules.At(rule)) {
			n++
		}
	}
	return float64(n) / float64(end-start)
}

// DWARF's numbers of the registers a rule can start from (System V ABI, AMD64, 3.6.2).
var dwarfRegisters = map[uint64]uint8{
	0: RegRAX, 5: RegRDI, 6: RegFP, 7: RegSP, 8: RegR8, 9: RegR9, 11: RegR11, 13: RegR13, 15: RegR15,
}

const (
	dwarfRBP = 6
	dwarfRA  = 16
)

// TestReadAgainstDelve compares every row with what another reader of .eh_frame, delve's,
// makes of the same code. It holds at the start of the row and at its end.
func TestReadAgainstDelve(t *testing.T) {
	for _, patterns := range [][]string{libc, libcrypto, python, bash} {
		path := requireFile(t, patterns...)
		t.Run(filepath.Base(path), func(t *testing.T) {
			rules := NewRules()
			table := readTable(t, path, rules)
			o := newOracle(t, path)
			var c comparison
			for i, r := range table.Rows[:len(table.Rows)-1] {
				rule := rules.At(uint16(r >> ruleShift))
				next := uint64(uint32(table.Rows[i+1]))
				o.compare(t, &c, uint64(uint32(r)), rule, false)
				o.compare(t, &c, next-1, rule, true)
			}
			t.Logf("%d places: %d equal, %d without description, %d where delve has an expression, %d refused by us",
				2*len(table.Rows)-2, c.equal, c.none, c.expression, c.refused)
			if c.different > 0 {
				t.Errorf("%d contradictions", c.different)
			}
			if least := 2 * len(table.Rows) * 95 / 100; c.equal < least {
				t.Errorf("%d places are equal, want %d at least", c.equal, least)
			}
		})
	}
}

type comparison struct{ equal, none, expression, refused, different int }

// oracle is delve's reading of a file.
type oracle struct {
	file *elf.File
	fdes frame.FrameDescriptionEntries
}

func newOracle(t *testing.T, path string) *oracle {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	s := f.Section(ehFrame)
	data, err := s.Data()
	if err != nil {
		t.Fatal(err)
	}
	fdes, err := frame.Parse(data, binary.LittleEndian, 0, 8, s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(fdes, func(a, b *frame.FrameDescriptionEntry) int { // FDEForPC asks for it
		if a.Begin() < b.Begin() {
			return -1
		}
		return 1
	})
	return &oracle{f, fdes}
}

func (o *oracle) address(off uint64) uint64 {
	for _, p := range o.file.Progs {
		if p.Type == elf.PT_LOAD && off >= p.Off && off < p.Off+p.Filesz {
			return off - p.Off + p.Vaddr
		}
	}
	return 0
}

func (o *oracle) compare(t *testing.T, c *comparison, off uint64, rule Rule, maybePadding bool) {
	t.Helper()
	pc := o.address(off)
	fde, err := o.fdes.FDEForPC(pc)
	if err != nil {
		if c.none++; !maybePadding && rule != ruleInvalid {
			t.Errorf("%#x: rule %+v, and delve has no description", pc, rule)
			c.different++
		}
		return
	}
	want, err := fde.EstablishFrame(pc)
	if err != nil {
		t.Fatalf("%#x: delve: %v", pc, err)
	}
	ra, hasRA := want.Regs[dwarfRA]
	switch {
	case hasRA && ra.Rule == frame.RuleUndefined:
		if (rule != Rule{Flags: FlagCommand, Param: CommandStop}) {
			t.Errorf("%#x: rule %+v, and delve knows no return address", pc, rule)
			c.different++
			return
		}
		c.equal++
	case rule.Flags&FlagCommand != 0 && rule.Param == CommandStop:
		t.Errorf("%#x: stop, delve: CFA %+v, return address %+v", pc, want.CFA, ra)
		c.different++
	case rule == ruleInvalid:
		c.refused++
	case want.CFA.Rule == frame.RuleExpression:
		c.expression++
	default:
		compareCFA(t, c, pc, rule, want)
	}
}

func compareCFA(t *testing.T, c *comparison, pc uint64, rule Rule, want *frame.FrameContext) {
	t.Helper()
	same := want.CFA.Rule == frame.RuleCFA && rule.Flags&(FlagCommand|FlagDeref) == 0 &&
		rule.Base == dwarfRegisters[want.CFA.Reg] && int64(rule.Param) == want.CFA.Offset
	if rbp := want.Regs[dwarfRBP]; rbp.Rule == frame.RuleOffset && rule.Flags&FlagRegisterRA == 0 {
		// A saved value below the stack pointer is one that was restored already.
		dead := rule.Base == RegSP && rbp.Offset < -want.CFA.Offset
		same = same && (dead && rule.Aux == RegNone || rule.Aux == RegCFA && int64(rule.AuxParam) == rbp.Offset)
	}
	if !same {
		t.Errorf("%#x: rule %+v, delve: CFA %+v, rbp %+v", pc, rule, want.CFA, want.Regs[dwarfRBP])
		c.different++
		return
	}
	c.equal++
}

func TestReadRefuses(t *testing.T) {
	whole, err := os.ReadFile(requireFile(t, bash...))
	if err != nil {
		t.Fatal(err)
	}
	patch := func(off int, b ...byte) []byte {
		p := slices.Clone(whole)
		copy(p[off:], b)
		return p
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "read ELF header"},
		{"text", bytes.Repeat([]byte("#!/bin/sh\n"), 20), "not an ELF file"},
		{"32 bits", patch(elf.EI_CLASS, byte(elf.ELFCLASS32)), "not for x86-64"},
		{"big endian", patch(elf.EI_DATA, byte(elf.ELFDATA2MSB)), "not for x86-64"},
		{"arm64", patch(18, byte(elf.EM_AARCH64), 0), "not for x86-64"},
		{"cut", whole[:len(whole)/2], "EOF"},
		{"program headers outside", patch(32, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "read program headers"},
		{"many program headers", patch(56, 0xff, 0xff), "over the limit of 128"},
		{"many sections", patch(60, 0xff, 0xff), "over the limit of 8192"},
	} {
		table, err := Read(bytes.NewReader(c.data), int64(len(c.data)), NewRules())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v, want %q", c.name, table, err, c.want)
		}
	}
	if _, err := Read(bytes.NewReader(whole), maxFileSize+1, NewRules()); !errors.Is(err, ErrLimit) {
		t.Errorf("huge file: %v, want %v", err, ErrLimit)
	}
}

// TestReadSectionLimits: sections larger than the limits are refused by what their header
// says, before anything is allocated for them.
func TestReadSectionLimits(t *testing.T) {
	for _, c := range []struct {
		section string
		size    uint64
	}{{ehFrame, maxFrameSection + 1}, {ehFrame, 1 << 63}, {ehFrame, ^uint64(0)}} {
		data := withSectionSize(t, requireFile(t, bash...), c.section, c.size)
		_, err := Read(bytes.NewReader(data), int64(len(data)), NewRules())
		if !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), c.section) {
			t.Errorf("%s of %#x bytes: %v, want %v", c.section, c.size, err, ErrLimit)
		}
	}
}

// withSectionSize returns the file with another size in a section header.
func withSectionSize(t *testing.T, path, name string, size uint64) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	const headerSize, sizeAt, shoffAt = 64, 32, 40
	i := slices.IndexFunc(f.Sections, func(s *elf.Section) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("%s has no %s", path, name)
	}
	shoff := int(binary.LittleEndian.Uint64(data[shoffAt:]))
	binary.LittleEndian.PutUint64(data[shoff+headerSize*i+sizeAt:], size)
	return data
}

// TestReadWithoutSections: programs run without section headers, and their tables are
// found without.
func TestReadWithoutSections(t *testing.T) {
	path := requireFile(t, bash...)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const shnumAt = 60
	binary.LittleEndian.PutUint16(data[shnumAt:], 0)
	rules := NewRules()
	table, err := Read(bytes.NewReader(data), int64(len(data)), rules)
	if err != nil {
		t.Fatal(err)
	}
	if want := readTable(t, path, rules); !slices.Equal(table.Rows, want.Rows) {
		t.Errorf("%d rows, with section headers %d", len(table.Rows), len(want.Rows))
	}
}

// TestReadFullRules: when the list of rules is full, rows that need others are invalid and
// counted, and the rest is as it should be.
func TestReadFullRules(t *testing.T) {
	path := requireFile(t, bash...)
	rules := NewRules()
	for i := range MaxRules - 3 {
		if _, err := rules.Intern(Rule{Base: RegR15, Param: int32(i)}); err != nil {
			t.Fatal(err)
		}
	}
	table := readTable(t, path, rules)
	checkTable(t, table, rules)
	if table.Dropped == 0 || len(table.Rows) < 100 {
		t.Errorf("%d rows, %d dropped", len(table.Rows), table.Dropped)
	}
	full := NewRules()
	want := readTable(t, path, full)
	for _, r := range table.Rows {
		off := uint32(r)
		rule, _ := want.Find(off)
		if got := rules.At(uint16(r >> ruleShift)); got != ruleInvalid && got != full.At(rule) {
			t.Fatalf("%#x: rule %+v, want %+v or none", off, got, full.At(rule))
		}
	}
}

func TestReadFileWantsAFile(t *testing.T) {
	f, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := ReadFile(f, NewRules()); err == nil {
		t.Error("a directory has a table")
	}
}
