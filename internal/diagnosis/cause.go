package diagnosis

import (
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Cause says why a socket is not closed, as far as kernel facts tell. The empty
// cause is none.
type Cause string

// The causes, spelled as in records.
const (
	None          Cause = ""
	Unaccepted    Cause = "unaccepted"
	UnreadData    Cause = "unread_data"
	UnreadEOF     Cause = "unread_eof"
	EOFIgnored    Cause = "eof_ignored"
	HalfClose     Cause = "half_close"
	HeldElsewhere Cause = "held_elsewhere"
	InFlight      Cause = "in_flight"
	ZombieFD      Cause = "zombie_fd"
)

const (
	// ackDelay is the longest an ACK of data follows the data. A keepalive answer
	// also counts as an ACK after the FIN, but comes at any time.
	ackDelay = time.Second
	// minStall keeps a very small threshold from calling a stream stalled between two
	// writes.
	minStall = time.Second
)

// Rule is one row of the table that Explain walks: the first that holds names the
// cause.
type Rule struct {
	Cause Cause
	// When is the kernel fact, Fault who is at fault, both in words.
	When, Fault string
	holds       func(*facts) bool
}

// Rules returns the ordered table. RecvQ counts the FIN as one byte.
func Rules() []Rule {
	return []Rule{
		{
			None, "a TCP subflow of an MPTCP socket", "shown with that socket",
			func(f *facts) bool { return f.Subflow },
		},
		{
			ZombieFD, "state CLOSE, once connected, a descriptor still open", "shutdown() without close()",
			func(f *facts) bool { return f.State == event.Close && f.WasConnected && len(f.holding) > 0 },
		},
		{
			None, "any other state than CLOSE_WAIT", "nobody",
			func(f *facts) bool { return f.State != event.CloseWait },
		},
		{
			Unaccepted, "no inode and no holder: still in the accept queue", "the listener's process does not call accept()",
			func(f *facts) bool { return f.queued() },
		},
		{
			HalfClose, "sent data after the FIN, the last time less than the threshold ago", "nobody: legitimate use",
			func(f *facts) bool { return f.sentAfterFin() && !f.stalled() },
		},
		{
			InFlight, "inode set, no process holds a descriptor", "a unix-socket message, io_uring or the kernel has it",
			func(f *facts) bool { return f.Inode != 0 && f.HoldersKnown && len(f.holding) == 0 },
		},
		{
			HeldElsewhere, "the process that was told of the end (else that read or wrote last, else that opened it) holds no descriptor, another does", "an inherited or passed descriptor",
			func(f *facts) bool { return f.passedOn() },
		},
		{
			UnreadData, "RecvQ > 1", "the process stopped reading",
			func(f *facts) bool { return f.RecvQ > 1 },
		},
		{
			UnreadEOF, "RecvQ = 1", "nobody polls this socket",
			func(f *facts) bool { return f.RecvQ == 1 },
		},
		{
			UnreadEOF, "RecvQ = 0, every read was watched and none returned 0", "nobody reads on: the FIN came with the last data",
			func(f *facts) bool { return f.EOFWatched && !f.EOFSeen },
		},
		{
			EOFIgnored, "RecvQ = 0, nothing sent since", "the process saw EOF and never calls close()",
			func(*facts) bool { return true },
		},
	}
}

// facts is a case with what the rules ask of it worked out.
type facts struct {
	*Case
	threshold time.Duration
	// holding are the processes with a descriptor, each once, in the order given.
	holding []event.Task
}

// Explain is that of an Explainer of its own.
func Explain(c *Case, threshold time.Duration) { NewExplainer(threshold).Explain(c) }

// Explainer explains many cases and allocates nothing for each. Not for use from several
// goroutines.
type Explainer struct {
	rules  []Rule
	blames []Blame
	facts  facts
}

// NewExplainer explains with the tables of Rules and Blames. From threshold on without a send
// a half-close counts as stalled.
func NewExplainer(threshold time.Duration) *Explainer {
	return &Explainer{Rules(), Blames(), facts{threshold: max(threshold, minStall)}}
}

// Again returns the same explainer for another goroutine.
func (x *Explainer) Again() *Explainer {
	return &Explainer{x.rules, x.blames, facts{threshold: x.facts.threshold}}
}

// Explain sets Cause, Blamed and Evidence from the kernel's facts.
func (x *Explainer) Explain(c *Case) {
	f := &x.facts
	f.Case, f.holding = c, appendProcesses(f.holding[:0], c.Holders)
	c.Cause = None
	for i := range x.rules {
		if x.rules[i].holds(f) {
			c.Cause = x.rules[i].Cause
			break
		}
	}
	c.Blamed, c.Evidence = event.Task{}, event.EvidenceNone
	for i := range x.blames {
		if !x.blames[i].isFor(c.Cause) {
			continue
		}
		if who, evidence := x.blames[i].who(f); who.Known() {
			c.Blamed, c.Evidence = who, evidence
			break
		}
	}
}

// queued: nobody has accepted the connection. A holder disproves it: accept() came
// between the two passes. A connecting socket is in no queue.
func (f *facts) queued() bool {
	return f.Inode == 0 && len(f.holding) == 0 && f.Direction != event.Out
}

func (f *facts) sentAfterFin() bool {
	if f.SentKnown {
		return f.SentAfterFin > 0
	}
	if !f.AckedAfterFin || f.LastSend == 0 || f.LastAck == 0 {
		return false
	}
	// A send younger than an ACK that came after the FIN is after the FIN itself.
	return f.LastAck.Sub(f.LastSend) <= ackDelay
}

// stalled needs proof: an unknown last send may be a recent one.
func (f *facts) stalled() bool {
	return f.LastSend != 0 && f.At.Sub(f.LastSend) >= f.threshold
}

// passedOn: only a process that opened or used the socket can have passed it on;
// who merely listened never had it.
func (f *facts) passedOn() bool {
	if !f.HoldersKnown || len(f.holding) == 0 {
		return false
	}
	switch {
	case f.told():
		return !f.holds(&f.EOFTask)
	case f.User.Known():
		return !f.holds(&f.User)
	default:
		return f.used() && !f.holds(&f.Owner)
	}
}

// used: the owner has had the socket in its hands.
func (f *facts) used() bool {
	switch f.Socket.Evidence {
	case event.EvidenceAccept, event.EvidenceConnect, event.EvidenceRead, event.EvidenceWrite:
		return f.Owner.Known()
	default:
		return false
	}
}

func (f *facts) holds(t *event.Task) bool {
	for i := range f.holding {
		if SameProcess(&f.holding[i], t) {
			return true
		}
	}
	return false
}
