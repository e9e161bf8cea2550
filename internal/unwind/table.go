package unwind

import (
	"slices"
	"sort"
	"unsafe"
)

// Table is the unwind table of one file.
type Table struct {
	// Rows are ascending by file offset, each uint64(offset) | uint64(rule)<<32, as on the
	// kernel side. A rule holds from its offset to that of the next row. The owner may set
	// Rows to nil once they are no longer needed.
	Rows []uint64
	// Dropped is how many rows have the invalid rule in place of their own, because the
	// list of rules was full.
	Dropped int
}

// ruleShift is where the rule's number starts in a row.
const ruleShift = 32

// Find returns the rule for the code at the file offset off. It is false if the table
// says nothing of it: it is empty, or off is before its first row.
func (t *Table) Find(off uint32) (rule uint16, ok bool) {
	i := sort.Search(len(t.Rows), func(i int) bool { return uint32(t.Rows[i]) > off })
	if i == 0 {
		return 0, false
	}
	return uint16(t.Rows[i-1] >> ruleShift), true
}

// Bytes is the memory the table takes.
func (t *Table) Bytes() int {
	return int(unsafe.Sizeof(*t)) + 8*cap(t.Rows)
}

// block is code with rows of its own, a function mostly: file offsets.
type block struct {
	start, end uint64
	rows       []change
}

// change is one rule, from an offset after the start of the block on.
type change struct {
	offset uint32
	rule   uint16
}

// minGap is how many bytes between two functions are taken for padding, and belong to
// the one before.
const minGap = 15

// makeTable joins blocks to a table. They may come in any order and may overlap: where
// they do, the one that starts first has its way, then the first given.
func makeTable(blocks []block) (*Table, error) {
	slices.SortStableFunc(blocks, func(a, b block) int {
		switch {
		case a.start < b.start:
			return -1
		case a.start > b.start:
			return 1
		}
		return 0
	})
	most := 1
	for _, bl := range blocks {
		most += len(bl.rows) + 1
	}
	b := builder{rows: make([]uint64, 0, min(most, maxRows))}
	for _, bl := range blocks {
		if err := b.add(bl); err != nil {
			return nil, err
		}
	}
	if err := b.close(); err != nil {
		return nil, err
	}
	return &Table{Rows: slices.Clone(b.rows)}, nil // with no more room than rows
}

type builder struct {
	rows []uint64
	// end is where the last block ended.
	end uint64
}

func (b *builder) add(bl block) error {
	from := max(bl.start, b.end)
	if from >= bl.end || len(bl.rows) == 0 {
		return nil
	}
	if len(b.rows) > 0 && bl.start > b.end+minGap {
		if err := b.row(b.end, 0); err != nil {
			return err
		}
	}
	at := bl.start
	for _, c := range bl.rows {
		off := bl.start + uint64(c.offset)
		// Rows that go back or leave the block are foreign mistakes.
		if off < at || off >= bl.end {
			continue
		}
		at = off
		if err := b.row(max(off, from), c.rule); err != nil {
			return err
		}
	}
	b.end = bl.end
	return nil
}

// close ends the last block.
func (b *builder) close() error {
	if len(b.rows) == 0 {
		return nil
	}
	return b.row(b.end, 0)
}

// row appends a row. The last of several at one offset holds, and a row that changes
// nothing is left out.
func (b *builder) row(off uint64, rule uint16) error {
	if n := len(b.rows); n > 0 && uint64(uint32(b.rows[n-1])) == off {
		b.rows = b.rows[:n-1]
	}
	if n := len(b.rows); n > 0 && uint16(b.rows[n-1]>>ruleShift) == rule {
		return nil
	}
	if off > maxFileSize {
		return nil // code beyond the largest offset is beyond the largest file
	}
	if len(b.rows) >= maxRows {
		return limit("rows", maxRows)
	}
	b.rows = append(b.rows, off|uint64(rule)<<ruleShift)
	return nil
}
