package report

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// Kill writes one line for each socket that was to be destroyed. What is done is written
// as it is done; what would be done is shown at the end, with what it is good for.
type Kill struct {
	o    Options
	w    io.Writer
	yes  bool
	all  []column[*record.Kill]
	cols []column[*record.Kill]
	pick selection
	line line
	cell []byte
	// held are the processes that still have descriptors of what was destroyed.
	held map[uint32]bool
	// planned are the rows of a dry run that is shown as a table.
	planned []record.Kill
}

// NewKill checks the options; the error is an *OptionError. yes: it is done.
func NewKill(w io.Writer, o Options, yes bool) (*Kill, error) {
	if o.Sort != "" {
		return nil, &OptionError{"sort", o.Sort, "nothing: the oldest go first; tcpwaitd list can sort"}
	}
	k := &Kill{o: o, w: w, yes: yes, held: map[uint32]bool{}}
	fields := leavesOf[record.Kill]()
	for _, f := range fields {
		k.all = append(k.all, leafColumn(f, func(r *record.Kill) reflect.Value { return reflect.ValueOf(r) }))
	}
	if o.tabular() || o.Format == CSV {
		k.all = override(k.all, killColumns(record.NewStamp("2006-01-02T15:04:05", time.UTC, 3)))
	}
	var err error
	if k.cols, err = choose(k.all, o.Fields, k.usual(fields)); err != nil {
		return nil, err
	}
	if len(o.Fields) > 0 {
		k.pick = selectPaths(o.Fields)
	}
	if k.Shown() {
		// What is known as a whole needs no guessed widths.
		for i := range k.cols {
			k.cols[i].width = 0
		}
	}
	k.start()
	return k, nil
}

// KillFields are the names that --fields takes.
func KillFields() []string {
	k, err := NewKill(io.Discard, Options{Format: Table}, false)
	if err != nil {
		return nil
	}
	return columnNames(k.all)
}

func (k *Kill) usual(fields []leaf) []string {
	switch {
	case k.o.Format == Wide:
		return []string{
			"clock", "action", "reason", "cookie", "netns", "state", "direction", "age", "at_most", "cause",
			"owner.pid", "owner.comm", "local", "remote", "recv_q", "send_q", "held_by",
		}
	case k.o.Format != Table:
		return usualNames(fields)
	case k.yes:
		return []string{"clock", "action", "cookie", "age", "cause", "owner.pid", "comm", "local", "remote", "reason"}
	default:
		return []string{"age", "cause", "owner.pid", "comm", "local", "remote", "cookie"}
	}
}

func killColumns(stamp *record.Stamp) []column[*record.Kill] {
	type row = *record.Kill
	return []column[row]{
		// An audit is read elsewhere, so its times are UTC in tables too.
		{name: "clock", header: "TIME", width: 24, text: func(dst []byte, r row) []byte {
			return append(stamp.Append(dst, r.Time.UnixNano()), 'Z')
		}},
		{name: "action", header: "ACTION", width: 9, color: killColor, text: func(dst []byte, r row) []byte {
			return append(dst, r.Action...)
		}},
		{name: "cookie", header: "COOKIE", right: true, width: 8, text: func(dst []byte, r row) []byte {
			return appendUint(dst, r.Cookie)
		}},
		{name: "age", header: "AGE", right: true, width: 5, text: appendKillAge},
		{name: "at_most", header: "AT-MOST", right: true, text: func(dst []byte, r row) []byte {
			if r.DwellMaxNS == nil {
				return dst
			}
			return appendDuration(dst, time.Duration(*r.DwellMaxNS))
		}},
		{name: "cause", header: "CAUSE", width: 11, text: func(dst []byte, r row) []byte { return append(dst, r.Cause...) }},
		{name: "owner.pid", header: "PID", right: true, width: 7, text: func(dst []byte, r row) []byte {
			return appendUint(dst, uint64(r.Owner.Pid))
		}},
		{name: "owner.comm", header: "COMM", width: 10, text: func(dst []byte, r row) []byte { return append(dst, r.Owner.Comm...) }},
		{name: "comm", header: "COMM", width: 10, text: appendKillWho},
		{name: "local", header: "LOCAL", width: 15, text: func(dst []byte, r row) []byte {
			return appendAddrPort(dst, netip.AddrPortFrom(r.Laddr, r.Lport))
		}},
		{name: "remote", header: "REMOTE", width: 15, text: func(dst []byte, r row) []byte {
			return appendAddrPort(dst, netip.AddrPortFrom(r.Raddr, r.Rport))
		}},
		{name: "held_by", header: "HOLDERS", text: func(dst []byte, r row) []byte {
			for i, h := range r.Holders {
				if i > 0 {
					dst = append(dst, ',')
				}
				dst = fmt.Appendf(dst, "%d/%s:%d", h.Pid, h.Comm, h.FD)
			}
			return dst
		}},
	}
}

