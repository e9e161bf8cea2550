package report

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"
)

// document is a record with a list of rows in it (processes, groups, checks), small
// enough for reflection.
type document[D, R any] struct {
	o Options
	// list is the JSON name of the rows.
	list string
	all  []column[*R]
	cols []column[*R]
	pick selection
}

// newDocument checks the options; the error is an *OptionError.
func newDocument[D, R any](o Options, list string) (*document[D, R], error) {
	d := &document[D, R]{o: o, list: list}
	for _, l := range leavesOf[R]() {
		c := leafColumn(l, func(r *R) reflect.Value { return reflect.ValueOf(r) })
		d.all = append(d.all, c)
		if !l.extra {
			d.cols = append(d.cols, c)
		}
	}
	if len(o.Fields) > 0 {
		var err error
		if d.cols, err = pick("fields", d.all, o.Fields); err != nil {
			return nil, err
		}
		d.pick = selectRows[D](list, selectPaths(o.Fields))
	}
	if o.Sort == "" {
		return d, nil
	}
	_, err := sortRows(rows[*R]{}, o.Sort, d.all)
	return d, err
}

// sorted returns the rows in the order asked for.
func (d *document[D, R]) sorted(list []R) ([]R, error) {
	if d.o.Sort == "" {
		return list, nil
	}
	rs, err := sortRows(rowsOf(list), d.o.Sort, d.all)
	if err != nil {
		return nil, err
	}
	out := make([]R, 0, len(list))
	for row := range rs.all() {
		out = append(out, *row)
	}
	return out, nil
}

func rowsOf[R any](list []R) rows[*R] {
	return rows[*R]{n: len(list), get: func(i int) *R { return &list[i] }}
}

// writeRows writes the rows alone, as CSV or as a table.
func (d *document[D, R]) writeRows(w io.Writer, list []R) error {
	if d.o.Format == CSV {
		return writeCSV(w, d.cols, rowsOf(list))
	}
	return writeTable(w, d.cols, rowsOf(list), d.o.Color)
}

// writeJSON writes the whole document: indented, or on one line for JSONL.
func (d *document[D, R]) writeJSON(w io.Writer, doc *D) error {
	text, err := d.pick.marshal(doc)
	if err != nil {
		return err
	}
	if d.o.Format == JSON {
		var out bytes.Buffer
		if err := json.Indent(&out, text, "", "  "); err != nil {
			return err
		}
		text = out.Bytes()
	}
	_, err = w.Write(append(text, '\n'))
	return err
}
