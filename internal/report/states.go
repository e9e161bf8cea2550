package report

import (
	"io"
	"strconv"
	"strings"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// States writes counts by state.
type States struct {
	o   Options
	by  string
	doc *document[record.States, record.StatesGroup]
}

// NewStates checks the options; by is pid, container, netns or empty.
func NewStates(o Options, by string) (*States, error) {
	if by == "" && (len(o.Fields) > 0 || o.Sort != "") {
		flag, value := "sort", o.Sort
		if value == "" {
			flag, value = "fields", strings.Join(o.Fields, ",")
		}
		return nil, &OptionError{flag, value, "nothing without --by"}
	}
	s := &States{o: o, by: by}
	o.Fields, o.Sort = nil, ""
	var err error
	if s.doc, err = newDocument[record.States, record.StatesGroup](o, "by"); err != nil {
		return nil, err
	}
	all := s.groupColumns(nil)
	if s.o.Sort != "" {
		if _, err = sortRows(rows[*record.StatesGroup]{}, s.o.Sort, all); err != nil {
			return nil, err
		}
	}
	if len(s.o.Fields) > 0 {
		_, err = pick("fields", all, s.o.Fields)
		s.doc.pick = selectRows[record.States]("by", selectPaths(s.o.Fields))
	}
	return s, err
}

// Write writes one count.
func (s *States) Write(w io.Writer, r *record.States) error {
	doc := *r
	if s.o.Sort != "" {
		rs, err := sortRows(rowsOf(r.By), s.o.Sort, s.groupColumns(nil))
		if err != nil {
			return err
		}
		doc.By = nil
		for i := range rs.n {
			doc.By = append(doc.By, *rs.at(i))
		}
	}
	switch {
	case s.o.Format == JSON || s.o.Format == JSONL:
		return s.doc.writeJSON(w, &doc)
	case s.by == "":
		return s.writeStates(w, &doc)
	default:
		return s.writeGroups(w, &doc)
	}
}

type stateCount struct {
	name string
	n    uint64
}

// rare are states that most hosts never have a socket in: a table without them is easier
// to read.
var rare = event.SetOf(event.NewSynRecv, event.BoundInactive)

// writeStates: every usual state is shown, so that scripts find their line, the rare ones
// too where there are any or the format is not the table; the total only in tables.
func (s *States) writeStates(w io.Writer, r *record.States) error {
	var list []stateCount
	for _, st := range event.States() {
		if s.o.Format == Table && rare.Has(st) && r.States[st] == 0 {
			continue
		}
		list = append(list, stateCount{st.String(), r.States[st]})
	}
	if s.o.Format != CSV {
		list = append(list, stateCount{"total", r.Total})
	}
	cols := []column[*stateCount]{
		{name: "state", text: func(dst []byte, c *stateCount) []byte { return append(dst, c.name...) }},
		{
			name: "sockets", right: true,
			text:   func(dst []byte, c *stateCount) []byte { return strconv.AppendUint(dst, c.n, 10) },
			number: func(c *stateCount) (int64, bool) { return int64(c.n), true },
			color: func(c *stateCount) string {
				if c.name == event.CloseWait.String() && c.n > 0 {
					return yellow
				}
				return ""
			},
		},
	}
	if s.o.Format == CSV {
		return writeCSV(w, cols, rowsOf(list))
	}
	return writeTable(w, cols, rowsOf(list), s.o.Color)
}

// writeGroups: the default table leaves out states that no socket is in.
func (s *States) writeGroups(w io.Writer, r *record.States) error {
	rs := rowsOf(r.By)
	if s.o.Format == Table && len(s.o.Fields) == 0 {
		return writeTable(w, s.narrow(rs), rs, s.o.Color)
	}
	all := s.groupColumns(nil)
	cols, err := choose(all, s.o.Fields, columnNames(all))
	if err != nil {
		return err
	}
	if s.o.Format == CSV {
		return writeCSV(w, cols, rs)
	}
	return writeTable(w, cols, rs, s.o.Color)
}

// leastTold are the states that say least about leaks, the first one first.
func leastTold() []event.State {
	return []event.State{
		event.BoundInactive, event.NewSynRecv, event.Closing, event.SynRecv, event.SynSent, event.FinWait1,
		event.LastAck, event.Close, event.FinWait2, event.Listen, event.TimeWait,
	}
}

// narrow returns the columns of the states that any group has, and adds those that say
// least up as OTHER until the table fits a line.
func (s *States) narrow(rs rows[*record.StatesGroup]) []column[*record.StatesGroup] {
	var seen, other event.StateSet
	for i := range rs.n {
		for _, st := range event.States() {
			if rs.at(i).States[st] > 0 {
				seen |= event.SetOf(st)
			}
		}
	}
	cols := s.groupColumns(&seen)
	for _, st := range leastTold() {
		if total(measure(cols, rs), 1) <= lineWidth {
			break
		}
		if !seen.Has(st) {
			continue
		}
		seen &^= event.SetOf(st)
		other |= event.SetOf(st)
		cols = append(s.groupColumns(&seen), otherColumn(other))
	}
	return cols
}

func otherColumn(states event.StateSet) column[*record.StatesGroup] {
	return column[*record.StatesGroup]{
		name: "other", right: true,
		text: func(dst []byte, g *record.StatesGroup) []byte {
			var n uint64
			for _, st := range event.States() {
				if states.Has(st) {
					n += g.States[st]
				}
			}
			return strconv.AppendUint(dst, n, 10)
		},
	}
}

// groupColumns are the key, the total and the states, or those seen of them.
func (s *States) groupColumns(seen *event.StateSet) []column[*record.StatesGroup] {
	type group = record.StatesGroup
	uintColumn := func(name, header string, zero bool, get func(*group) uint64) column[*group] {
		return column[*group]{
			name: name, header: header, right: true,
			text: func(dst []byte, g *group) []byte {
				if v := get(g); v != 0 || zero {
					return strconv.AppendUint(dst, v, 10)
				}
				return dst
			},
			number: func(g *group) (int64, bool) { return int64(get(g)), zero || get(g) != 0 },
		}
	}
	var cols []column[*group]
	switch s.by {
	case "pid":
		cols = append(cols, uintColumn("pid", "", false, func(g *group) uint64 { return uint64(g.Pid) }),
			column[*group]{name: "comm", text: func(dst []byte, g *group) []byte { return append(dst, g.Comm...) }})
	case "container":
		cols = append(cols, column[*group]{
			name: "container",
			text: func(dst []byte, g *group) []byte { return append(dst, g.Container...) },
		})
	case "netns":
		cols = append(cols, uintColumn("netns", "", false, func(g *group) uint64 { return uint64(g.Netns) }))
	}
	cols = append(cols, uintColumn("total", "", true, func(g *group) uint64 { return g.Total }))
	for _, st := range event.States() {
		if seen == nil || seen.Has(st) {
			cols = append(cols, uintColumn("states."+st.String(), st.String(), true,
				func(g *group) uint64 { return g.States[st] }))
		}
	}
	return cols
}
