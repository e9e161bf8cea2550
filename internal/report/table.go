package report

import (
	"cmp"
	"encoding/binary"
	"io"
	"iter"
	"slices"
	"strings"
)

// rows are n rows, in an order. A row is valid until the next call.
type rows[R any] struct {
	n   int
	get func(i int) R
	// order returns for each place the number that get knows its row by, nil if that is the same.
	// It may be found meanwhile, and is asked for once.
	order func() []int32
}

// all goes through the rows in their order.
func (rs rows[R]) all() iter.Seq[R] {
	return func(yield func(R) bool) {
		for _, i := range rs.numbers() {
			if !yield(rs.get(int(i))) {
				return
			}
		}
	}
}

// numbers are those of the rows, in their order.
func (rs rows[R]) numbers() []int32 {
	if rs.order != nil {
		return rs.order()
	}
	all := make([]int32, rs.n)
	for i := range all {
		all[i] = int32(i)
	}
	return all
}

const (
	// chunk is how much is written at once.
	chunk = 64 << 10
	// lineWidth is the terminal a table tries to fit.
	lineWidth = 80
)

// writeTable writes an aligned table. It renders each row once, and keeps the text until it
// knows how wide the columns are: 80 bytes a row. It goes through the rows as they lie in memory,
// and takes their texts in the order wanted.
func writeTable[R any](w io.Writer, cols []column[R], rs rows[R], color bool) error {
	l := line{widths: make([]int, len(cols)), sep: 2}
	for i := range cols {
		l.widths[i] = max(len(cols[i].title()), cols[i].width)
	}
	body := rendered{colored: color, starts: make([]place, rs.n)}
	for r := range rs.n {
		row := rs.get(r)
		for i := range cols {
			width, at := renderCell(&body, &cols[i], row)
			if i == 0 {
				body.starts[r] = at
			}
			l.widths[i] = max(l.widths[i], width)
		}
	}
	if total(l.widths, l.sep) > lineWidth {
		l.sep = 1
	}
	titles(&l, cols, color)
	order := rs.numbers()
	for i, r := range order {
		if i%ahead == 0 {
			body.touch(order[i:min(i+ahead, len(order))])
		}
		body.at = body.starts[r]
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
	// starts are where the rows begin, by number; at is where the next cell is.
	starts  []place
	at      place
	touched byte
}

// ahead is how many rows are touched at once.
const ahead = 32

// touch brings rows into the cache: they lie all over the memory, and one after the other each
// would be waited for, where so many come together.
func (r *rendered) touch(numbers []int32) {
	for _, n := range numbers {
		at := r.starts[n]
		r.touched += r.pieces[at.piece][at.byte]
	}
}

// place is a byte of a piece.
type place struct{ piece, byte uint32 }

// maxHeader is a varint and the number of a colour: 1 + an index, 0 none.
const maxHeader = binary.MaxVarintLen32 + 1

// renderCell adds a cell and returns its width and where it is.
func renderCell[R any](to *rendered, c *column[R], row R) (int, place) {
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
	at := place{uint32(last), uint32(len(to.pieces[last]))}
	p := binary.AppendUvarint(to.pieces[last], uint64(len(to.cell)))
	to.pieces[last] = append(append(p, color), to.cell...)
	return width(to.cell), at
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
	if int(r.at.byte) == len(r.pieces[r.at.piece]) {
		r.at = place{r.at.piece + 1, 0}
	}
	p, from := r.pieces[r.at.piece], int(r.at.byte)
	n, size := binary.Uvarint(p[from:])
	from += size
	if i := p[from]; i > 0 {
		color = r.colors[i-1]
	}
	from++
	end := from + int(n)
	r.at.byte = uint32(end)
	return p[from:end], color
}

// measure returns how wide the columns are.
func measure[R any](cols []column[R], rs rows[R]) []int {
	widths := make([]int, len(cols))
	for i := range cols {
		widths[i] = max(len(cols[i].title()), cols[i].width)
	}
	var cell []byte
	for r := range rs.n {
		row := rs.get(r)
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

// ordered has the unknown, which have no text, last in either direction.
func ordered[R any](rs rows[R], c *column[R], descending bool) rows[R] {
	if c.number != nil {
		order := byNumber(rs.n, func(i int) (int64, bool) { return c.number(rs.get(i)) }, descending)
		rs.order = func() []int32 { return order }
		return rs
	}
	type key struct {
		text string
		row  int32
	}
	keys := make([]key, rs.n)
	for i := range keys {
		keys[i] = key{string(c.text(nil, rs.get(i))), int32(i)}
	}
	slices.SortFunc(keys, func(a, b key) int {
		switch {
		case a.text == b.text:
			return cmp.Compare(a.row, b.row)
		case a.text == "" || b.text == "":
			return -cmp.Compare(a.text, b.text)
		case descending:
			return cmp.Compare(b.text, a.text)
		default:
			return cmp.Compare(a.text, b.text)
		}
	})
	order := make([]int32, rs.n)
	for i := range keys {
		order[i] = keys[i].row
	}
	rs.order = func() []int32 { return order }
	return rs
}

// byNumber returns the order of n rows by numbers. The unknown come last in either direction,
// equal ones as they were.
func byNumber(n int, number func(i int) (int64, bool), descending bool) []int32 {
	type key struct {
		number int64
		row    int32
	}
	keys := make([]key, 0, n)
	var unknown []int32
	for i := range n {
		value, known := number(i)
		if !known {
			unknown = append(unknown, int32(i))
			continue
		}
		if descending {
			value = ^value
		}
		keys = append(keys, key{value, int32(i)})
	}
	slices.SortFunc(keys, func(a, b key) int {
		if a.number != b.number {
			return cmp.Compare(a.number, b.number)
		}
		return cmp.Compare(a.row, b.row)
	})
	order := make([]int32, 0, n)
	for i := range keys {
		order = append(order, keys[i].row)
	}
	return append(order, unknown...)
}
