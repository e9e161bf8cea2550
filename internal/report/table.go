package report

import (
	"cmp"
	"encoding/binary"
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

// writeTable writes an aligned table. It renders each row once, and keeps the text until it
// knows how wide the columns are: 80 bytes a row.
func writeTable[R any](w io.Writer, cols []column[R], rs rows[R], color bool) error {
	l := line{widths: make([]int, len(cols)), sep: 2}
	for i := range cols {
		l.widths[i] = max(len(cols[i].title()), cols[i].width)
	}
	body := rendered{colored: color}
	for r := range rs.n {
		row := rs.at(r)
		for i := range cols {
			l.widths[i] = max(l.widths[i], renderCell(&body, &cols[i], row))
		}
	}
	if total(l.widths, l.sep) > lineWidth {
		l.sep = 1
	}
	titles(&l, cols, color)
	for range rs.n {
		for i := range cols {
			text, paint := body.next()
			l.open(i, paint)
			l.buf = append(l.buf, text...)
			l.close(i, cols[i].right)
		}
		l.end()
		var err error
		if l.buf, err = spill(w, l.buf, chunk); err != nil {
			return err
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

// rendered are the cells of a table, row after row, in pieces so that growing copies nothing.
// Each has before it its length and its colour.
type rendered struct {
	colored bool
	colors  []string
	pieces  [][]byte
	cell    []byte
	// at is where the next cell is, in the first piece.
	at int
}

// maxHeader is a varint and the number of a colour: 1 + an index, 0 none.
const maxHeader = binary.MaxVarintLen32 + 1

// renderCell adds a cell and returns its width.
func renderCell[R any](to *rendered, c *column[R], row R) int {
	to.cell = c.cell(to.cell[:0], row)
	var color byte
	if to.colored && c.color != nil {
		color = to.colorOf(c.color(row))
	}
	last := len(to.pieces) - 1
	if last < 0 || len(to.pieces[last])+maxHeader+len(to.cell) > cap(to.pieces[last]) {
		to.pieces = append(to.pieces, make([]byte, 0, max(chunk, maxHeader+len(to.cell))))
		last++
	}
	p := binary.AppendUvarint(to.pieces[last], uint64(len(to.cell)))
	to.pieces[last] = append(append(p, color), to.cell...)
	return width(to.cell)
}

func (r *rendered) colorOf(escape string) byte {
	if escape == "" {
		return 0
	}
	i := slices.Index(r.colors, escape)
	if i < 0 {
		i = len(r.colors)
		r.colors = append(r.colors, escape)
	}
	return byte(i + 1)
}

// next takes the next cell out.
func (r *rendered) next() (text []byte, color string) {
	if r.at == len(r.pieces[0]) {
		r.pieces, r.at = r.pieces[1:], 0
	}
	p := r.pieces[0]
	n, size := binary.Uvarint(p[r.at:])
	r.at += size
	if i := p[r.at]; i > 0 {
		color = r.colors[i-1]
	}
	from := r.at + 1
	r.at = from + int(n)
	return p[from:r.at], color
}

// measure returns how wide the columns are.
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

func ordered[R any](rs rows[R], c *column[R], descending bool) rows[R] {
	if c.number != nil {
		return byNumber(rs, func(i int) (int64, bool) { return c.number(rs.at(i)) }, descending)
	}
	type key struct {
		text string
		row  int32
	}
	keys := make([]key, rs.n)
	for i := range keys {
		keys[i] = key{string(c.text(nil, rs.at(i))), int32(i)}
	}
	slices.SortFunc(keys, func(a, b key) int {
		return inOrder(a.text, b.text, a.text != "", b.text != "", a.row, b.row, descending)
	})
	at := rs.at
	rs.at = func(i int) R { return at(int(keys[i].row)) }
	return rs
}

// byNumber orders rows by numbers, which may be unknown.
func byNumber[R any](rs rows[R], number func(i int) (int64, bool), descending bool) rows[R] {
	type key struct {
		number int64
		row    int32
		known  bool
	}
	keys := make([]key, rs.n)
	for i := range keys {
		n, known := number(i)
		keys[i] = key{n, int32(i), known}
	}
	slices.SortFunc(keys, func(a, b key) int {
		return inOrder(a.number, b.number, a.known, b.known, a.row, b.row, descending)
	})
	at := rs.at
	rs.at = func(i int) R { return at(int(keys[i].row)) }
	return rs
}

// inOrder keeps the unknown last in either direction, and equal ones as they were.
func inOrder[K cmp.Ordered](a, b K, aKnown, bKnown bool, aRow, bRow int32, descending bool) int {
	switch {
	case aKnown != bKnown && aKnown:
		return -1
	case aKnown != bKnown:
		return 1
	case a == b:
		return cmp.Compare(aRow, bRow)
	case (a < b) != descending:
		return -1
	default:
		return 1
	}
}
