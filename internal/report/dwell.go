package report

import (
	"io"
	"strconv"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// Dwell writes how long sockets stand in their states.
type Dwell struct {
	o   Options
	doc *document[record.States, record.Dwell]
}

// NewDwell checks the options.
func NewDwell(o Options) (*Dwell, error) {
	doc, err := newDocument[record.States, record.Dwell](o, "dwell")
	return &Dwell{o: o, doc: doc}, err
}

// Write writes one look. The table has the states that a socket is in, and below what that
// means; wide has all.
func (d *Dwell) Write(w io.Writer, r *record.States) error {
	doc := *r
	var err error
	if doc.Dwell, err = d.doc.sorted(r.Dwell); err != nil {
		return err
	}
	switch {
	case d.o.Format == JSON || d.o.Format == JSONL:
		return d.doc.writeJSON(w, &doc)
	case d.o.Format == CSV, len(d.o.Fields) > 0:
		return d.doc.writeRows(w, doc.Dwell)
	}
	shown := doc.Dwell
	if d.o.Format == Table {
		shown = nil
		for i := range doc.Dwell {
			if doc.Dwell[i].Sockets > 0 {
				shown = append(shown, doc.Dwell[i])
			}
		}
	}
	if len(shown) == 0 {
		_, err = io.WriteString(w, "No socket stands in a state that it should leave.\n")
	} else {
		err = writeTable(w, dwellColumns(), rowsOf(shown), d.o.Color)
	}
	if err != nil {
		return err
	}
	if err := writeMeanings(w, shown); err != nil {
		return err
	}
	return d.writeLeft(w, &doc)
}

func dwellColumns() []column[*record.Dwell] {
	type row = record.Dwell
	count := func(name string, get func(*row) uint64) column[*row] {
		return column[*row]{
			name: name, right: true,
			text: func(dst []byte, d *row) []byte { return strconv.AppendUint(dst, get(d), 10) },
		}
	}
	over := count("over", func(d *row) uint64 { return d.OverLimit })
	over.color = func(d *row) string {
		if d.OverLimit > 0 {
			return yellow
		}
		return ""
	}
	return []column[*row]{
		{name: "state", text: func(dst []byte, d *row) []byte { return append(dst, d.State...) }},
		{name: "held", text: func(dst []byte, d *row) []byte { return append(dst, heldText(d)...) }},
		count("sockets", func(d *row) uint64 { return d.Sockets }),
		{name: "oldest", right: true, text: func(dst []byte, d *row) []byte {
			if d.OldestNS == nil {
				return dst
			}
			return appendAge(dst, time.Duration(*d.OldestNS), boundOf(d.OldestBound))
		}},
		{name: "limit", right: true, text: func(dst []byte, d *row) []byte { return append(dst, patienceText(d)...) }},
		over,
	}
}

// heldText says whether a program has the sockets, where both is possible.
func heldText(d *record.Dwell) string {
	switch {
	case d.Orphaned == nil:
		return ""
	case *d.Orphaned:
		return "no"
	default:
		return "yes"
	}
}

func boundOf(w record.Word) event.Bound {
	for _, b := range []event.Bound{event.Exact, event.AtLeast} {
		if string(w) == b.String() {
			return b
		}
	}
	return event.BoundUnknown
}

func patienceText(d *record.Dwell) string {
	if d.LimitNS == nil {
		return "none"
	}
	text := Age(time.Duration(*d.LimitNS), event.Exact)
	if d.LimitMaxNS != nil {
		text += ".." + Age(time.Duration(*d.LimitMaxNS), event.Exact)
	}
	return text
}

// writeMeanings says what it means, state by state.
func writeMeanings(w io.Writer, rows []record.Dwell) error {
	p := page{}
	for i := range rows {
		d := &rows[i]
		if d.Meaning == "" {
			continue
		}
		p.printf("\n%s", d.State)
		switch heldText(d) {
		case "no":
			p.printf(", closed by its program")
		case "yes":
			p.printf(", still held")
		}
		p.printf(": %s\n", plural(d.Sockets, "socket"))
		text := d.Meaning
		if d.LimitNS != nil {
			text += " Limit: " + patienceText(d) + " (" + d.LimitBy + ")."
		}
		if d.OverLimit > 0 {
			text += " Longer than that: " + plural(d.OverLimit, "socket") + "."
		}
		p.printf("%s%s\n", indent, wrap(text, len(indent)))
	}
	return p.writeTo(w)
}

// writeLeft tells of the sockets that left their states while it was watched.
func (d *Dwell) writeLeft(w io.Writer, r *record.States) error {
	if len(r.Left) == 0 {
		return nil
	}
	type row = record.Left
	duration := func(name string, get func(*row) int64) column[*row] {
		return column[*row]{name: name, right: true, text: func(dst []byte, l *row) []byte {
			bound := event.Exact
			if l.AtLeast > 0 {
				bound = event.AtLeast
			}
			return appendAge(dst, time.Duration(get(l)), bound)
		}}
	}
	if _, err := io.WriteString(w, "\nLeft while watching, and how long they had been there:\n"); err != nil {
		return err
	}
	return writeTable(w, []column[*row]{
		{name: "state", text: func(dst []byte, l *row) []byte { return append(dst, l.State...) }},
		{name: "sockets", right: true, text: func(dst []byte, l *row) []byte { return strconv.AppendUint(dst, l.N, 10) }},
		duration("median", func(l *row) int64 { return l.MedianNS }),
		duration("p99", func(l *row) int64 { return l.P99NS }),
		duration("longest", func(l *row) int64 { return l.MaxNS }),
	}, rowsOf(r.Left), d.o.Color)
}
