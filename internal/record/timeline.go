package record

import (
	"fmt"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Step is one thing that happened to a socket, or that is not known to have happened.
type Step struct {
	// Time is null where nobody saw when it was. Bound says what it means: "exact", "at_least"
	// (then or before; not before Earliest, if that is there), "about" (to a kernel tick).
	Time     Time `json:"time"`
	Earliest Time `json:"earliest,omitzero"`
	Bound    Word `json:"bound"`
	// What is a sentence; where it is what a process did, that is Pid, Tid and Comm.
	What string `json:"what"`
	Pid  uint32 `json:"pid,omitzero"`
	Tid  uint32 `json:"tid,omitzero"`
	Comm string `json:"comm,omitempty"`
	// Evidence is as of owners, or "transition" (it was watched), "timestamps" (the kernel keeps
	// them), "queues", "none".
	Evidence string `json:"evidence"`
	// Stack names the one of the socket's stacks that was taken then.
	Stack string `json:"stack,omitempty"`
}

const (
	byTransition = "transition"
	byTimestamps = "timestamps"
	byQueues     = "queues"
	byNobody     = "none"

	about Word = "about"
)

// Timeline tells the life of a socket in its order, as far as it is known; what is not is
// said to be unknown.
func Timeline(c *diagnosis.Case, f *Facts) []Step {
	t := timeline{c: c, f: f}
	t.opened()
	t.used()
	t.entered()
	t.told()
	t.letGo()
	t.acknowledged()
	t.now()
	return t.steps
}

type timeline struct {
	c     *diagnosis.Case
	f     *Facts
	steps []Step
}

func (t *timeline) add(s Step) { t.steps = append(t.steps, s) }

// at is a moment of the kernel's clock.
func (t *timeline) at(k event.KTime) Time {
	if k == 0 {
		return Time{}
	}
	return At(t.f.Clock, k)
}

// by is a step that a process did.
func by(what string, task *event.Task, evidence event.Evidence) Step {
	return Step{What: what, Pid: task.Pid, Tid: task.Tid, Comm: Escape(task.Comm.String()), Evidence: evidence.String()}
}

// stack names the stack of a moment, if there is one.
func (t *timeline) stack(at event.StackSlot) string {
	if s := t.f.Stacks[t.c.Cookie]; s != nil && s.slot(at) != nil {
		return at.String()
	}
	return ""
}

func (t *timeline) opened() {
	c := t.c
	s := Step{What: "opened; nobody saw when or by whom", Evidence: byNobody}
	switch {
	case c.Cause == diagnosis.Unaccepted:
		s.What = "the kernel made the connection; nobody has accepted it"
	case !c.Owner.Known():
	case c.Socket.Evidence == event.EvidenceAccept:
		s = by("accept() returned it", &c.Owner, c.Socket.Evidence)
	case c.Socket.Evidence == event.EvidenceConnect:
		s = by("connect() opened it", &c.Owner, c.Socket.Evidence)
	}
	if s.Evidence == byNobody && c.Baseline && c.Cause != diagnosis.Unaccepted {
		s.What = "opened before tcpwaitd looked; nobody saw by whom"
	}
	s.Stack = t.stack(event.StackOpen)
	t.add(s)
}

// used says who was the first and the last to read or write, and when data was sent.
func (t *timeline) used() {
	c := t.c
	if e := c.Socket.Evidence; c.Owner.Known() && (e == event.EvidenceRead || e == event.EvidenceWrite) {
		s := by("the first that was seen to "+e.String(), &c.Owner, e)
		s.Stack = t.stack(event.StackLastRead)
		t.add(s)
	} else if at := t.stack(event.StackLastRead); at != "" {
		t.add(Step{What: "first used by a process that had not opened it", Evidence: byNobody, Stack: at})
	}
	if c.User.Known() {
		t.add(by("the last to read or write while that was watched", &c.User, c.UserEvidence))
	} else if c.Cause != diagnosis.Unaccepted && c.Cause != diagnosis.None {
		t.add(Step{What: "last read or written: nobody watched by whom", Evidence: byNobody})
	}
	if !t.sentLate() {
		t.sent()
	}
}

// sentLate: the last send came after the wait began.
func (t *timeline) sentLate() bool {
	return t.c.SentAfterFin > 0 || t.c.Cause == diagnosis.HalfClose || t.c.LastSend > t.c.Since
}

func (t *timeline) sent() {
	c := t.c
	if c.LastSend == 0 {
		return
	}
	// The kernel stamps a new connection as if it had just sent.
	s := Step{Time: t.at(c.LastSend), Bound: about, Evidence: byTimestamps, What: "last data sent, or connected if none ever was"}
	if t.sentLate() {
		s.What = "last data sent"
	}
	t.add(s)
}

// entered says since when the socket has been in its state.
func (t *timeline) entered() {
	c := t.c
	s := Step{What: c.State.String() + " from then on", Evidence: byTransition, Stack: t.stack(event.StackClose)}
	switch {
	case c.State == event.CloseWait:
		s.What = "the peer's FIN came: " + s.What
	case c.Cause == diagnosis.ZombieFD && s.Stack != "":
		s.What = "shutdown() was called: " + s.What
	}
	switch {
	case c.Bound == event.BoundUnknown || c.Since == 0:
		s.What, s.Evidence = "nobody knows how long it has been in "+c.State.String(), byNobody
	case c.Bound == event.Exact:
		s.Time, s.Bound = t.at(c.Since), Word(c.Bound.String())
	default:
		s.Time, s.Bound, s.Evidence = t.at(c.Since), Word(c.Bound.String()), byTimestamps
		if c.Earliest != 0 && c.Earliest < c.Since {
			s.Earliest = t.at(c.Earliest)
		}
	}
	t.add(s)
	if t.sentLate() {
		t.sent()
	}
}

// told says whether the program learned that the peer has closed.
func (t *timeline) told() {
	c := t.c
	if c.State != event.CloseWait || c.Cause == diagnosis.Unaccepted {
		return
	}
	switch s := (Step{Evidence: byQueues}); {
	case c.EOFSeen:
		s = by("recv() returned 0: the program was told", &c.EOFTask, event.EvidenceRead)
		s.Time, s.Stack = t.at(c.EOFAt), t.stack(event.StackEOF)
		if c.EOFAt != 0 {
			s.Bound = Word(event.Exact.String())
		}
		t.add(s)
	case c.RecvQ > 1:
		s.What = fmt.Sprintf("%d bytes and the end behind them are unread", c.RecvQ-1)
		t.add(s)
	case c.RecvQ == 1:
		s.What = "the end is unread"
		t.add(s)
	case c.EOFWatched:
		s.What, s.Evidence = "no read has returned 0: the program was not told", event.EvidenceRead.String()
		t.add(s)
	default:
		s.What = "the end was read; whether a read returned 0 nobody watched"
		t.add(s)
	}
}

// maxPassed keeps the list of holders short.
const maxPassed = 8

// letGo says who had the socket and has it no more, and who has it instead.
func (t *timeline) letGo() {
	c := t.c
	if !c.HoldersKnown || c.Cause == diagnosis.Unaccepted {
		return
	}
	opener, user, told := Parties(c, t.f)
	var known []*Party
	for _, p := range []*Party{opener, user, told} {
		if p == nil || slices.ContainsFunc(known, func(o *Party) bool { return o.Pid == p.Pid && o.StartTime == p.StartTime }) {
			continue
		}
		known = append(known, p)
		if !*p.Holds {
			t.add(Step{What: "has no descriptor any more; nobody saw when it let go", Pid: p.Pid, Comm: p.Comm, Evidence: event.EvidenceScan.String()})
		}
	}
	for i := range c.Passed {
		p := &c.Passed[i]
		t.add(Step{
			What: "can receive it: it is in a unix-socket message", Pid: p.Receiver.Pid,
			Comm: Escape(p.Receiver.Comm.String()), Evidence: event.EvidenceScan.String(),
		})
	}
	if opener == nil {
		return
	}
	listed := map[uint32]bool{}
	for i := range c.Holders {
		h := &c.Holders[i]
		if listed[h.Pid] || h.Pid == opener.Pid || len(listed) == maxPassed {
			continue
		}
		listed[h.Pid] = true
		s := by("has a descriptor, inherited or passed; nobody saw which", &h.Task, event.EvidenceScan)
		s.Tid = 0
		t.add(s)
	}
}

// acknowledged: signs of life from the peer, well after the wait began.
func (t *timeline) acknowledged() {
	const later = time.Second // an ACK of the FIN exchange itself says nothing
	if c := t.c; c.State == event.CloseWait && c.LastAck != 0 && c.Since != 0 && c.LastAck.Sub(c.Since) > later {
		t.add(Step{Time: t.at(c.LastAck), Bound: about, What: "last answer from the peer's kernel", Evidence: byTimestamps})
	}
}

func (t *timeline) now() {
	c := t.c
	s := Step{Time: t.at(c.At), Bound: Word(event.Exact.String()), What: "now " + c.State.String(), Evidence: byQueues}
	if c.QueuesKnown {
		s.What += fmt.Sprintf(", recv_q %d, send_q %d", c.RecvQ, c.SendQ)
	} else {
		s.Evidence = event.EvidenceScan.String()
	}
	t.add(s)
}
