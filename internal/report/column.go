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
			return nil, unknownField(flag, name, all)
		}
	}
	return chosen, nil
}

func unknownField[R any](flag, name string, all []column[R]) error {
	valid := make([]string, 0, len(all))
	for _, c := range all {
		valid = append(valid, c.name)
	}
	return &OptionError{flag, name, "one of " + strings.Join(valid, ", ")}
}
