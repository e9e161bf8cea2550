package report

import (
	"io"
	"reflect"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// Tail writes transitions as they come. It is the pipeline's Stream and not safe for
// concurrent use.
type Tail struct {
	o    Options
	w    io.Writer
	row  transitionRow
	cols []column[*transitionRow]
	pick selection
	json *record.TransitionEncoder
	line line
	cell []byte
	// count and loss are for the summary.
	count uint64
	loss  event.Loss
	// announced is the loss last told in a message.
	announced event.Loss
}

// NewTail checks the options; the error is an *OptionError. A stream cannot be sorted.
func NewTail(w io.Writer, o Options) (*Tail, error) {
	if o.Sort != "" {
		return nil, &OptionError{"sort", o.Sort, "nothing: a stream cannot be sorted"}
	}
	t := &Tail{o: o, w: w, json: record.NewTransitionEncoder()}
	fields := leavesOf[record.Transition]()
	var all []column[*transitionRow]
	for _, f := range fields {
		all = append(all, leafColumn(f, (*transitionRow).record))
	}
	if o.tabular() || o.Format == CSV {
		all = override(all, transitionColumns(record.NewStamp("15:04:05", o.location(), 3)))
	}
	var err error
	if t.cols, err = choose(all, o.Fields, defaultTransitionColumns(o.Format, fields)); err != nil {
		return nil, err
	}
	if len(o.Fields) > 0 {
		t.pick = selectPaths(o.Fields)
	}
	t.start()
	return t, nil
}

// start buffers the header. The widths of a stream can only be guessed; a column widens
// when something does not fit.
func (t *Tail) start() {
	if t.o.Format == CSV {
		t.line.buf = appendCSVHeader(t.line.buf, t.cols)
	}
	if !t.o.tabular() {
		return
	}
	t.line.sep = 1
	for _, c := range t.cols {
		t.line.widths = append(t.line.widths, max(c.width, len(c.title())))
	}
	titles(&t.line, t.cols, t.o.Color)
}

// transitionRow is one row; the record is built only if a column asks for it.
type transitionRow struct {
	t      *event.Transition
	facts  record.TransitionFacts
	clock  event.Clock
	offset int64
	rec    record.Transition
	built  bool
}

func (r *transitionRow) record() reflect.Value {
	if !r.built {
		r.rec, r.built = record.FromTransition(r.t, r.clock, &r.facts), true
	}
	return reflect.ValueOf(&r.rec)
}

// Clock takes a reading of the clocks; needed before the first transition.
func (t *Tail) Clock(c event.Clock) {
	t.json.SetClock(c)
	t.row.clock, t.row.offset = c, record.Offset(c)
}

// Transition buffers one transition.
func (t *Tail) Transition(tr *event.Transition, f record.TransitionFacts) error {
	t.count++
	switch t.o.Format {
	case JSON, JSONL:
		if t.pick == nil {
			t.line.buf = t.json.AppendJSON(t.line.buf, tr, &f)
			break
		}
		t.set(tr, f).record()
		text, err := t.pick.marshal(&t.row.rec)
		if err != nil {
			return err
		}
		t.line.buf = append(t.line.buf, text...)
	case CSV:
		t.line.buf, t.cell = appendCSVRow(t.line.buf, t.cell, t.cols, t.set(tr, f))
		return t.spill()
	default:
		cells(&t.line, t.cols, t.set(tr, f), t.o.Color)
		if f.Stacks != nil {
			t.line.end()
			t.appendStack(tr, f.Stacks)
			return t.spill()
		}
	}
	t.line.end()
	return t.spill()
}

// appendStack adds the place below the transition it belongs to: where the connection was
// opened, what is known when the wait begins, where it was closed.
func (t *Tail) appendStack(tr *event.Transition, stacks *record.Stacks) {
	kind, st := event.StackClose.String(), stacks.Close
	if st == nil && (tr.New == event.SynSent || tr.New == event.CloseWait) {
		kind, st = stacks.Telling("")
	}
	if st == nil {
		return
	}
	p := page{all: t.o.Format == Wide}
	s := stackedOf(kind, record.Word(tr.Direction.String()), "", st)
	p.place("", "", &s)
	if t.o.Verbose || t.o.Format == Wide {
		p.stack(&s, len(indent)+labelWidth)
	}
	t.line.buf = append(t.line.buf, p.buf.String()...)
}

func (t *Tail) set(tr *event.Transition, f record.TransitionFacts) *transitionRow {
	t.row.t, t.row.facts, t.row.built = tr, f, false
	return &t.row
}

// Loss puts a record into a JSON stream, and a message beside the others.
func (t *Tail) Loss(at event.KTime, total event.Loss) error {
	t.loss = total
	if t.o.Format == JSON || t.o.Format == JSONL {
		text, err := compact(record.FromLoss(total, record.At(t.row.clock, at)))
		if err != nil {
			return err
		}
		t.line.buf = append(t.line.buf, text...)
		t.line.end()
		return t.spill()
	}
	if total != t.announced {
		t.announced = total
		t.o.message("%s", LossText(total))
	}
	return nil
}

func (t *Tail) spill() error {
	if len(t.line.buf) < chunk {
		return nil
	}
	return t.Flush()
}

// Flush writes what is buffered.
func (t *Tail) Flush() error {
	if len(t.line.buf) == 0 {
		return nil
	}
	_, err := t.w.Write(t.line.buf)
	t.line.buf = t.line.buf[:0]
	return err
}

// Count is the number of transitions so far.
func (t *Tail) Count() uint64 { return t.count }

// Lost is the last loss told.
func (t *Tail) Lost() event.Loss { return t.loss }
