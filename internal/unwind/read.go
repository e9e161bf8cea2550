package unwind

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"

	"go.opentelemetry.io/ebpf-profiler/libpf/pfelf"
	"go.opentelemetry.io/ebpf-profiler/nativeunwind/elfunwindinfo"
	"go.opentelemetry.io/ebpf-profiler/nativeunwind/stackdeltatypes"
)

// Read builds the unwind table of an ELF file for x86-64 from .eh_frame, .debug_frame and,
// of Go programs, .gopclntab. A file that has none of them (musl's libc) gets an empty table
// and no error. A file that is not such an ELF file, is broken or has more of something than we
// are ready to work on (ErrLimit) gets an error that says so.
//
// Rules that the file needs are added to rules. It allocates 140 MB on the way to the 10 MB
// of a table with 1.2 million rows, a hostile file can make that 300 MB: do not run many at
// once.
func Read(r io.ReaderAt, size int64, rules *Rules) (*Table, error) {
	im, err := readImage(r, size)
	if err != nil {
		return nil, err
	}
	found, err := extractTables(im)
	if err != nil {
		return nil, fmt.Errorf("read unwind tables: %w", err)
	}
	c := converter{image: im, rules: rules, number: map[stackdeltatypes.UnwindInfo]uint16{}}
	blocks, err := c.blocks(found)
	if err != nil {
		return nil, fmt.Errorf("convert unwind tables: %w", err)
	}
	if stop, err := c.rule(stackdeltatypes.UnwindInfoStop); err == nil {
		if b, ok := entryBlock(im, stop); ok && !covered(blocks, b.start) {
			blocks = append(blocks, b)
		}
	}
	t, err := makeTable(blocks)
	if err != nil {
		return nil, fmt.Errorf("build unwind table: %w", err)
	}
	t.Dropped = c.dropped
	return t, nil
}

// ReadFile is Read of a whole open file.
func ReadFile(f *os.File, rules *Rules) (*Table, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read unwind tables: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read unwind tables: %s is not a regular file", info.Name())
	}
	return Read(f, info.Size(), rules)
}

// Section names.
const (
	ehFrame    = ".eh_frame"
	debugFrame = ".debug_frame"
	pclntab    = ".gopclntab"
	// pclntabPIE is what position-independent programs call it.
	pclntabPIE = ".data.rel.ro.gopclntab"
	// goModule tells the library where the code starts.
	goModule = ".go.module"
)

// extractTables runs the library over what is sound in the file.
func extractTables(im *image) (*stackdeltatypes.IntervalData, error) {
	progs := append([]elf.Prog64(nil), im.loads...)
	// The name in .dynamic decides which hand-written assembly code is understood.
	if d := im.dynamic; d != nil && d.Filesz <= maxDynamic {
		progs = append(progs, *d)
	}
	if len(progs) == 0 {
		return &stackdeltatypes.IntervalData{}, nil
	}
	frames, err := frameSections(im)
	if err != nil {
		return nil, err
	}
	if _, ok := im.sections[ehFrame]; !ok && im.ehHeader != nil {
		// Without section headers the tables end where their segment does.
		for _, p := range im.loads {
			if p.Filesz > maxFrameSection {
				return nil, fmt.Errorf("%s without section header: %w", ehFrame, limit("size in bytes", maxFrameSection))
			}
		}
		progs = append(progs, *im.ehHeader)
	}
	golang, err := goSections(im)
	if err != nil {
		return nil, err
	}
	found, err := extract(newView(im, progs, append(golang, frames...)))
	if err != nil && golang != nil {
		// A Go version the library does not know: the C code in it is still of use.
		found, err = extract(newView(im, progs, frames))
	}
	return found, err
}

// frameSections returns the sections with DWARF's tables.
func frameSections(im *image) ([]namedSection, error) {
	var found []namedSection
	for _, name := range []string{ehFrame, debugFrame} {
		s, ok := im.sections[name]
		if !ok {
			continue
		}
		if err := im.check(s, maxFrameSection); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		found = append(found, namedSection{name, s})
	}
	return found, nil
}

