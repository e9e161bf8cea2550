package report

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// Timewait writes who closes first and how many ports are left: a report for people, or the
// budgets as rows.
type Timewait struct {
	doc *document[record.Timewait, record.Budget]
}

// NewTimewait checks the options; the error is an *OptionError.
func NewTimewait(o Options) (*Timewait, error) {
	doc, err := newDocument[record.Timewait, record.Budget](o, "budgets")
	return &Timewait{doc}, err
}

// BudgetFields are those of Timewait.
func BudgetFields() []string { return allNames(leavesOf[record.Budget]()) }

// Write writes one record.
func (t *Timewait) Write(w io.Writer, r *record.Timewait) (err error) {
	sorted := *r
	if sorted.Budgets, err = t.doc.sorted(r.Budgets); err != nil {
		return err
	}
	o := &t.doc.o
	switch {
	case o.Format == JSON || o.Format == JSONL:
		return t.doc.writeJSON(w, &sorted)
	case o.Format == CSV || len(o.Fields) > 0:
		return t.doc.writeRows(w, sorted.Budgets)
	}
	p := page{color: o.Color, all: o.Format == Wide, whole: o.Format == Wide || o.Verbose}
	p.miniSockets(&sorted)
	p.closers(&sorted)
	p.resets(sorted.Resets)
	p.failures(sorted.ConnectFailures)
	if err := p.budgets(&sorted); err != nil {
		return err
	}
	p.counters(sorted.Namespaces)
	p.printf("\n")
	p.advice(sorted.Advice)
	p.reservations(sorted.Loss, sorted.UnreadNetns)
	return p.writeTo(w)
}

// miniSockets is the headline.
func (p *page) miniSockets(r *record.Timewait) {
	how := "the present"
	if r.ObservedNS > 0 {
		how = "watched for " + durationText(time.Duration(r.ObservedNS))
	}
	p.printf("%s\n", p.painted(bold, fmt.Sprintf("%s in TIME_WAIT, %d in FIN_WAIT2 without a process; %s",
		plural(r.TimeWait, "socket"), r.FinWait2, how)))
}

// maxRows of each list are shown; wide shows all.
const maxRows = 10

// shown cuts a list off, and says how many are left out.
func shown[T any](p *page, list []T) (head []T, more int) {
	if p.all || len(list) <= maxRows {
		return list, 0
	}
	return list[:maxRows], len(list) - maxRows
}

func (p *page) closers(r *record.Timewait) {
	if r.ObservedNS == 0 {
		p.printf("who closes first is only known after watching (--for)\n")
		return
	}
	if len(r.ActiveClosers) == 0 {
		p.printf("nobody closed a connection first\n")
		return
	}
	list, more := shown(p, r.ActiveClosers)
	for i := range list {
		p.closer(&list[i])
	}
	if more > 0 {
		p.printf("\nand %s more (-o wide)\n", plural(more, "process"))
	}
}

func (p *page) closer(c *record.ActiveCloser) {
	text := fmt.Sprintf("closed %s first, %s a second", plural(c.ClosedFirst, "connection"), rateText(c.PerS))
	if c.Simultaneous > 0 {
		text += fmt.Sprintf("; %d at the same time as the peer", c.Simultaneous)
	}
	p.headed(bold, closerName(c.Pid, c.Comm, c.Processes), text)
	if c.Exiting > 0 {
		p.field("exit", fmt.Sprintf("%d were closed because the process ended", c.Exiting))
	}
	p.field("where", placeText(&record.Suspect{Unit: c.Unit, Container: c.Container, Pod: c.Pod, Names: c.Names}))
	groups, more := c.Groups, 0
	if n := maxGroups; !p.all && len(groups) > n {
		groups, more = groups[:n], len(groups)-n
	}
	for i := range groups {
		p.closerGroup(&groups[i])
	}
	if more > 0 {
		p.field("", fmt.Sprintf("and %s more (-o wide)", plural(more, "place")))
	}
	if c.StacksNotSampled > 0 {
		p.field("stacks", fmt.Sprintf("%d not taken: there were too many a second", c.StacksNotSampled))
	}
}

