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
	for i, c := range cols {
		if color {
			l.paint(bold)
		}
		l.cell(i, []byte(c.title()), len(c.title()), c.right)
	}
	l.end()
	for range rs.n {
		for i := range cols {
			text, wide, paint := body.next()
			if paint != "" {
				l.paint(paint)
			}
			l.cell(i, text, wide, cols[i].right)
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
// Each has before it its length, its width and its colour.
type rendered struct {
	colored bool
	colors  []string
	pieces  [][]byte
	cell    []byte
	// at is where the next cell is, in the first piece.
	at int
}

// maxHeader is two varints and the number of a colour: 1 + an index, 0 none.
const maxHeader = 2*binary.MaxVarintLen32 + 1

// renderCell adds a cell and returns its width.
func renderCell[R any](to *rendered, c *column[R], row R) int {
	to.cell = c.cell(to.cell[:0], row)
	wide := width(to.cell)
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
	p = binary.AppendUvarint(p, uint64(wide))
	to.pieces[last] = append(append(p, color), to.cell...)
	return wide
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
func (r *rendered) next() (text []byte, wide int, color string) {
	if r.at == len(r.pieces[0]) {
		r.pieces, r.at = r.pieces[1:], 0
	}
	p := r.pieces[0]
	n, size := binary.Uvarint(p[r.at:])
	r.at += size
	columns, size := binary.Uvarint(p[r.at:])
	r.at += size
	if i := p[r.at]; i > 0 {
		color = r.colors[i-1]
	}
	from := r.at + 1
	r.at = from + int(n)
	return p[from:r.at], int(columns), color
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
