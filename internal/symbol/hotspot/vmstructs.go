package hotspot

import (
	"errors"
	"fmt"
)

// Bounds of the tables. JDK 17 has 1,100 fields, 570 types and 350 constants in entries
// of 16 to 48 bytes, in less than 100 pages.
const (
	maxEntries     = 8192
	maxStride      = 128
	maxNameLength  = 256
	maxStringPages = 2048
)

// vmStructs is what a JVM says about its own structures.
type vmStructs struct {
	// fields by "Type._field".
	fields map[string]vmField
	// sizes of types in bytes.
	sizes map[string]uint64
	// ints are the integer constants.
	ints map[string]int32
}

// vmField is where a field is: at an offset in its type, or, a static one, at an address.
type vmField struct{ offset, address uint64 }

// readVMStructs reads the tables that the exports lead to. Whatever goes wrong is
// ErrStarting: a library that is being loaded has anything at these addresses, and from
// outside that looks like a broken one.
func readVMStructs(m memory, e exports) (*vmStructs, error) {
	v := &vmStructs{fields: map[string]vmField{}, sizes: map[string]uint64{}, ints: map[string]int32{}}
	p := newPages(m, maxStringPages)
	for _, t := range []vmTable{
		{
			"gHotSpotVMStructs", "gHotSpotVMStructEntry",
			[]string{"TypeName", "FieldName", "Offset", "Address"},
			func(c []uint64, first, second string) {
				v.fields[first+"."+second] = vmField{offset: c[2], address: c[3]}
			},
		},
		{
			"gHotSpotVMTypes", "gHotSpotVMTypeEntry",
			[]string{"TypeName", "SuperclassName", "Size"},
			func(c []uint64, first, _ string) { v.sizes[first] = c[2] },
		},
		{
			"gHotSpotVMIntConstants", "gHotSpotVMIntConstantEntry",
			[]string{"Name", "", "Value"},
			func(c []uint64, first, _ string) { v.ints[first] = int32(c[2]) },
		},
	} {
		if err := t.read(p, e); err != nil {
			return nil, fmt.Errorf("%w: read %s: %w", ErrStarting, t.name, err)
		}
	}
	return v, nil
}

// vmTable is one table: an array of entries that ends with one without a name.
type vmTable struct {
	// name is the variable that points to it, entry starts the names of those that give
	// the stride and the offsets of its columns.
	name, entry string
	// columns: the first two are strings ("" for a column that is not), all are 8 bytes.
	columns []string
	add     func(columns []uint64, first, second string)
}

func (t *vmTable) read(p *pages, e exports) error {
	start, err := t.variable(p, e, t.name)
	if err != nil {
		return err
	}
	stride, err := t.variable(p, e, t.entry+"ArrayStride")
	if err != nil {
		return err
	}
	if stride > maxStride || stride < pointerSize {
		return fmt.Errorf("entries of %d bytes cannot be", stride)
	}
	offsets := make([]uint64, len(t.columns))
	for i, c := range t.columns {
		if c == "" {
			continue
		}
		if offsets[i], err = t.variable(p, e, t.entry+c+"Offset"); err != nil {
			return err
		}
		if offsets[i] > stride-pointerSize {
			return fmt.Errorf("a column at byte %d of %d cannot be", offsets[i], stride)
		}
	}
	return t.entries(p, start, stride, offsets)
}

// variable reads one of the exported variables.
func (t *vmTable) variable(p *pages, e exports, name string) (uint64, error) {
	at, ok := e[name]
	if !ok {
		return 0, fmt.Errorf("%s is not exported", name)
	}
	return p.u64(at)
}

func (t *vmTable) entries(p *pages, start, stride uint64, offsets []uint64) error {
	columns := make([]uint64, len(offsets))
	for i := range uint64(maxEntries) {
		entry, err := p.read(start+i*stride, int(stride))
		if err != nil {
			return err
		}
		for c, off := range offsets {
			columns[c] = entry.u64(off)
		}
		if columns[0] == 0 {
			return nil
		}
		first, err := p.text(columns[0], maxNameLength)
		if err != nil {
			return err
		}
		second := ""
		if t.columns[1] != "" && columns[1] != 0 {
			if second, err = p.text(columns[1], maxNameLength); err != nil {
				return err
			}
		}
		t.add(columns, first, second)
	}
	return errors.New("the table has no end")
}