// headed writes who, in a colour, and what.
func (p *page) headed(color, who, what string) {
	at := width([]byte(who)) + len(": ")
	p.printf("\n%s: %s\n", p.painted(color, who), wrapFrom(what, at, len(indent)))
}

func closerName(pid uint32, comm string, processes int) string {
	switch {
	case pid != 0:
		return fmt.Sprintf("pid %d %s", pid, comm)
	case processes > 0:
		return fmt.Sprintf("%s named %s", plural(processes, "process"), comm)
	default:
		return "no process known"
	}
}

func (p *page) closerGroup(g *record.CloserGroup) {
	before := strconv.Itoa(g.N)
	switch {
	case g.Lport != 0:
		before += fmt.Sprintf(" accepted on port %d", g.Lport)
	case g.Rport != 0:
		before += fmt.Sprintf(" connected to port %d", g.Rport)
	}
	if len(g.Frames) == 0 {
		p.field("group", before)
		return
	}
	s := stacked{event.StackClose.String(), g.Direction, "", g.Frames, g.Quality, g.Reason}
	p.place("group", before, &s)
	if p.whole {
		p.stack(&s, len(indent)+labelWidth)
	}
}

// rateText has the digits that a rate deserves.
func rateText(perS float64) string {
	if perS < 10 {
		return strconv.FormatFloat(perS, 'f', 1, 64)
	}
	return strconv.FormatFloat(perS, 'f', 0, 64)
}

func (p *page) resets(list []record.Resetter) {
	list, more := shown(p, list)
	for i := range list {
		x := &list[i]
		p.headed(bold, closerName(x.Pid, x.Comm, 0), fmt.Sprintf("cut %s off by a reset, %s a second; these leave no TIME_WAIT",
			plural(x.N, "connection"), rateText(x.PerS)))
	}
	if more > 0 {
		p.printf("\nand %s more (-o wide)\n", plural(more, "process"))
	}
}

func (p *page) failures(list []record.ConnectFailure) {
	list, more := shown(p, list)
	for i := range list {
		x := &list[i]
		what := fmt.Sprintf("%s to %s (EADDRNOTAVAIL): ", plural(x.N, "failed connect"), netip.AddrPortFrom(x.Raddr, x.Rport))
		switch x.Bound {
		case 0:
			what += "no port was left"
		case x.N:
			what += "the port that bind() had chosen was in use to there"
		default:
			what += fmt.Sprintf("%d found no port left, %d the port in use to there that bind() had chosen", x.N-x.Bound, x.Bound)
		}
		p.headed(bold+red, closerName(x.Pid, x.Comm, 0), what)
	}
	if more > 0 {
		p.printf("\nand %s more (-o wide)\n", plural(more, "process"))
	}
}

// budgets is a table of the fullest.
func (p *page) budgets(r *record.Timewait) error {
	if len(r.Budgets) == 0 {
		p.printf("\nno port of the ephemeral range is in use by a connection of ours\n")
		return nil
	}
	list, _ := shown(p, r.Budgets)
	p.printf("\n%s\n", p.painted(bold, "local ports of the ephemeral range, the fewest left first"))
	var text strings.Builder
	if err := writeTable(&text, p.budgetColumns(list), rowsOf(list), p.color); err != nil {
		return err
	}
	p.printf("%s", text.String())
	if more := r.BudgetsTotal - len(list); more > 0 {
		p.printf("and %s more\n", plural(more, "budget"))
	}
	return nil
}