func killColor(r *record.Kill) string {
	switch r.Action {
	case record.KillDestroyed:
		return green
	case record.KillFailed:
		return red
	case record.KillSkipped, record.KillRefused:
		return yellow
	default:
		return ""
	}
}

func appendKillAge(dst []byte, r *record.Kill) []byte {
	if r.DwellNS == nil {
		return dst
	}
	bound, most := event.Exact, time.Duration(0)
	if string(r.DwellBound) == event.AtLeast.String() {
		bound = event.AtLeast
	}
	if r.DwellMaxNS != nil {
		most = time.Duration(*r.DwellMaxNS)
	}
	return appendBounds(dst, time.Duration(*r.DwellNS), most, bound)
}

// appendKillWho writes who is blamed, or in parentheses one of those that could accept.
func appendKillWho(dst []byte, r *record.Kill) []byte {
	if r.Owner.Pid != 0 || len(r.Listeners) == 0 {
		return append(dst, r.Owner.Comm...)
	}
	dst = append(append(dst, '('), r.Listeners[0].Comm...)
	return append(strconv.AppendInt(append(dst, " +"...), int64(len(r.Listeners)-1), 10), ')')
}

// Shown reports whether it is a dry run that is shown as a whole, in a table with words.
func (k *Kill) Shown() bool { return !k.yes && k.o.tabular() }

// start writes the header of a stream.
func (k *Kill) start() {
	if k.o.Format == CSV {
		k.line.buf = appendCSVHeader(k.line.buf, k.cols)
	}
	if !k.o.tabular() || !k.yes {
		return
	}
	k.line.sep = 1
	for _, c := range k.cols {
		k.line.widths = append(k.line.widths, max(c.width, len(c.title())))
	}
	titles(&k.line, k.cols, k.o.Color)
}

// Socket writes one line at once: an audit must not be lost with the program.
func (k *Kill) Socket(c *diagnosis.Case, f *record.Facts, o *record.KillOutcome) error {
	r := record.FromKill(c, f, o)
	if k.Shown() {
		k.planned = append(k.planned, r)
		return nil
	}
	if r.Action == record.KillDestroyed {
		for _, h := range r.Holders {
			k.held[h.Pid] = true
		}
	}
	switch k.o.Format {
	case JSON, JSONL:
		text, err := k.pick.marshal(&r)
		if err != nil {
			return err
		}
		k.line.buf = append(k.line.buf, text...)
		k.line.end()
	case CSV:
		k.line.buf, k.cell = appendCSVRow(k.line.buf, k.cell, k.cols, &r)
	default:
		cells(&k.line, k.cols, &r, k.o.Color)
		k.line.end()
	}
	return k.flush()
}

func (k *Kill) flush() error {
	if len(k.line.buf) == 0 {
		return nil
	}
	_, err := k.w.Write(k.line.buf)
	k.line.buf = k.line.buf[:0]
	return err
}

// End writes what is left: of a dry run everything.
func (k *Kill) End() error {
	if !k.Shown() {
		return k.flush()
	}
	rows := k.planned
	if k.o.Format == Table && len(k.o.Fields) == 0 {
		// The others are told below, by reason.
		rows = would(k.planned)
	}
	if len(k.planned) == 0 {
		return nil
	}
	if len(rows) > 0 {
		if err := writeTable(k.w, k.cols, rowsOf(rows), k.o.Color); err != nil {
			return err
		}
		if _, err := io.WriteString(k.w, "\n"); err != nil {
			return err
		}
	}
	p := page{color: k.o.Color}
	p.killWords(k.planned)
	return p.writeTo(k.w)
}

func would(all []record.Kill) []record.Kill {
	return slices.DeleteFunc(slices.Clone(all), func(r record.Kill) bool { return r.Action != record.KillWouldDestroy })
}

// killWords says of a dry run what would be done, what it cures and what not.
func (p *page) killWords(all []record.Kill) {
	rows := would(all)
	p.printf("%s\n", p.painted(bold, fmt.Sprintf("%s would be destroyed", plural(len(rows), "socket"))))
	p.leftAlone(all)
	if len(rows) > 0 {
		p.field("not cured", killNotCured[0])
		for _, text := range killNotCured[1:] {
			p.field("", text)
		}
		p.field("cured", killCured)
		label := "by cause"
		for _, text := range killByCause(rows) {
			p.field(label, text)
			label = ""
		}
		p.field("first", "Save the evidence:")
		p.lines("", []string{evidenceCommand(rows)})
	}
	p.printf("%s\n", p.painted(bold, "Nothing was done; add --yes to destroy."))
}

// leftAlone tells the others by what would become of them, and why.
func (p *page) leftAlone(all []record.Kill) {
	for _, action := range []record.KillAction{record.KillRefused, record.KillSkipped, record.KillFailed} {
		reasons := map[string][]string{}
		for i := range all {
			if r := &all[i]; r.Action == action {
				reasons[r.Reason] = append(reasons[r.Reason], strconv.FormatUint(r.Cookie, 10))
			}
		}
		label := string(action)
		for _, reason := range slices.Sorted(maps.Keys(reasons)) {
			p.field(label, fmt.Sprintf("%s (cookie %s): %s", plural(len(reasons[reason]), "socket"), few(reasons[reason]), reason))
			label = ""
		}
	}
}

