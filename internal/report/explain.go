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
	Cases  []*diagnosis.Case
	States record.StateCounts
	Facts  *record.Facts
	// Access says how the commands that are printed get to what they look at.
	Access      diagnosis.Access
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

func (e *Explain) record(x *Explanation) record.Explanation {
	r := record.NewExplanation(x.Process, x.Cases, x.States, x.Facts, x.Access, x.Observed, e.doc.o.Threshold)
	r.Notes, r.Loss, r.UnreadNetns = x.Notes, record.LossOf(x.Loss), record.UnreadOf(x.UnreadNetns)
	return r
}

func (e *Explain) writeProcess(w io.Writer, x *Explanation) (err error) {
	r := e.record(x)
	if r.Sockets, err = e.doc.sorted(r.Sockets); err != nil {
		return err
	}
	if f := e.doc.o.Format; f == JSON || f == JSONL {
		return e.doc.writeJSON(w, &r)
	}
	return e.doc.writeRows(w, r.Sockets)
}

// writeSocket writes the record of the socket with what is explained of it, or its row.
func (e *Explain) writeSocket(w io.Writer, x *Explanation) error {
	r := record.NewSocketExplanation(x.Socket, x.Facts, x.Access)
	f := e.doc.o.Format
	if f != JSON && f != JSONL {
		return e.doc.writeRows(w, []record.Socket{r.Socket})
	}
	r.Notes = x.Notes
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
		newStory(p, x, x.Socket, o).write()
		return p.writeTo(w)
	}
	r := e.record(x)
	p.states = statesText(&x.States)
	if !r.Process.StartTime.IsZero() {
		p.started = r.Process.StartTime.In(o.location()).Format("2006-01-02 15:04:05")
	}
	p.shared = sharedText(r.Shared, p.all)
	// Who reads this has run it.
	itself := fmt.Sprintf("tcpwaitd explain %d", r.Process.Pid)
	r.Process.Commands = slices.DeleteFunc(slices.Clone(r.Commands), func(c string) bool { return c == itself })
	r.Process.Advice = r.Advice
	p.block(&r.Process, nil)
	if len(x.Cases) > 0 {
		newStory(p, x, x.Cases[0], o).brief(len(x.Cases))
	}
	if err := e.writeCases(&p.buf, x, p.all); err != nil {
		return err
	}
	p.reservations(r.Loss, r.UnreadNetns)
	return p.writeTo(w)
}

