package report

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// Explanation is what Explain shows: one process, or one socket.
type Explanation struct {
	// Process is the judgement of the process, or of the socket alone.
	Process *diagnosis.Process
	// Socket is nil if the process was asked for.
	Socket *diagnosis.Case
	// Cases are the process's sockets, the oldest first, and States all of them by state.
	Cases       []*diagnosis.Case
	States      record.StateCounts
	Facts       *record.Facts
	Observed    time.Duration
	Loss        event.Loss
	UnreadNetns map[uint32]string
	Notes       []string
}

// Explain writes everything known of one process or one socket.
type Explain struct {
	doc  *document[record.Explanation, record.Socket]
	list *List
}

// NewExplain checks the options; the error is an *OptionError. Fields and Sort are of the
// sockets.
func NewExplain(o Options) (*Explain, error) {
	doc, err := newDocument[record.Explanation, record.Socket](o, "sockets")
	if err != nil {
		return nil, err
	}
	// The table of sockets below a process.
	list, err := NewList(Options{Format: Table, Color: o.Color, Threshold: o.Threshold})
	if err != nil {
		return nil, err
	}
	list.cols, err = pick("fields", list.all, []string{"age", "cause", "local", "remote", "recv_q", "cookie"})
	return &Explain{doc, list}, err
}

// Write writes one explanation.
func (e *Explain) Write(w io.Writer, x *Explanation) error {
	switch o := &e.doc.o; {
	case o.tabular() && len(o.Fields) == 0:
		return e.writePage(w, x)
	case x.Socket != nil:
		return e.writeSocket(w, x)
	default:
		return e.writeProcess(w, x)
	}
}

func (e *Explain) writeProcess(w io.Writer, x *Explanation) (err error) {
	r := record.NewExplanation(x.Process, x.Cases, x.States, x.Facts, x.Observed, e.doc.o.Threshold)
	r.Notes, r.Loss, r.UnreadNetns = x.Notes, record.LossOf(x.Loss), record.UnreadOf(x.UnreadNetns)
	if r.Sockets, err = e.doc.sorted(r.Sockets); err != nil {
		return err
	}
	if f := e.doc.o.Format; f == JSON || f == JSONL {
		return e.doc.writeJSON(w, &r)
	}
	return e.doc.writeRows(w, r.Sockets)
}

