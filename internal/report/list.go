package report

import (
	"bytes"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// Sockets is what a list shows.
type Sockets struct {
	Facts       *record.Facts
	Cases       diagnosis.Cases
	Loss        event.Loss
	UnreadNetns map[uint32]string
}

// List writes sockets.
type List struct {
	o    Options
	all  []column[*socketRow]
	cols []column[*socketRow]
	pick selection
}

// NewList checks the options; the error is an *OptionError.
func NewList(o Options) (*List, error) {
	l := &List{o: o}
	fields := leavesOf[record.Socket]()
	for _, f := range fields {
		l.all = append(l.all, leafColumn(f, (*socketRow).record))
	}
	if o.tabular() || o.Format == CSV {
		l.all = override(l.all, socketColumns(o.Threshold))
	}
	var err error
	if l.cols, err = choose(l.all, o.Fields, defaultSocketColumns(o.Format, fields, o.Stacks)); err != nil {
		return nil, err
	}
	if len(o.Fields) > 0 {
		l.pick = selectPaths(o.Fields)
	}
	if o.Sort != "" {
		_, err = sortRows(rows[*socketRow]{}, o.Sort, l.all)
	}
	return l, err
}

// NeedsFacts reports whether the output shows more of processes than the kernel's
// records say.
func (l *List) NeedsFacts() bool {
	return l.o.Format != Table || len(l.o.Fields) > 0 || l.o.Sort != ""
}

// NeedsPeers reports whether the output shows the other ends of connections.
func (l *List) NeedsPeers() bool {
	if len(l.o.Fields) == 0 && l.o.Format != Table {
		return true
	}
	return slices.ContainsFunc(append(slices.Clone(l.o.Fields), strings.TrimPrefix(l.o.Sort, "-")), func(name string) bool {
		return name == "other_end" || name == "peer" || strings.HasPrefix(name, "peer.")
	})
}

// socketRow is one row; the record is built only if a column asks for it.
type socketRow struct {
	c     *diagnosis.Case
	facts *record.Facts
	rec   record.Socket
	built bool
}

func (r *socketRow) record() reflect.Value {
	if !r.built {
		r.rec, r.built = record.FromCase(r.c, r.facts), true
	}
	return reflect.ValueOf(&r.rec)
}

// Write writes one list. Without Sort the oldest come first.
func (l *List) Write(w io.Writer, s *Sockets) error {
	rs := rows[*socketRow]{
		n: s.Cases.Len(), get: s.getter(s.Cases),
		again: func() func(int) *socketRow { return s.getter(s.Cases.Again()) },
	}
	if l.o.Sort != "" {
		var err error
		if rs, err = sortRows(rs, l.o.Sort, l.all); err != nil {
			return err
		}
	} else {
		// Beside the rendering of the rows, which does not need it.
		rs.order = sync.OnceValue(func() []int32 {
			return byNumber(rs.n, func(i int) (int64, bool) {
				d, known := s.Cases.Dwell(i)
				return int64(d), known
			}, true)
		})
		go rs.order()
	}
	switch l.o.Format {
	case JSON:
		return l.writeDocument(w, rs, s)
	case JSONL:
		return l.writeLines(w, rs)
	case CSV:
		return writeCSV(w, l.cols, rs)
	default:
		return writeTable(w, l.cols, rs, l.o.Color)
	}
}

// getter makes rows of cases, each valid until the next.
func (s *Sockets) getter(cases diagnosis.Cases) func(int) *socketRow {
	row := &socketRow{facts: s.Facts}
	return func(i int) *socketRow {
		row.c, row.built = cases.At(i), false
		return row
	}
}

func dwellOf(r *socketRow) (int64, bool) {
	return int64(r.c.Dwell()), r.c.Bound != event.BoundUnknown
}

// writeDocument writes a record.List with one socket a line, without holding it.
func (l *List) writeDocument(w io.Writer, rs rows[*socketRow], s *Sockets) error {
	doc := record.NewList(record.Time{Time: s.Facts.Clock.Wall}, s.Loss, s.UnreadNetns)
	before, after, err := around(doc)
	if err != nil {
		return err
	}
	buf := before
	first := true
	for row := range rs.all() {
		if !first {
			buf = append(buf, ',')
		}
		first = false
		buf = append(buf, '\n')
		if buf, err = l.appendSocket(buf, row, true); err != nil {
			return err
		}
		if buf, err = spill(w, buf, chunk); err != nil {
			return err
		}
	}
	_, err = w.Write(append(buf, after...))
	return err
}

// appendSocket appends the row as JSON; the schema of rows inside a document is the
// document's.
func (l *List) appendSocket(dst []byte, row *socketRow, inside bool) ([]byte, error) {
	row.record()
	if inside {
		row.rec.Schema = ""
	}
	return l.pick.append(dst, reflect.ValueOf(&row.rec))
}

// spill writes the buffer once it holds limit bytes.
func spill(w io.Writer, buf []byte, limit int) ([]byte, error) {
	if len(buf) < limit {
		return buf, nil
	}
	_, err := w.Write(buf)
	return buf[:0], err
}

// around cuts the document at its empty list of sockets.
func around(doc record.List) (before, after []byte, err error) {
	text, err := compact(doc)
	if err != nil {
		return nil, nil, err
	}
	const list = `"sockets":[`
	at := bytes.Index(text, []byte(list+"]")) + len(list)
	return text[:at], slices.Concat([]byte("\n"), text[at:], []byte("\n")), nil
}

func (l *List) writeLines(w io.Writer, rs rows[*socketRow]) (err error) {
	var buf []byte
	for row := range rs.all() {
		if buf, err = l.appendSocket(buf, row, false); err != nil {
			return err
		}
		if buf, err = spill(w, append(buf, '\n'), chunk); err != nil {
			return err
		}
	}
	_, err = w.Write(buf)
	return err
}
