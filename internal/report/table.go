package report

import (
	"cmp"
	"io"
	"slices"
	"strings"
)

// rows gives n rows by number. A row is valid until the next call.
type rows[R any] struct {
	n  int
	at func(i int) R
}

const (
	// chunk is how much is written at once.
	chunk = 64 << 10
	// lineWidth is the terminal a table tries to fit.
	lineWidth = 80
)

// writeTable writes an aligned table. It renders each row twice, to measure and to
// write: cheaper than keeping a million rows of text.
func writeTable[R any](w io.Writer, cols []column[R], rs rows[R], color bool) error {
	widths := measure(cols, rs)
	sep := 2
	if total(widths, sep) > lineWidth {
		sep = 1
	}
	l := line{widths: widths, sep: sep}
	for i, c := range cols {
		if color {
			l.paint(bold)
		}
		l.cell(i, []byte(c.title()), len(c.title()), c.right)
	}
	l.end()
	var cell []byte
	for r := range rs.n {
		row := rs.at(r)
		for i := range cols {
			c := &cols[i]
			cell = c.cell(cell[:0], row)
			if color && c.color != nil {
				l.paint(c.color(row))
			}
			l.cell(i, cell, width(cell), c.right)
		}
		l.end()
		if len(l.buf) >= chunk {
			if _, err := w.Write(l.buf); err != nil {
				return err
			}
			l.buf = l.buf[:0]
		}
	}
	_, err := w.Write(l.buf)
	return err
}

// cell is the text of a table's cell: never empty.
func (c *column[R]) cell(dst []byte, row R) []byte {
	n := len(dst)
	if dst = c.text(dst, row); len(dst) == n {
		return append(dst, '-')
	}
	return dst
}

func measure[R any](cols []column[R], rs rows[R]) []int {
	widths := make([]int, len(cols))
	for i := range cols {
		widths[i] = max(len(cols[i].title()), cols[i].width)
	}
	var cell []byte
	for r := range rs.n {
		row := rs.at(r)
		for i := range cols {
			cell = cols[i].cell(cell[:0], row)
			widths[i] = max(widths[i], width(cell))
		}
	}
	return widths
}

func total(widths []int, sep int) int {
	sum := sep * (len(widths) - 1)
	for _, w := range widths {
		sum += w
	}
	return sum
}

// line builds lines of padded cells in buf.
type line struct {
	buf    []byte
	widths []int
	sep    int
	// color is for the next cell.
	color string
}

func (l *line) paint(color string) { l.color = color }

// cell appends the text, which is wide columns wide, to column i.
func (l *line) cell(i int, text []byte, wide int, right bool) {
	pad := max(0, l.widths[i]-wide)
	if i > 0 {
		l.buf = appendSpaces(l.buf, l.sep)
	}
	if right {
		l.buf = appendSpaces(l.buf, pad)
	}
	if l.color != "" {
		l.buf = append(l.buf, l.color...)
		l.buf = append(l.buf, text...)
		l.buf = append(l.buf, reset...)
		l.color = ""
	} else {
		l.buf = append(l.buf, text...)
	}
	if !right && i < len(l.widths)-1 {
		l.buf = appendSpaces(l.buf, pad)
	}
}

func (l *line) end() { l.buf = append(l.buf, '\n') }

// sortRows returns the rows in the order of a column, equal ones as they were.
func sortRows[R any](rs rows[R], by string, all []column[R]) (rows[R], error) {
	name, descending := strings.CutPrefix(by, "-")
	cols, err := pick("sort", all, []string{name})
	if err != nil || len(cols) > 1 {
		return rs, unknownField("sort", by, name, all)
	}
	return ordered(rs, &cols[0], descending), nil
}

type sortKey struct {
	text   string
	number int64
	row    int32
	known  bool
}

func ordered[R any](rs rows[R], c *column[R], descending bool) rows[R] {
	keys := make([]sortKey, rs.n)
	for i := range keys {
		row := rs.at(i)
		keys[i].row = int32(i)
		if c.number != nil {
			keys[i].number, keys[i].known = c.number(row)
			continue
		}
		text := c.text(nil, row)
		keys[i].text, keys[i].known = string(text), len(text) > 0
	}
	slices.SortFunc(keys, func(a, b sortKey) int { return a.compare(b, descending) })
	at := rs.at
	rs.at = func(i int) R { return at(int(keys[i].row)) }
	return rs
}

// compare keeps the unknown last in either direction.
func (k sortKey) compare(o sortKey, descending bool) int {
	if k.known != o.known {
		if k.known {
			return -1
		}
		return 1
	}
	order := cmp.Or(cmp.Compare(k.number, o.number), strings.Compare(k.text, o.text))
	if descending {
		order = -order
	}
	return cmp.Or(order, cmp.Compare(k.row, o.row))
}
