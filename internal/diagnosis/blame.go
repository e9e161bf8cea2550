package diagnosis

import (
	"slices"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Blame is one row of the table that says who is responsible: the first that fits the
// cause and names somebody does. If none does, nobody is blamed: who holds the socket stays
// with the case.
type Blame struct {
	// Causes are those the row is for; none means every other cause.
	Causes []Cause
	// Who names the row in words.
	Who string
	who func(*facts) (event.Task, event.Evidence)
}

// Blames returns the ordered table. Only who can close the socket is blamed, and never one
// of several equals.
func Blames() []Blame {
	queued, flying := []Cause{Unaccepted}, []Cause{InFlight}
	return []Blame{
		{queued, "the one process that holds the listening socket; whoever called listen() if no holder of it is known", (*facts).listener},
		{flying, "the one process whose io_uring has the socket as a fixed file", (*facts).ring},
		{flying, "the owner, if its recv() returned 0 and the socket is in no message: it reads without a descriptor", (*facts).toldOwner},
		{nil, "who was told of the end by recv() returning 0, if it holds a descriptor", (*facts).toldHolder},
		{nil, "who read or wrote last, if it holds a descriptor", (*facts).lastUser},
		{nil, "the owner, who opened or first used the socket, if it holds a descriptor", (*facts).owner},
		{nil, "the same in this order, if nobody looked who holds a descriptor", (*facts).unscanned},
		{nil, "the one process that holds a descriptor", (*facts).onlyHolder},
	}
}

func (b *Blame) isFor(c Cause) bool {
	if len(b.Causes) > 0 {
		return slices.Contains(b.Causes, c)
	}
	return c != Unaccepted && c != InFlight
}

func nobody() (event.Task, event.Evidence) { return event.Task{}, event.EvidenceNone }

func (f *facts) listener() (event.Task, event.Evidence) {
	switch who := processes(f.Listeners); {
	case len(who) == 1:
		return who[0], event.EvidenceListen
	case len(who) == 0 && f.Socket.Evidence == event.EvidenceListen:
		return f.Owner, event.EvidenceListen
	default:
		return nobody()
	}
}

func (f *facts) ring() (event.Task, event.Evidence) {
	who := processes(f.Fixed)
	if len(who) != 1 {
		return nobody()
	}
	return f.as(&who[0], event.EvidenceScan)
}

// toldOwner: where the kernel does not say which sockets an io_uring has. Who passed the
// socket on in a message may have been told before.
func (f *facts) toldOwner() (event.Task, event.Evidence) {
	if len(f.Passed) > 0 || f.Kernel || !f.told() || !f.used() || !SameProcess(&f.EOFTask, &f.Owner) {
		return nobody()
	}
	return f.EOFTask, event.EvidenceRead
}

func (f *facts) toldHolder() (event.Task, event.Evidence) {
	if !f.told() || !f.holds(&f.EOFTask) {
		return nobody()
	}
	return f.as(&f.EOFTask, event.EvidenceRead)
}

func (f *facts) lastUser() (event.Task, event.Evidence) {
	if !f.User.Known() || !f.holds(&f.User) {
		return nobody()
	}
	return f.as(&f.User, f.UserEvidence)
}

// owner: who merely was the first holder a scan met is no owner.
func (f *facts) owner() (event.Task, event.Evidence) {
	if !f.Owner.Known() || f.Socket.Evidence == event.EvidenceScan || !f.holds(&f.Owner) {
		return nobody()
	}
	return f.Owner, f.Socket.Evidence
}

func (f *facts) unscanned() (event.Task, event.Evidence) {
	switch {
	case f.HoldersKnown:
		return nobody()
	case f.told():
		return f.as(&f.EOFTask, event.EvidenceRead)
	case f.User.Known():
		return f.as(&f.User, f.UserEvidence)
	case f.used():
		return f.Owner, f.Socket.Evidence
	default:
		return nobody()
	}
}

func (f *facts) onlyHolder() (event.Task, event.Evidence) {
	if len(f.holding) != 1 {
		return nobody()
	}
	return f.holding[0], event.EvidenceScan
}

// as names a process with the best evidence there is: to have opened the socket says more
// than to have used it.
func (f *facts) as(t *event.Task, e event.Evidence) (event.Task, event.Evidence) {
	if f.used() && SameProcess(t, &f.Owner) {
		return f.Owner, f.Socket.Evidence
	}
	return *t, e
}

func (f *facts) told() bool { return f.EOFSeen && f.EOFTask.Known() }

// SameProcess compares pid and start time. Start times are compared in clock ticks,
// which is what /proc keeps; an unknown one cannot tell two processes apart.
func SameProcess(a, b *event.Task) bool {
	return a.Pid == b.Pid && (a.Start == 0 || b.Start == 0 || a.Start.Ticks() == b.Start.Ticks())
}

// processes returns each process among holders once.
func processes(holders []event.Holder) []event.Task { return appendProcesses(nil, holders) }

func appendProcesses(found []event.Task, holders []event.Holder) []event.Task {
next:
	for i := range holders {
		if !holders[i].Known() {
			continue
		}
		for j := range found {
			if SameProcess(&found[j], &holders[i].Task) {
				continue next
			}
		}
		found = append(found, holders[i].Task)
	}
	return found
}