// few lists the first of many.
func few(names []string) string {
	const most = 5
	if n := len(names) - most; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), n)
	}
	return strings.Join(names, ", ")
}

// What is true of every socket in CLOSE_WAIT that is destroyed. Each sentence was tried
// and is held by a test (e2e/kill_test.go, docs/kill.md).
var killNotCured = []string{
	"The descriptors: the process keeps them until it calls close() or ends, so this does not help against " +
		"\"too many open files\". They are shown as zombie_fd (tcpwaitd list --state close).",
	"The evidence is gone with the sockets: since when, why and where in the code.",
	"The program leaks on as before.",
}

const killCured = "The local port and the addresses are free again. The peer is told by a reset and leaves " +
	"FIN_WAIT2. What waits to be sent is thrown away and its memory freed. A thread blocked in a write() " +
	"to such a socket wakes with ECONNABORTED, one in poll() or epoll_wait() with POLLERR and POLLHUP; " +
	"read() is told nothing new."

// KillEffect says what destroying changes for one cause beyond what is true of all.
func KillEffect(c diagnosis.Cause) string {
	switch c {
	case diagnosis.Unaccepted:
		return "the accept queue stays as full as it is: a destroyed connection keeps its place until " +
			"accept() takes it, and new clients are refused as before. No process has a descriptor yet."
	case diagnosis.UnreadData:
		return "the unread data stays in memory, and readable, until close()."
	case diagnosis.UnreadEOF:
		return "the end of the stream stays unread; a program that comes back to the socket finds it as before."
	case diagnosis.EOFIgnored:
		return "the program has seen the end and does not look again, so it will hardly notice."
	case diagnosis.HeldElsewhere:
		return "every process that holds a copy loses the connection, not only the one to blame."
	case diagnosis.InFlight:
		return "whoever receives the descriptor gets a dead connection."
	case diagnosis.HalfClose:
		return "the program still sends: what the peer does not have yet is lost."
	default:
		return ""
	}
}

// killByCause has a sentence for each cause, the most sockets first.
func killByCause(rows []record.Kill) []string {
	counts := map[diagnosis.Cause]int{}
	live := 0
	for i := range rows {
		if rows[i].State != event.CloseWait.String() {
			live++
			continue
		}
		counts[diagnosis.Cause(rows[i].Cause)]++
	}
	var texts []string
	if live > 0 {
		texts = append(texts, fmt.Sprintf("%d not in CLOSE_WAIT: live connections are cut, and data on the way is lost.", live))
	}
	causes := slices.SortedFunc(maps.Keys(counts), func(a, b diagnosis.Cause) int {
		if counts[a] != counts[b] {
			return counts[b] - counts[a]
		}
		return strings.Compare(string(a), string(b))
	})
	for _, c := range causes {
		if effect := KillEffect(c); effect != "" {
			texts = append(texts, fmt.Sprintf("%d %s: %s", counts[c], c, effect))
		}
	}
	return texts
}

// maxKillPids keeps the commands readable; with more they are for all processes.
const maxKillPids = 7

// evidenceCommand keeps what is known of those concerned.
func evidenceCommand(rows []record.Kill) string {
	concerned := map[uint32]bool{}
	for i := range rows {
		r := &rows[i]
		concerned[r.Owner.Pid] = true
		for _, h := range r.Holders {
			concerned[h.Pid] = true
		}
		for _, l := range r.Listeners {
			concerned[l.Pid] = true
		}
	}
	return "tcpwaitd diagnose" + pidFlag(concerned) + " -o json > evidence.json"
}

// pidFlag chooses the processes, or all if they are many.
func pidFlag(pids map[uint32]bool) string {
	delete(pids, 0)
	if len(pids) == 0 || len(pids) > maxKillPids {
		return ""
	}
	var list []string
	for _, pid := range slices.Sorted(maps.Keys(pids)) {
		list = append(list, strconv.FormatUint(uint64(pid), 10))
	}
	return " -p " + strings.Join(list, ",")
}

// Left says what processes still have of what was destroyed, empty for nothing.
func (k *Kill) Left() string {
	if len(k.held) == 0 {
		return ""
	}
	return "their descriptors are still open: tcpwaitd list --state close" + pidFlag(k.held)
}

// KillSummary says in one line what was done, or would be.
func KillSummary(actions map[record.KillAction]int, yes bool) string {
	done, verb := actions[record.KillDestroyed], "destroyed"
	if !yes {
		done, verb = actions[record.KillWouldDestroy], "would be destroyed"
	}
	text := plural(done, "socket") + " " + verb
	for _, action := range []record.KillAction{record.KillSkipped, record.KillRefused, record.KillFailed} {
		if n := actions[action]; n > 0 {
			text += fmt.Sprintf(", %d %s", n, action)
		}
	}
	return text
}
