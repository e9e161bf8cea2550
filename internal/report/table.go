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
	titles(&l, cols, color)
	for r := range rs.n {
		cells(&l, cols, rs.at(r), color)
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

// line builds lines of padded cells in buf. The text of a cell is appended to buf between
// open and close.
type line struct {
	buf    []byte
	widths []int
	sep    int
	// start is where the open cell begins, text where its text does: after the color.
	start, text int
}

// open begins the cell of column i, in a color or "".
func (l *line) open(i int, color string) {
	if i > 0 {
		l.buf = appendSpaces(l.buf, l.sep)
	}
	l.start = len(l.buf)
	l.buf = append(l.buf, color...)
	l.text = len(l.buf)
}

// close ends the cell of column i. The column widens when the text does not fit.
func (l *line) close(i int, right bool) {
	wide := width(l.buf[l.text:])
	pad := l.widths[i] - wide
	if l.text > l.start {
		l.buf = append(l.buf, reset...)
	}
	switch {
	case pad <= 0:
		l.widths[i] = wide
	case right:
		l.buf = appendSpaces(l.buf, pad)
		copy(l.buf[l.start+pad:], l.buf[l.start:])
		appendSpaces(l.buf[:l.start], pad)
	case i < len(l.widths)-1:
		l.buf = appendSpaces(l.buf, pad)
	}
}

// titles appends the header.
func titles[R any](l *line, cols []column[R], color bool) {
	paint := ""
	if color {
		paint = bold
	}
	for i := range cols {
		l.open(i, paint)
		l.buf = append(l.buf, cols[i].title()...)
		l.close(i, cols[i].right)
	}
	l.end()
}

// cells appends a row.
func cells[R any](l *line, cols []column[R], row R, color bool) {
	for i := range cols {
		c := &cols[i]
		if color && c.color != nil {
			l.open(i, c.color(row))
		} else {
			l.open(i, "")
		}
		l.buf = c.cell(l.buf, row)
		l.close(i, c.right)
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
