package report

import (
	"cmp"
	"encoding/binary"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/tcpwaitd/tcpwaitd/internal/radix"
)

// rows are n rows, in an order. A row is valid until the next call.
type rows[R any] struct {
	n   int
	get func(i int) R
	// order returns for each place the number that get knows its row by, nil if that is the same.
	// It may be found meanwhile, and is asked for once.
	order func() []int32
	// again makes another get, for another goroutine; nil: get is for several.
	again func() func(i int) R
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
	body := renderRows(cols, rs, color)
	l := line{widths: make([]int, len(cols)), sep: 2}
	for i := range cols {
		l.widths[i] = max(len(cols[i].title()), cols[i].width, body[0].widths[i], body[1].widths[i])
	}
	if total(l.widths, l.sep) > lineWidth {
		l.sep = 1
	}
	titles(&l, cols, color)
	if _, err := w.Write(l.buf); err != nil {
		return err
	}
	return writeBody(w, body, cols, l, rs.numbers())
}

// block is how many lines are laid out at once.
const block = 1024

// writeBody writes the rows in their order; every second block of many is laid out on another
// processor.
func writeBody[R any](w io.Writer, body *halves, cols []column[R], l line, order []int32) error {
	blocks := slices.Collect(slices.Chunk(order, block))
	ready, free := make(chan []byte, 2), make(chan []byte, 2)
	defer close(free)
	if len(blocks) > 1 {
		free <- nil
		free <- nil
		go func() {
			for i := 1; i < len(blocks); i += 2 {
				buf, more := <-free
				if !more {
					return
				}
				ready <- layOut(buf, body, cols, l, blocks[i])
			}
		}()
	}
	var own []byte
	for i, rows := range blocks {
		if i%2 == 0 {
			own = layOut(own, body, cols, l, rows)
			if _, err := w.Write(own); err != nil {
				return err
			}
			continue
		}
		other := <-ready
		if _, err := w.Write(other); err != nil {
			return err
		}
		free <- other
	}
	return nil
}

// layOut lays out the rows of these numbers, in a buffer that may be used again.
func layOut[R any](buf []byte, body *halves, cols []column[R], l line, order []int32) []byte {
	// All fits, so that nobody writes the widths, which are shared.
	l.buf = buf[:0]
	for i, r := range order {
		if i%ahead == 0 {
			l.touched += body.touch(order[i:min(i+ahead, len(order))])
		}
		cells := body.open(r)
		for i := range cols {
			text, paint := cells.next()
			l.open(i, paint)
			l.buf = append(l.buf, text...)
			l.close(i, cols[i].right)
		}
		l.end()
	}
	return l.buf
}

// manyRows are worth a second processor.
const manyRows = 1000

// renderRows renders the rows, the second half of many on another processor.
func renderRows[R any](cols []column[R], rs rows[R], color bool) *halves {
	middle := rs.n
	if middle >= manyRows {
		middle /= 2
	}
	get := rs.get
	if rs.again != nil {
		get = rs.again()
	}
	var body halves
	var other sync.WaitGroup
	other.Go(func() { renderHalf(&body[1], cols, get, middle, rs.n, color) })
	renderHalf(&body[0], cols, rs.get, 0, middle, color)
	other.Wait()
	return &body
}

// renderHalf renders the rows from first to before end.
func renderHalf[R any](to *rendered, cols []column[R], get func(int) R, first, end int, color bool) {
	*to = rendered{first: first, colored: color, starts: make([]place, end-first), widths: make([]int, len(cols))}
	for r := first; r < end; r++ {
		row := get(r)
		for i := range cols {
			width, at := renderCell(to, &cols[i], row)
			if i == 0 {
				to.starts[r-first] = at
			}
			to.widths[i] = max(to.widths[i], width)
		}
	}
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
	// first is the number of the first row.
	first   int
	colored bool
	colors  []string
	pieces  [][]byte
	cell    []byte
	// starts are where the rows begin, by number without first.
	starts []place
	widths []int
}

// rowCells are those of a row; at is where the next one is.
type rowCells struct {
	*rendered
	at place
}

// halves are the rows of a table in two parts, the second empty where they are few.
type halves [2]rendered

// open finds a row.
func (h *halves) open(number int32) rowCells {
	r := h.of(number)
	return rowCells{r, r.starts[int(number)-r.first]}
}

func (h *halves) of(number int32) *rendered {
	if int(number) < h[1].first {
		return &h[0]
	}
	return &h[1]
}

// ahead is how many rows are touched at once.
const ahead = 32

// touch brings rows into the cache: they lie all over the memory, and one after the other each
// would be waited for, where so many come together. What it returns is good for nothing, but must
// not go to waste: else nothing is read.
func (h *halves) touch(numbers []int32) (touched byte) {
	for _, n := range numbers {
		r := h.of(n)
		at := r.starts[int(n)-r.first]
		touched += r.pieces[at.piece][at.byte]
	}
	return touched
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
func (r *rowCells) next() (text []byte, color string) {
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
	// touched is what reading ahead leaves.
	touched byte
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
	case pad < 0:
		l.widths[i] = wide
	case pad == 0: // widths that are final are shared
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
		number uint64
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
		// The smallest number becomes 0.
		keys = append(keys, key{uint64(value) ^ 1<<63, int32(i)})
	}
	keys = radix.Sort(keys, func(k *key) uint64 { return k.number })
	order := make([]int32, 0, n)
	for i := range keys {
		order = append(order, keys[i].row)
	}
	return append(order, unknown...)
}
