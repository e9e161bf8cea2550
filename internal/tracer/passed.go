package tracer

import (
	"cmp"
	"slices"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// passed is a reference in a message, and where the kernel keeps it.
type passed struct {
	event.Passed
	slot uint64
}

func (r *rows) addPassed(c *bpfPassedRow) {
	if c.Flags&passedCut != 0 {
		r.passedCut = true
	}
	if c.Inode == 0 {
		return
	}
	r.passed = append(r.passed, passed{
		Passed: event.Passed{
			Cookie:   event.Cookie(c.Cookie),
			Inode:    c.Inode,
			Receiver: taskOf(&c.Receiver),
			FD:       c.Fd,
			Sender:   c.Sender,
		},
		slot: c.Slot,
	})
}

// passedOn returns each reference once for each process, by its lowest descriptor.
func (r *rows) passedOn() []event.Passed {
	if len(r.passed) == 0 {
		return nil
	}
	r.namePassed()
	slices.SortFunc(r.passed, func(a, b passed) int {
		return cmp.Or(cmp.Compare(a.Cookie, b.Cookie), cmp.Compare(a.Inode, b.Inode),
			cmp.Compare(a.Receiver.Pid, b.Receiver.Pid), cmp.Compare(a.FD, b.FD))
	})
	type reference struct {
		pid  uint32
		slot uint64
	}
	seen := make(map[reference]bool, len(r.passed))
	var once []event.Passed
	for i := range r.passed {
		p := &r.passed[i]
		if k := (reference{p.Receiver.Pid, p.slot}); !seen[k] {
			seen[k] = true
			once = append(once, p.Passed)
		}
	}
	return once
}

// namePassed gives sockets the cookie their row has: nobody may have asked the kernel for
// one before, and MPTCP sockets have numbers of our own.
func (r *rows) namePassed() {
	cookies := map[uint64]event.Cookie{}
	for i := range r.sockets.n {
		if row := r.sockets.at(i); row.Inode != 0 {
			cookies[row.Inode] = event.Cookie(row.Cookie)
		}
	}
	for i := range r.passed {
		if p := &r.passed[i]; p.Cookie == 0 {
			p.Cookie = cookies[p.Inode]
		}
	}
}