// goSections returns the sections with Go's tables.
func goSections(im *image) ([]namedSection, error) {
	s, ok := im.sections[pclntab]
	if !ok {
		s, ok = im.sections[pclntabPIE]
	}
	if !ok {
		return nil, nil
	}
	data, err := im.bytes(s, maxPclntab)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pclntab, err)
	}
	if err := checkPclntab(data); err != nil {
		if errors.Is(err, ErrLimit) {
			return nil, fmt.Errorf("%s: %w", pclntab, err)
		}
		return nil, nil // not one the library could read
	}
	found := []namedSection{{pclntab, s}}
	if m, ok := im.sections[goModule]; ok {
		found = append(found, namedSection{goModule, m})
	}
	return found, nil
}

// noFiles keeps the library from opening debug files by name: the name comes from a
// foreign file and would be looked up in our own file system.
type noFiles struct{}

func (noFiles) OpenELF(string) (*pfelf.File, error) { return nil, os.ErrNotExist }

// extract runs the library.
func extract(v *view) (found *stackdeltatypes.IntervalData, err error) {
	// The library indexes and slices by numbers from the file without checking them all.
	// Such a panic says that the file is broken; the library keeps no state.
	defer func() {
		if p := recover(); p != nil {
			found, err = nil, fmt.Errorf("extract: %v", p)
		}
	}()
	// A view and not the file: a mapped file that somebody truncates is a SIGBUS.
	open := func() (*pfelf.File, error) { return pfelf.NewFile(v, 0, false) }
	ref := pfelf.NewReferenceWithOpenFunc("", noFiles{}, open)
	defer ref.Close()
	found, err = elfunwindinfo.ExtractELF(ref)
	if err != nil {
		return nil, fmt.Errorf("extract: %w", err)
	}
	return found, nil
}

// converter makes file offsets of addresses, and numbers of rules.
type converter struct {
	image   *image
	rules   *Rules
	number  map[stackdeltatypes.UnwindInfo]uint16
	dropped int
}

func (c *converter) blocks(found *stackdeltatypes.IntervalData) ([]block, error) {
	total := 0
	for _, b := range found.Blocks {
		total += len(b.Deltas)
	}
	if total > maxRows {
		return nil, limit("rows", maxRows)
	}
	blocks := make([]block, 0, len(found.Blocks))
	changes := make([]change, 0, total) // of all blocks, so that there are few allocations
	for _, b := range found.Blocks {
		start, end, ok := c.image.code(b.Start, b.End)
		if !ok {
			continue
		}
		first := len(changes)
		for _, d := range b.Deltas {
			rule, err := c.rule(d.Info)
			if err != nil {
				return nil, err
			}
			changes = append(changes, change{d.Offset, rule})
		}
		blocks = append(blocks, block{start, end, changes[first:len(changes):len(changes)]})
	}
	return blocks, nil
}

// rule returns the number of a rule. Where the list is full it is the invalid one: the
// walk ends there and says so.
func (c *converter) rule(info stackdeltatypes.UnwindInfo) (uint16, error) {
	if n, ok := c.number[info]; ok {
		return n, nil
	}
	if len(c.number) >= maxFileRules {
		return 0, limit("different rules", maxFileRules)
	}
	n, ok := c.intern(Rule{
		Flags: info.Flags, Base: info.BaseReg, Aux: info.AuxBaseReg, Param: info.Param, AuxParam: info.AuxParam,
	})
	if ok {
		c.number[info] = n
	} else {
		c.dropped++ // for every row, that is why the rule is not remembered
	}
	return n, nil
}

// intern is false, and the number that of the invalid rule, if the list is full.
func (c *converter) intern(rule Rule) (uint16, bool) {
	n, err := c.rules.Intern(rule)
	return n, err == nil
}