// writeSocket writes the bare record of the socket, or its row.
func (e *Explain) writeSocket(w io.Writer, x *Explanation) error {
	r := record.FromCase(x.Socket, x.Facts)
	f := e.doc.o.Format
	if f != JSON && f != JSONL {
		return e.doc.writeRows(w, []record.Socket{r})
	}
	var chosen selection
	if len(e.doc.o.Fields) > 0 {
		chosen = selectPaths(e.doc.o.Fields)
	}
	text, err := chosen.append(nil, reflect.ValueOf(&r))
	if err != nil {
		return err
	}
	if f == JSON {
		var out bytes.Buffer
		if err := json.Indent(&out, text, "", "  "); err != nil {
			return err
		}
		text = out.Bytes()
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

func (e *Explain) writePage(w io.Writer, x *Explanation) error {
	o := &e.doc.o
	p := &page{color: o.Color, all: o.Format == Wide, whole: true, rates: x.Observed >= minRate}
	if x.Socket != nil {
		(&story{p, x, x.Socket, x.Facts.Stacks[x.Socket.Cookie], o}).write()
		return p.writeTo(w)
	}
	r := record.NewExplanation(x.Process, nil, x.States, x.Facts, x.Observed, o.Threshold)
	p.states = statesText(&x.States)
	// Who reads this has run it.
	itself := fmt.Sprintf("tcpwaitd explain %d", r.Process.Pid)
	r.Process.Commands = slices.DeleteFunc(slices.Clone(r.Process.Commands), func(c string) bool { return c == itself })
	p.block(&r.Process, nil)
	if err := e.writeCases(&p.buf, x, p.all); err != nil {
		return err
	}
	r.Loss, r.UnreadNetns = record.LossOf(x.Loss), record.UnreadOf(x.UnreadNetns)
	p.reservations(r.Loss, r.UnreadNetns)
	return p.writeTo(w)
}

func statesText(counts *record.StateCounts) string {
	var parts []string
	for _, s := range event.States() {
		if counts[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[s], s))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "it has no TCP sockets")
}

// maxSockets are listed below a process; wide shows all.
const maxSockets = 20

func (e *Explain) writeCases(w io.Writer, x *Explanation, all bool) error {
	if len(x.Cases) == 0 {
		return nil
	}
	shown := x.Cases
	if !all {
		shown = shown[:min(len(shown), maxSockets)]
	}
	s := &Sockets{Facts: x.Facts}
	for _, c := range shown {
		s.Cases = append(s.Cases, *c)
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	if err := e.list.Write(w, s); err != nil {
		return err
	}
	if more := len(x.Cases) - len(shown); more > 0 {
		_, err := fmt.Fprintf(w, "and %s more (tcpwaitd list -p %d)\n", plural(more, "socket"), x.Process.Task.Pid)
		return err
	}
	return nil
}

// story is the page of one socket.
type story struct {
	*page
	x      *Explanation
	c      *diagnosis.Case
	stacks *record.Stacks
	o      *Options
}

func (s *story) write() {
	c := s.c
	title := fmt.Sprintf("socket %d", c.Cookie)
	if c.Cookie == 0 {
		title = fmt.Sprintf("socket with inode %d", c.Inode)
	}
	text := c.State.String()
	if age := Age(c.Dwell(), c.Bound); age != "" {
		text += " for " + age
	}
	if c.Cause != diagnosis.None {
		text += ", " + string(c.Cause)
	}
	s.printf("%s: %s\n", s.painted(bold, title), s.painted(stuckColor(&socketRow{c: c}, s.o.Threshold), text))
	s.field("local", string(appendAddrPort(nil, c.Flow.Local)))
	s.field("remote", s.remote())
	s.who()
	s.timeline()
	s.field("cause", causeText(c))
	s.field("ends", endText(c))
	if len(s.x.Process.Commands) > 0 {
		s.lines("try", s.x.Process.Commands)
	}
	advice := s.x.Process.Advice
	if len(advice) == 0 {
		advice = nonEmpty(diagnosis.AdviceFor(c.Cause))
	}
	s.advice(advice)
	s.places()
	s.reservations(record.LossOf(s.x.Loss), nil)
}

func (s *story) remote() string {
	text := string(appendAddrPort(nil, s.c.Flow.Remote))
	p, known := s.x.Facts.Peers[s.c.Cookie]
	switch {
	case !known:
	case p.Pid != 0:
		text += fmt.Sprintf(", on this host: pid %d %s, %s", p.Pid, p.Comm, p.State)
	default:
		text += ", on this host: " + p.State
	}
	return text
}

// who names the process blamed, and everybody with a descriptor.
func (s *story) who() {
	r := record.FromCase(s.c, s.x.Facts)
	owner := "nobody known"
	if r.Owner.Pid != 0 {
		owner = fmt.Sprintf("pid %d %s, known by %s", r.Owner.Pid, r.Owner.Comm, r.Owner.Evidence)
	}
	s.field("process", owner)
	s.lines("command", nonEmpty(clip(cmp.Or(r.Owner.Cmdline, r.Owner.Exe), s.all)))
	s.field("where", placeText(&record.Suspect{Unit: r.Owner.Unit, Container: cmp.Or(r.Owner.Container, r.Container), Pod: r.Owner.Pod}))
	s.field("holders", s.holders())
	s.field("listeners", listenersText(record.ListenersOf(s.c), s.all))
}

// maxHolders keeps a line readable; wide shows all.
const maxHolders = 8

func (s *story) holders() string {
	if !s.c.HoldersKnown {
		return "not looked for"
	}
	if len(s.c.Holders) == 0 {
		return "no process has a descriptor"
	}
	var parts []string
	for i := range s.c.Holders {
		h := &s.c.Holders[i]
		if i == maxHolders && !s.all {
			parts = append(parts, fmt.Sprintf("%d more", len(s.c.Holders)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("%d %s fd %d", h.Pid, record.Escape(h.Comm.String()), h.FD))
	}
	return strings.Join(parts, ", ")
}

// timeline tells the socket's life in its order.
func (s *story) timeline() {
	var lines []string
	tell := func(at event.KTime, format string, args ...any) {
		lines = append(lines, s.clock(at)+fmt.Sprintf(format, args...))
	}
	c := s.c
	s.opened(tell)
	s.entered(tell)
	s.told(tell)
	if c.LastSend != 0 && (c.SentAfterFin > 0 || c.Cause == diagnosis.HalfClose) {
		tell(c.LastSend, "sent data, the last time so far")
	}
	if c.QueuesKnown {
		tell(c.At, "now: recv_q %d, send_q %d", c.RecvQ, c.SendQ)
	} else {
		tell(c.At, "now")
	}
	for i, text := range lines {
		s.field(map[bool]string{true: "timeline"}[i == 0], text)
	}
}

// clock writes a moment; one not known takes no room.
func (s *story) clock(at event.KTime) string {
	if at == 0 {
		return ""
	}
	now := s.x.Facts.Clock.Time(s.c.At).In(s.o.location())
	t, layout := s.x.Facts.Clock.Time(at).In(s.o.location()), "2006-01-02 15:04:05"
	if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		layout = "15:04:05"
	}
	return t.Format(layout) + " "
}

// happened is the place of one stack and who was there.
func (s *story) happened(slot event.StackSlot) string {
	st := stackAt(s.stacks, slot)
	if st == nil {
		return ""
	}
	one := stackedOf(slot.String(), record.Word(s.c.Direction.String()), record.CauseOf(s.c), st)
	text := one.place()
	if st.Tid != 0 {
		text += fmt.Sprintf(" (thread %d %s)", st.Tid, st.Comm)
	}
	return text
}

type teller func(at event.KTime, format string, args ...any)

func (s *story) opened(tell teller) {
	c := s.c
	switch text := s.happened(event.StackOpen); {
	case text != "":
		tell(0, "%s", text)
	case c.Cause == diagnosis.Unaccepted:
		tell(0, "the connection was made by the kernel; nobody has accepted it")
	case c.Baseline:
		tell(0, "opened before tcpwaitd looked")
	}
	if text := s.happened(event.StackLastRead); text != "" {
		tell(0, "%s", text)
	}
}

// entered says since when the socket has been in its state.
func (s *story) entered(tell teller) {
	c := s.c
	if text := s.happened(event.StackClose); text != "" {
		tell(0, "%s", text)
	}
	what := "in " + c.State.String() + " since then"
	if c.State == event.CloseWait {
		what = "the peer closed; " + what
	}
	switch {
	case c.Bound == event.BoundUnknown || c.Since == 0:
		tell(0, "nobody knows how long it has been in %s", c.State)
	case c.Bound == event.Exact:
		tell(c.Since, "%s", what)
	case c.Earliest != 0 && s.clock(c.Earliest) == s.clock(c.Since):
		tell(c.Since, "%s", what)
	case c.Earliest != 0:
		tell(c.Earliest, "to %s%s (nobody watched, so between these)", s.clock(c.Since), what)
	default:
		tell(c.Since, "or before: %s", what)
	}
}

// told says whether and where the program learned that the peer has closed.
func (s *story) told(tell teller) {
	c := s.c
	if c.State != event.CloseWait || c.Cause == diagnosis.Unaccepted {
		return
	}
	switch {
	case c.EOFSeen:
		text := fmt.Sprintf("EOF was told to pid %d %s, thread %d", c.EOFTask.Pid, record.Escape(c.EOFTask.Comm.String()), c.EOFTask.Tid)
		if !c.EOFTask.Known() {
			text = "EOF was told"
		}
		if st := stackAt(s.stacks, event.StackEOF); st != nil {
			one := stackedOf(event.StackEOF.String(), "", "", st)
			text += ", at " + one.at()
		}
		tell(c.EOFAt, "%s", text)
	case c.RecvQ > 1:
		tell(0, "%d bytes and the EOF behind them are unread", c.RecvQ-1)
	case c.RecvQ == 1:
		tell(0, "the EOF is unread")
	case c.EOFWatched:
		tell(0, "no read has returned 0 since: the program was not told")
	default:
		tell(0, "the EOF was read; whether a read returned 0 nobody watched")
	}
}

// places shows the stacks in full.
func (s *story) places() {
	for slot := range event.StackSlots {
		st := stackAt(s.stacks, slot)
		if st == nil {
			continue
		}
		one := stackedOf(slot.String(), record.Word(s.c.Direction.String()), record.CauseOf(s.c), st)
		s.printf("\n%s\n", s.painted(bold, strings.TrimSuffix(one.verb(), " at")))
		s.stack(&one, 0)
	}
}

func stackAt(stacks *record.Stacks, slot event.StackSlot) *record.Stack {
	if stacks == nil {
		return nil
	}
	return [event.StackSlots]*record.Stack{stacks.Open, stacks.LastRead, stacks.EOF, stacks.Close}[slot]
}

// causeText is the rule by which the cause was found. Two rules lead to unread_eof; the
// queue tells which.
func causeText(c *diagnosis.Case) string {
	if c.Cause == diagnosis.None {
		return fmt.Sprintf("none: a socket in %s is no wait for close()", c.State)
	}
	rules := slices.DeleteFunc(diagnosis.Rules(), func(r diagnosis.Rule) bool { return r.Cause != c.Cause })
	r := rules[0]
	if c.Cause == diagnosis.UnreadEOF && c.RecvQ == 0 {
		r = rules[len(rules)-1]
	}
	return fmt.Sprintf("%s: %s; %s", c.Cause, r.When, r.Fault)
}

// endText says what would end the wait.
func endText(c *diagnosis.Case) string {
	switch c.Cause {
	case diagnosis.None:
		return ""
	case diagnosis.Unaccepted:
		return "with accept() and then close() by a process that listens, or with the end of the listening socket"
	case diagnosis.InFlight:
		return "when who receives the descriptor closes it, or what carries it (unix socket, io_uring) is closed"
	case diagnosis.HalfClose:
		return "when the program has sent all and closes"
	default:
		return closeText(c)
	}
}

// closeText says who has to close what.
func closeText(c *diagnosis.Case) string {
	by := holdersText(c)
	if by == "" {
		return "with close() by whoever holds it"
	}
	return "with close() of " + by + ", or with the end of " + map[bool]string{true: "that process", false: "those processes"}[oneHolder(c)]
}

func oneHolder(c *diagnosis.Case) bool {
	return !slices.ContainsFunc(c.Holders, func(h event.Holder) bool { return h.Pid != c.Holders[0].Pid })
}

func holdersText(c *diagnosis.Case) string {
	var parts []string
	for i := range c.Holders {
		if i == maxHolders {
			parts = append(parts, fmt.Sprintf("%d more", len(c.Holders)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("descriptor %d of pid %d", c.Holders[i].FD, c.Holders[i].Pid))
	}
	if n := len(parts); n > 1 {
		return strings.Join(parts[:n-1], ", ") + " and " + parts[n-1]
	}
	return strings.Join(parts, "")
}
