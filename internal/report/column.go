package report

import (
	"slices"
	"strings"
)

// column is one column of rows of type R. Columns append text and never allocate, so
// that a million rows are cheap.
type column[R any] struct {
	// name is what --fields and --sort call it: the path in the record, or a word of
	// its own for what only tables and CSV show.
	name   string
	header string
	right  bool
	// width is where a stream starts; it widens as needed.
	width int
	// text appends the cell; nothing means unknown.
	text func(dst []byte, r R) []byte
	// number is the order of numeric columns; nil: by text. Unknown sorts last.
	number func(r R) (int64, bool)
	// color returns an escape sequence or "".
	color func(r R) string
}

// title is the column's heading in a table.
func (c *column[R]) title() string {
	if c.header != "" {
		return c.header
	}
	return strings.ToUpper(c.name)
}

// override adds columns to those of the record; one with the name of a field takes its
// place.
func override[R any](all, by []column[R]) []column[R] {
	for _, c := range by {
		if i := slices.IndexFunc(all, func(o column[R]) bool { return o.name == c.name }); i >= 0 {
			all[i] = c
		} else {
			all = append(all, c)
		}
	}
	return all
}

// choose returns the columns named by the user, under the names used, or else those
// of the default.
func choose[R any](all []column[R], fields, byDefault []string) ([]column[R], error) {
	if len(fields) == 0 {
		return pick("fields", all, byDefault)
	}
	cols, err := pick("fields", all, fields)
	for i := range cols {
		cols[i].header = ""
	}
	return cols, err
}

// pick finds the columns named, in that order. A name may stand for all names below
// it (owner for owner.pid, owner.comm, ...).
func pick[R any](flag string, all []column[R], names []string) ([]column[R], error) {
	var chosen []column[R]
	for _, name := range names {
		before := len(chosen)
		for _, c := range all {
			if c.name == name || strings.HasPrefix(c.name, name+".") {
				chosen = append(chosen, c)
			}
		}
		if len(chosen) == before {
			return nil, unknownField(flag, name, name, all)
		}
	}
	return chosen, nil
}

// unknownField says what there is, what looks like name first.
func unknownField[R any](flag, value, name string, all []column[R]) error {
	valid := columnNames(all)
	want := "one of " + strings.Join(valid, ", ")
	if near := nearest(name, valid); len(near) > 0 {
		want = strings.Join(near, " or ") + ", or else " + want
	}
	return &OptionError{flag, value, want}
}

func columnNames[R any](cols []column[R]) []string {
	names := make([]string, 0, len(cols))
	for _, c := range cols {
		names = append(names, c.name)
	}
	return names
}

// maxNear is how many names are suggested for a mistyped one.
const maxNear = 3

// nearest returns the names that look like the one given, the most similar first. The
// last part of a path counts as its name too: pid is like owner.pid.
func nearest(name string, valid []string) []string {
	name = strings.ToLower(strings.ReplaceAll(name, "-", "_"))
	if len(name) < 2 {
		return nil
	}
	type match struct {
		name     string
		distance int
	}
	var found []match
	for _, v := range valid {
		full := strings.ToLower(v)
		d := min(distance(name, full), distance(name, full[strings.LastIndexByte(full, '.')+1:]))
		if len(name) > 2 && strings.Contains(full, name) {
			d = min(d, 1)
		}
		if d <= max(1, len(name)/4) {
			found = append(found, match{v, d})
		}
	}
	slices.SortStableFunc(found, func(a, b match) int { return a.distance - b.distance })
	var near []string
	for _, m := range found[:min(len(found), maxNear)] {
		near = append(near, m.name)
	}
	return near
}

// distance is the number of characters to add, drop or change (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
