package diagnosis

import "github.com/tcpwaitd/tcpwaitd/internal/event"

// Blame is one row of the table that says who is responsible: the first that
// names somebody does. If none does, nobody is blamed: the holders stay with the case.
type Blame struct {
	// Who names the row in words.
	Who string
	who func(*facts) (event.Task, event.Evidence)
}

// Blames returns the ordered table. It never picks one of several equals.
func Blames() []Blame {
	return []Blame{
		{"accept queue: the one process that holds the listening socket, else whoever called listen() if no holder of it is known", (*facts).listener},
		{"the owner, if it holds a descriptor", (*facts).owner},
		{"the owner, if nobody looked who holds one and it opened or used the socket", (*facts).unscanned},
		{"the one process that holds a descriptor", (*facts).onlyHolder},
		{"of several holders the one whose recv() returned 0", (*facts).toldHolder},
		{"held by nobody: the owner, if its recv() returned 0 as well", (*facts).toldOwner},
	}
}

func (f *facts) listener() (event.Task, event.Evidence) {
	if f.Cause != Unaccepted {
		return event.Task{}, event.EvidenceNone
	}
	switch who := processes(f.Listeners); {
	case len(who) == 1:
		return who[0], event.EvidenceListen
	case len(who) == 0 && f.Socket.Evidence == event.EvidenceListen:
		return f.Owner, event.EvidenceListen
	default:
		return event.Task{}, event.EvidenceNone
	}
}

// owner: who merely was the first holder a scan met is no owner.
func (f *facts) owner() (event.Task, event.Evidence) {
	if f.Cause == Unaccepted || !f.Owner.Known() || f.Socket.Evidence == event.EvidenceScan || !f.holds(&f.Owner) {
		return event.Task{}, event.EvidenceNone
	}
	return f.Owner, f.Socket.Evidence
}

func (f *facts) unscanned() (event.Task, event.Evidence) {
	if f.Cause == Unaccepted || f.HoldersKnown || !f.used() {
		return event.Task{}, event.EvidenceNone
	}
	return f.Owner, f.Socket.Evidence
}

func (f *facts) onlyHolder() (event.Task, event.Evidence) {
	if len(f.holding) != 1 {
		return event.Task{}, event.EvidenceNone
	}
	return f.holding[0], event.EvidenceScan
}

func (f *facts) toldHolder() (event.Task, event.Evidence) {
	if !f.EOFSeen || !f.EOFTask.Known() || !f.holds(&f.EOFTask) {
		return event.Task{}, event.EvidenceNone
	}
	return f.EOFTask, event.EvidenceRead
}

// toldOwner finds who does I/O without a descriptor (io_uring's fixed files).
func (f *facts) toldOwner() (event.Task, event.Evidence) {
	if f.Cause != InFlight || !f.EOFSeen || !f.used() || !SameProcess(&f.EOFTask, &f.Owner) {
		return event.Task{}, event.EvidenceNone
	}
	return f.EOFTask, event.EvidenceRead
}

// SameProcess compares pid and start time. Start times are compared in clock ticks,
// which is what /proc keeps; an unknown one cannot tell two processes apart.
func SameProcess(a, b *event.Task) bool {
	return a.Pid == b.Pid && (a.Start == 0 || b.Start == 0 || a.Start.Ticks() == b.Start.Ticks())
}

// processes returns each process among holders once.
func processes(holders []event.Holder) []event.Task {
	var found []event.Task
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