func (p *page) budgetColumns(list []record.Budget) []column[*record.Budget] {
	type row = *record.Budget
	count := func(name string, get func(row) int) column[row] {
		return column[row]{name: name, right: true, text: func(dst []byte, b row) []byte { return strconv.AppendInt(dst, int64(get(b)), 10) }}
	}
	cols := []column[row]{
		{name: "local", text: func(dst []byte, b row) []byte { return b.Laddr.AppendTo(dst) }},
		{name: "to", text: func(dst []byte, b row) []byte {
			if b.Scope == record.ScopeLocalAddress {
				return append(dst, "anywhere (bound)"...)
			}
			return appendAddrPort(dst, netip.AddrPortFrom(b.Raddr, b.Rport))
		}},
		count("in-use", func(b row) int { return b.InUse }),
		count("time-wait", func(b row) int { return b.TimeWait }),
		count("free", func(b row) int { return max(0, b.Range-b.Unavailable) }),
		count("range", func(b row) int { return b.Range }),
		{name: "unavailable", right: true, color: budgetColor, text: func(dst []byte, b row) []byte {
			return fmt.Appendf(dst, "%.1f%%", 100*b.UnavailableRatio)
		}},
		{name: "gone-in", right: true, text: func(dst []byte, b row) []byte {
			if b.ExhaustedInS == nil {
				return dst
			}
			return appendDuration(dst, time.Duration(*b.ExhaustedInS)*time.Second)
		}},
	}
	if p.all {
		cols = append(
			cols, count("reusable", func(b row) int { return b.Reusable }), count("by-bind", func(b row) int { return b.ByBind }),
			count("taken-elsewhere", func(b row) int { return b.TakenElsewhere }),
			column[row]{name: "per-s", right: true, text: func(dst []byte, b row) []byte { return append(dst, rateText(b.PerS)...) }},
			column[row]{name: "limits", text: appendForecastLimits},
		)
	}
	if p.all || severalSpaces(list) {
		space := column[row]{name: "netns", text: func(dst []byte, b row) []byte {
			if b.NetnsName != "" {
				return append(dst, b.NetnsName...)
			}
			return appendUint(dst, uint64(b.Netns))
		}}
		cols = append([]column[row]{space}, cols...)
	}
	return cols
}

func severalSpaces(list []record.Budget) bool {
	for i := range list {
		if list[i].Netns != list[0].Netns {
			return true
		}
	}
	return false
}

func appendForecastLimits(dst []byte, b *record.Budget) []byte {
	if b.ExhaustedMinS == nil {
		return dst
	}
	dst = append(appendDuration(dst, time.Duration(*b.ExhaustedMinS)*time.Second), " to "...)
	if b.ExhaustedMaxS == nil {
		return append(dst, "never"...)
	}
	return appendDuration(dst, time.Duration(*b.ExhaustedMaxS)*time.Second)
}

func budgetColor(b *record.Budget) string {
	switch {
	case b.UnavailableRatio >= 0.9:
		return red
	case b.UnavailableRatio >= 0.5:
		return yellow
	default:
		return ""
	}
}

// counters tells what the kernel has counted while watching, and wide the totals.
func (p *page) counters(spaces []record.PortSpace) {
	for i := range spaces {
		s := &spaces[i]
		var parts []string
		for _, c := range []struct {
			counter *record.PortCounter
			what    string
		}{
			{s.Counters.Overflow, "TIME_WAIT not made because of tcp_max_tw_buckets"},
			{s.Counters.Recycled, "ports taken over from TIME_WAIT (tcp_tw_reuse)"},
		} {
			if c.counter != nil && (c.counter.Observed > 0 || p.all) {
				parts = append(parts, fmt.Sprintf("%d %s, %d in all", c.counter.Observed, c.what, c.counter.Total))
			}
		}
		if len(parts) > 0 {
			name := s.Name
			if name == "" {
				name = strconv.FormatUint(uint64(s.Netns), 10)
			}
			p.printf("\n%s\n", wrap(fmt.Sprintf("network namespace %s: %s", name, strings.Join(parts, "; ")), 0))
		}
	}
}
