package unwind

import (
	"slices"
	"testing"
)

func row(off uint64, rule uint16) uint64 { return off | uint64(rule)<<ruleShift }

func TestMakeTable(t *testing.T) {
	for _, c := range []struct {
		name   string
		blocks []block
		want   []uint64
	}{
		{"none", nil, nil},
		{"one", []block{{100, 120, []change{{0, 1}, {4, 2}}}}, []uint64{row(100, 1), row(104, 2), row(120, 0)}},
		{
			"padding belongs to the function before",
			[]block{{100, 120, []change{{0, 1}}}, {135, 140, []change{{0, 2}}}},
			[]uint64{row(100, 1), row(135, 2), row(140, 0)},
		},
		{
			"a gap is invalid",
			[]block{{100, 120, []change{{0, 1}}}, {136, 140, []change{{0, 2}}}},
			[]uint64{row(100, 1), row(120, 0), row(136, 2), row(140, 0)},
		},
		{
			"equal rules are one row",
			[]block{{100, 120, []change{{0, 1}, {5, 1}}}, {120, 140, []change{{0, 1}, {3, 2}}}},
			[]uint64{row(100, 1), row(123, 2), row(140, 0)},
		},
		{
			"any order",
			[]block{{120, 140, []change{{0, 2}}}, {100, 120, []change{{0, 1}}}},
			[]uint64{row(100, 1), row(120, 2), row(140, 0)},
		},
		{
			"twice the same: the first given",
			[]block{{100, 120, []change{{0, 1}, {4, 2}}}, {100, 120, []change{{0, 3}}}},
			[]uint64{row(100, 1), row(104, 2), row(120, 0)},
		},
		{
			"overlap: the rest with what holds there",
			[]block{{100, 120, []change{{0, 1}}}, {110, 140, []change{{0, 2}, {5, 3}, {25, 4}}}},
			[]uint64{row(100, 1), row(120, 3), row(135, 4), row(140, 0)},
		},
		{
			"the last at an offset holds, and it may undo a change",
			[]block{{100, 120, []change{{0, 1}, {4, 2}, {4, 3}, {8, 4}, {8, 3}}}},
			[]uint64{row(100, 1), row(104, 3), row(120, 0)},
		},
		{
			"rows that go back or leave the block",
			[]block{{100, 120, []change{{0, 1}, {8, 2}, {4, 3}, {20, 4}}}},
			[]uint64{row(100, 1), row(108, 2), row(120, 0)},
		},
		{"empty blocks", []block{{100, 100, []change{{0, 1}}}, {120, 90, []change{{0, 1}}}, {90, 95, nil}}, nil},
	} {
		table, err := makeTable(c.blocks)
		if err != nil || !slices.Equal(table.Rows, c.want) {
			t.Errorf("%s: %x, %v, want %x", c.name, table.Rows, err, c.want)
		}
	}
}

func TestTableFind(t *testing.T) {
	table := &Table{Rows: []uint64{row(100, 1), row(110, 2), row(120, 0)}}
	for _, c := range []struct {
		off  uint32
		rule uint16
		ok   bool
	}{{0, 0, false}, {99, 0, false}, {100, 1, true}, {109, 1, true}, {110, 2, true}, {119, 2, true}, {120, 0, true}, {1 << 31, 0, true}} {
		if rule, ok := table.Find(c.off); rule != c.rule || ok != c.ok {
			t.Errorf("offset %d: rule %d, %v, want %d, %v", c.off, rule, ok, c.rule, c.ok)
		}
	}
	if _, ok := new(Table).Find(5); ok {
		t.Error("an empty table knows a rule")
	}
}