func sharedText(shared []record.Shared, all bool) string {
	var parts []string
	for i := range shared {
		if i == maxHolders && !all {
			parts = append(parts, fmt.Sprintf("%d processes more", len(shared)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("%d with pid %d %s", shared[i].N, shared[i].Pid, shared[i].Comm))
	}
	return strings.Join(parts, ", ")
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
	cases := make(diagnosis.CaseList, 0, len(shown))
	for _, c := range shown {
		cases = append(cases, *c)
	}
	s := &Sockets{Facts: x.Facts, Cases: cases}
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
	told   record.SocketExplanation
}

func newStory(p *page, x *Explanation, c *diagnosis.Case, o *Options) *story {
	return &story{p, x, c, x.Facts.Stacks[c.Cookie], o, record.NewSocketExplanation(c, x.Facts, x.Access)}
}

// head is the socket, its state and its cause.
func (s *story) head() string {
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
	return s.painted(bold, title) + ": " + s.painted(stuckColor(&socketRow{c: c}, s.o.Threshold), text)
}

func (s *story) write() {
	s.printf("%s\n", s.head())
	s.ends()
	s.who()
	s.timeline()
	s.field("cause", causeText(s.c))
	s.list("ends by", s.told.Endings)
	s.lines("try", s.told.Commands)
	s.advice(s.told.Advice)
	s.places()
	s.reservations(record.LossOf(s.x.Loss), nil)
}

// brief tells the oldest of many sockets, below their process.
func (s *story) brief(of int) {
	which := "the only one"
	if of > 1 {
		which = fmt.Sprintf("the oldest of %d", of)
	}
	s.printf("\n%s (%s)\n", s.head(), which)
	s.ends()
	s.field("holders", s.holders())
	s.timeline()
	s.list("ends by", s.told.Endings)
}

// ends are both ends of the connection.
func (s *story) ends() {
	local, remote := string(appendAddrPort(nil, s.c.Flow.Local)), string(appendAddrPort(nil, s.c.Flow.Remote))
	if name := s.x.Facts.NetnsNames[s.c.Flow.Netns]; name != "" && name != "host" {
		local += ", in the network namespace " + name
	}
	s.field("local", local)
	s.field("remote", remote)
	if p, known := s.x.Facts.Peers[s.c.Cookie]; known {
		s.field("peer", peerText(&p, s.c))
	}
}

// peerText is the other end, and how it is known to be that.
func peerText(p *record.Peer, c *diagnosis.Case) string {
	if p.Gone {
		return "was on this host and is gone"
	}
	text := p.State
	switch {
	case p.Pid == 0:
	case len(p.Holders) == 0 && p.Holders != nil:
		text = fmt.Sprintf("pid %d %s, which has closed it: %s", p.Pid, p.Comm, text)
	default:
		text = fmt.Sprintf("pid %d %s, %s", p.Pid, p.Comm, text)
	}
	switch n := len(p.Holders); {
	case n == 0 && p.Holders != nil && p.Pid == 0:
		text += ", held by no process any more"
	case n > 0 && p.Pid == 0:
		text += fmt.Sprintf(", held by pid %d %s", p.Holders[0].Pid, p.Holders[0].Comm)
		if n > 1 {
			text += fmt.Sprintf(" and %d more", n-1)
		}
	case n > 0:
		text += fmt.Sprintf(", fd %d", p.Holders[0].FD)
	}
	if p.DwellNS != nil {
		text += " for " + ageText(*p.DwellNS, p.DwellBound)
	}
	if p.Netns != 0 && p.Netns != c.Flow.Netns {
		text += ", in the network namespace " + cmp.Or(p.NetnsName, fmt.Sprint(p.Netns))
	}
	if p.Cookie != 0 && c.Flow.Protocol != event.MPTCP {
		text += fmt.Sprintf(", socket %d", p.Cookie)
	}
	return text + map[string]string{
		"flow": " (known by its addresses)", "sequence": " (known by its sequence numbers)",
		"flow_and_sequence": " (known by its addresses and sequence numbers)",
	}[p.MatchedBy]
}

// list is a label and a paragraph for each text.
func (p *page) list(label string, texts []string) {
	for i, text := range texts {
		p.field(map[bool]string{true: label}[i == 0], text)
	}
}

// who names the process blamed, and everybody with a descriptor.
func (s *story) who() {
	r := &s.told.Socket
	owner := "nobody known"
	if r.Owner.Pid != 0 {
		owner = fmt.Sprintf("pid %d %s, known by %s", r.Owner.Pid, r.Owner.Comm, r.Owner.Evidence)
	}
	s.field("process", owner)
	s.lines("command", nonEmpty(clip(cmp.Or(r.Owner.Cmdline, r.Owner.Exe), s.all)))
	container := cmp.Or(r.Owner.Container, r.Container)
	s.field("where", placeText(&record.Suspect{
		Unit: r.Owner.Unit, Container: container, Pod: r.Owner.Pod, Names: s.x.Facts.Names(container, r.Owner.Pod),
	}))
	s.field("holders", s.holders())
	s.field("listeners", listenersText(record.ListenersOf(s.c), s.all))
}

// maxHolders keeps a line readable; wide shows all.
const maxHolders = 8

// holders names everybody with a descriptor, and how he came to it as far as that was seen.
func (s *story) holders() string {
	if !s.c.HoldersKnown {
		return "not looked for"
	}
	if len(s.c.Holders) == 0 {
		return "no process has a descriptor" + s.inFlight()
	}
	opener := s.told.Opener
	var parts []string
	for i := range s.c.Holders {
		h := &s.c.Holders[i]
		if i == maxHolders && !s.all {
			parts = append(parts, fmt.Sprintf("%d more", len(s.c.Holders)-i))
			break
		}
		how := ""
		switch {
		case opener == nil:
		case diagnosis.SameProcess(&h.Task, &s.c.Owner):
			how = " (opened it)"
		default:
			how = " (inherited or passed)"
		}
		parts = append(parts, fmt.Sprintf("%d %s fd %d%s", h.Pid, record.Escape(h.Comm.String()), h.FD, how))
	}
	return strings.Join(parts, ", ")
}

// inFlight says what has the socket instead of a process.
func (s *story) inFlight() string {
	f := s.told.InFlight
	if f == nil {
		return ""
	}
	switch f.Where {
	case "message":
		text := "; it is in a unix-socket message that nobody has received"
		if f.Sender != 0 {
			text += fmt.Sprintf(", sent by pid %d", f.Sender)
		}
		return text
	case "io_uring":
		return "; it is a fixed file of an io_uring"
	case "kernel":
		return "; the kernel made it for itself"
	default:
		return "; what has it is not known"
	}
}

// timeline tells the socket's life in its order.
func (s *story) timeline() {
	for i := range s.told.Timeline {
		step := &s.told.Timeline[i]
		text := s.when(step)
		if step.Pid != 0 {
			text += fmt.Sprintf("pid %d %s", step.Pid, step.Comm)
			if step.Tid != 0 && step.Tid != step.Pid {
				text += fmt.Sprintf(", thread %d", step.Tid)
			}
			text += ": "
		}
		text += step.What
		if st := s.stackNamed(step.Stack); st != nil {
			one := stackedOf(step.Stack, record.Word(s.c.Direction.String()), record.CauseOf(s.c), st)
			text += ", at " + one.at()
		}
		s.field(map[bool]string{true: "timeline"}[i == 0], text)
	}
}

// when is the moment of a step; one not known takes no room.
func (s *story) when(step *record.Step) string {
	if step.Time.IsZero() {
		return ""
	}
	at := s.clock(step.Time.Time)
	switch {
	case step.Bound == record.Word(event.AtLeast.String()) && step.Earliest.IsZero():
		return at + " or before: "
	case !step.Earliest.IsZero() && s.clock(step.Earliest.Time) != at:
		return fmt.Sprintf("between %s and %s (nobody watched): ", s.clock(step.Earliest.Time), at)
	default:
		return at + " "
	}
}

func (s *story) clock(at time.Time) string {
	now := s.x.Facts.Clock.Time(s.c.At).In(s.o.location())
	at = at.In(s.o.location())
	if at.YearDay() == now.YearDay() && at.Year() == now.Year() {
		return at.Format("15:04:05")
	}
	return at.Format("2006-01-02 15:04:05")
}

func (s *story) stackNamed(slot string) *record.Stack {
	for at := range event.StackSlots {
		if at.String() == slot {
			return stackAt(s.stacks, at)
		}
	}
	return nil
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
