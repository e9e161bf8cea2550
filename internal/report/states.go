package report

import (
	"cmp"
	"fmt"
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
		for group := range rs.all() {
			doc.By = append(doc.By, *group)
		}
	}
	var err error
	switch {
	case s.o.Format == JSON || s.o.Format == JSONL:
		return s.doc.writeJSON(w, &doc)
	case s.by == "":
		err = s.writeStates(w, &doc)
	default:
		err = s.writeGroups(w, &doc)
	}
	if err != nil || s.o.Format == CSV || doc.Established == nil {
		return err
	}
	_, err = io.WriteString(w, "\n"+establishedText(doc.Established))
	return err
}

// maxNetnsEstablished are named one by one.
const maxNetnsEstablished = 5

// establishedText says how much of what ss -s shows as established is not.
func establishedText(e *record.Established) string {
	p := page{}
	p.printf("ss -s says estab %d", e.CurrEstab)
	if n := len(e.Netns); n > 1 {
		p.printf(", added up over %s", plural(n, "network namespace"))
	}
	p.printf(": %s.\n", ofThem(e.CurrEstab, e.CloseWait))
	if len(e.Netns) < 2 {
		return p.buf.String()
	}
	named, more := 0, 0
	for i := range e.Netns {
		n := &e.Netns[i]
		switch {
		case n.CloseWait != nil && *n.CloseWait == 0:
		case named == maxNetnsEstablished:
			more++
		default:
			named++
			p.printf("  %s: estab %d, %s\n", cmp.Or(n.NetnsName, fmt.Sprintf("netns %d", n.Netns)), n.CurrEstab, ofThem(n.CurrEstab, n.CloseWait))
		}
	}
	if more > 0 {
		p.printf("  and %s more\n", plural(more, "network namespace"))
	}
	return p.buf.String()
}

func ofThem(all uint64, closeWait *uint64) string {
	switch {
	case closeWait == nil:
		return "how many of them are CLOSE_WAIT cannot be told now"
	case *closeWait == 0 && all == 0:
		return "none is CLOSE_WAIT"
	case *closeWait == 0:
		return "none of them is CLOSE_WAIT"
	case all == 1:
		return "it is CLOSE_WAIT"
	case *closeWait == all:
		return "all of them are CLOSE_WAIT"
	case *closeWait == 1:
		return "1 of them is CLOSE_WAIT"
	default:
		return fmt.Sprintf("%d of them are CLOSE_WAIT", *closeWait)
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
			if rs.get(i).States[st] > 0 {
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

// containerText: a table has the name where there is one, other formats the id.
func (s *States) containerText(g *record.StatesGroup) string {
	switch {
	case !s.o.tabular():
		return g.Container
	case g.Container == "" && !g.Unknown:
		return "(none)"
	case s.o.Format == Table:
		return g.ContainerText(g.Container)
	default:
		return g.Container
	}
}

// groupColumns are the key, the total and the states; or for a narrow table the key in short,
// the total and the states seen.
func (s *States) groupColumns(seen *event.StateSet) []column[*record.StatesGroup] {
	type group = record.StatesGroup
	narrow := seen != nil
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
	textColumn := func(name string, get func(*group) string) column[*group] {
		return column[*group]{name: name, text: func(dst []byte, g *group) []byte { return append(dst, get(g)...) }}
	}
	var cols []column[*group]
	switch s.by {
	case "pid":
		cols = append(cols, uintColumn("pid", "", false, func(g *group) uint64 { return uint64(g.Pid) }),
			textColumn("comm", func(g *group) string { return g.Comm }))
	case "container":
		cols = append(cols, textColumn("container", s.containerText))
		if !narrow {
			cols = append(cols, textColumn("container_name", func(g *group) string { return g.ContainerName }),
				textColumn("pod_name", func(g *group) string { return g.PodName }),
				textColumn("pod_namespace", func(g *group) string { return g.PodNamespace }),
				textColumn("unknown", func(g *group) string {
					if g.Unknown {
						return "true"
					}
					return ""
				}))
		}
	case "netns":
		cols = append(cols, uintColumn("netns", "", false, func(g *group) uint64 { return uint64(g.Netns) }),
			textColumn("netns_name", func(g *group) string { return g.NetnsName }))
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
