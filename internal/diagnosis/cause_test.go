package diagnosis

import (
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

const (
	now    = event.KTime(1000 * time.Second)
	minute = time.Minute
)

func task(pid uint32) event.Task {
	return event.Task{Pid: pid, Tid: pid, Start: event.BootTime(pid) * 10_000_000, Comm: event.MakeComm("app")}
}

func held(by ...event.Task) []event.Holder {
	holders := make([]event.Holder, 0, len(by))
	for i, t := range by {
		holders = append(holders, event.Holder{Task: t, FD: int32(3 + i)})
	}
	return holders
}

// told is a plain case: accepted by pid 10, which holds it and has consumed EOF.
func told() Case {
	return Case{
		Socket: event.Socket{
			At: now, Cookie: 1, Inode: 7, State: event.CloseWait, Direction: event.In, WasConnected: true,
			Since: now.Add(-2 * minute), Bound: event.Exact, SentKnown: true,
			Owner: task(10), Evidence: event.EvidenceAccept,
		},
		Holders: held(task(10)), HoldersKnown: true,
	}
}

func TestExplain(t *testing.T) {
	reused := task(10)
	reused.Start += 5_000_000_000
	tests := []struct {
		name     string
		change   func(*Case)
		cause    Cause
		blamed   uint32
		evidence event.Evidence
	}{
		{"consumed EOF", func(*Case) {}, EOFIgnored, 10, event.EvidenceAccept},
		{"told", func(c *Case) { c.EOFWatched, c.EOFSeen = true, true }, EOFIgnored, 10, event.EvidenceAccept},
		{"FIN came with the last data, never told", func(c *Case) { c.EOFWatched = true }, UnreadEOF, 10, event.EvidenceAccept},
		{"EOF unread", func(c *Case) { c.RecvQ = 1 }, UnreadEOF, 10, event.EvidenceAccept},
		{"data unread", func(c *Case) { c.RecvQ = 2 }, UnreadData, 10, event.EvidenceAccept},
		{"connected", func(c *Case) { c.Direction, c.Socket.Evidence = event.Out, event.EvidenceConnect }, EOFIgnored, 10, event.EvidenceConnect},

		{"queued, one listener with two descriptors", func(c *Case) {
			c.Inode, c.Holders, c.Owner = 0, nil, event.Task{}
			c.Listeners = held(task(20), task(20))
		}, Unaccepted, 20, event.EvidenceListen},
		{"queued, pre-fork listeners", func(c *Case) {
			c.Inode, c.Holders, c.Owner = 0, nil, event.Task{}
			c.Listeners = held(task(20), task(21))
		}, Unaccepted, 0, event.EvidenceNone},
		{"queued, listener remembered", func(c *Case) {
			c.Inode, c.Holders, c.Socket.Evidence = 0, nil, event.EvidenceListen
		}, Unaccepted, 10, event.EvidenceListen},
		{"accepted between the passes", func(c *Case) { c.Inode = 0 }, EOFIgnored, 10, event.EvidenceAccept},

		{"streaming", func(c *Case) { c.SentAfterFin, c.LastSend = 1, now.Add(-minute+1) }, HalfClose, 10, event.EvidenceAccept},
		{"streaming with EOF pending", func(c *Case) { c.RecvQ, c.SentAfterFin, c.LastSend = 1, 1, now }, HalfClose, 10, event.EvidenceAccept},
		{"sent, nobody knows when", func(c *Case) { c.SentAfterFin = 1 }, HalfClose, 10, event.EvidenceAccept},
		{"stream stalled", func(c *Case) { c.SentAfterFin, c.LastSend = 1, now.Add(-minute) }, EOFIgnored, 10, event.EvidenceAccept},
		{"baseline stream", func(c *Case) {
			c.SentKnown, c.AckedAfterFin, c.LastSend, c.LastAck = false, true, now.Add(-time.Second), now
		}, HalfClose, 10, event.EvidenceAccept},
		{"baseline, keepalive answered", func(c *Case) {
			c.SentKnown, c.AckedAfterFin, c.LastSend, c.LastAck = false, true, now.Add(-30*time.Second), now
		}, EOFIgnored, 10, event.EvidenceAccept},

		{"nobody holds it", func(c *Case) { c.Holders = nil }, InFlight, 0, event.EvidenceNone},
		{"nobody holds it, the owner was told", func(c *Case) { c.Holders, c.EOFSeen, c.EOFTask = nil, true, task(10) }, InFlight, 10, event.EvidenceRead},
		{"nobody looked", func(c *Case) { c.Holders, c.HoldersKnown = nil, false }, EOFIgnored, 10, event.EvidenceAccept},

		{"child inherited it", func(c *Case) { c.Holders = held(task(11)) }, HeldElsewhere, 11, event.EvidenceScan},
		{"child inherited it unread", func(c *Case) { c.Holders, c.RecvQ = held(task(11)), 1 }, HeldElsewhere, 11, event.EvidenceScan},
		{"parent holds it too", func(c *Case) { c.Holders = held(task(11), task(10)) }, EOFIgnored, 10, event.EvidenceAccept},
		{"pid used again", func(c *Case) { c.Holders = held(reused) }, HeldElsewhere, 10, event.EvidenceScan},
		{"children inherited it", func(c *Case) { c.Holders = held(task(11), task(12)) }, HeldElsewhere, 0, event.EvidenceNone},
		{"children inherited it, one was told", func(c *Case) {
			c.Holders, c.EOFSeen, c.EOFTask = held(task(11), task(12)), true, task(12)
		}, EOFIgnored, 12, event.EvidenceRead},
		{"child reads, parent closed its copy", func(c *Case) {
			c.Holders, c.User, c.UserEvidence, c.RecvQ = held(task(11)), task(11), event.EvidenceRead, 9
		}, UnreadData, 11, event.EvidenceRead},
		{"child reads, both hold", func(c *Case) {
			c.Holders, c.User, c.UserEvidence, c.RecvQ = held(task(10), task(11)), task(11), event.EvidenceWrite, 1
		}, UnreadEOF, 11, event.EvidenceWrite},
		{"child was told, parent wrote last, both hold", func(c *Case) {
			c.Holders, c.User, c.UserEvidence = held(task(10), task(11)), task(10), event.EvidenceWrite
			c.EOFSeen, c.EOFTask = true, task(11)
		}, EOFIgnored, 11, event.EvidenceRead},
		{"child served it and closed, parent forgot its copy", func(c *Case) {
			c.Holders, c.User, c.UserEvidence = held(task(10)), task(11), event.EvidenceRead
		}, HeldElsewhere, 10, event.EvidenceAccept},
		{"user is the opener", func(c *Case) { c.User, c.UserEvidence = task(10), event.EvidenceRead }, EOFIgnored, 10, event.EvidenceAccept},
		{"nobody looked, a child read", func(c *Case) {
			c.Holders, c.HoldersKnown, c.User, c.UserEvidence = nil, false, task(11), event.EvidenceRead
		}, EOFIgnored, 11, event.EvidenceRead},
		{"in a message, sent by who was told", func(c *Case) {
			c.Holders, c.EOFSeen, c.EOFTask, c.Passed = nil, true, task(10), make([]event.Passed, 1)
		}, InFlight, 0, event.EvidenceNone},
		{"the kernel's own", func(c *Case) {
			c.Holders, c.EOFSeen, c.EOFTask, c.Kernel = nil, true, task(10), true
		}, InFlight, 0, event.EvidenceNone},
		{"fixed file of io_uring", func(c *Case) { c.Holders, c.Fixed = nil, held(task(30), task(30)) }, InFlight, 30, event.EvidenceScan},
		{"io_uring shared by two", func(c *Case) { c.Holders, c.Fixed = nil, held(task(30), task(31)) }, InFlight, 0, event.EvidenceNone},
		{"master listened, worker holds", func(c *Case) {
			c.Holders, c.Socket.Evidence = held(task(11)), event.EvidenceListen
		}, EOFIgnored, 11, event.EvidenceScan},

		{"owner unknown, one holder", func(c *Case) { c.Owner = event.Task{} }, EOFIgnored, 10, event.EvidenceScan},
		{"owner unknown, one process twice", func(c *Case) { c.Owner, c.Holders = event.Task{}, held(task(11), task(11)) }, EOFIgnored, 11, event.EvidenceScan},
		{"owner unknown, two holders", func(c *Case) { c.Owner, c.Holders = event.Task{}, held(task(11), task(12)) }, EOFIgnored, 0, event.EvidenceNone},

		{"zombie", func(c *Case) { c.State = event.Close }, ZombieFD, 10, event.EvidenceAccept},
		{"closed and let go", func(c *Case) { c.State, c.Holders = event.Close, nil }, None, 0, event.EvidenceNone},
		{"never connected", func(c *Case) { c.State, c.WasConnected = event.Close, false }, None, 10, event.EvidenceAccept},
		{"established", func(c *Case) { c.State = event.Established }, None, 10, event.EvidenceAccept},
		{"subflow", func(c *Case) { c.Subflow, c.Inode = true, 0 }, None, 10, event.EvidenceAccept},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := told()
			tt.change(&c)
			Explain(&c, minute)
			if c.Cause != tt.cause || c.Blamed.Pid != tt.blamed || c.Evidence != tt.evidence {
				t.Errorf("%q, pid %d by %v; want %q, pid %d by %v",
					c.Cause, c.Blamed.Pid, c.Evidence, tt.cause, tt.blamed, tt.evidence)
			}
		})
	}
}

// Every cause of the contract has a rule, and all but half-close an advice.
func TestRulesCoverTheContract(t *testing.T) {
	have := make(map[Cause]bool)
	for _, r := range Rules() {
		have[r.Cause] = true
		if r.When == "" || r.Fault == "" {
			t.Errorf("rule %q does not say when and who", r.Cause)
		}
	}
	for _, c := range allCauses {
		if !have[c] {
			t.Errorf("no rule gives %q", c)
		}
		if c != None && AdviceFor(c) == "" {
			t.Errorf("no advice for %q", c)
		}
	}
}

var allCauses = []Cause{None, Unaccepted, UnreadData, UnreadEOF, EOFIgnored, HalfClose, HeldElsewhere, InFlight, ZombieFD}

// FuzzExplain: whatever the facts, the cause is one of the set and whoever is blamed has to
// do with the socket.
func FuzzExplain(f *testing.F) {
	f.Add(uint64(0), uint32(0), uint32(10), uint32(10), uint32(0), uint32(0), int64(0), int64(0))
	f.Add(uint64(0xffff), uint32(3), uint32(10), uint32(11), uint32(12), uint32(13), int64(time.Second), int64(minute))
	f.Fuzz(func(t *testing.T, bits uint64, recvq, owner, holder, listener, eof uint32, send, threshold int64) {
		flag := func(n int) bool { return bits>>n&1 == 1 }
		c := Case{Socket: event.Socket{
			At: now, State: event.State(bits >> 16 & 15), Direction: event.Direction(bits >> 20 & 3), Inode: bits >> 22 & 1,
			Bound: event.Bound(bits >> 24 & 3), RecvQ: recvq, SentAfterFin: bits >> 26 & 1, SentKnown: flag(0),
			AckedAfterFin: flag(1), EOFSeen: flag(2), EOFWatched: flag(3), WasConnected: flag(4), Subflow: flag(5),
			LastSend: event.KTime(send), LastAck: now, Owner: event.Task{Pid: owner}, EOFTask: event.Task{Pid: eof},
			Evidence: event.Evidence(bits >> 28 & 7),
		}, HoldersKnown: flag(6)}
		may := map[uint32]bool{0: true, owner: true, eof: true}
		if flag(7) {
			c.Holders = held(event.Task{Pid: holder}, event.Task{Pid: holder + uint32(bits>>32&1)})
			may[holder], may[holder+uint32(bits>>32&1)] = true, true
		}
		if flag(8) {
			c.Listeners = held(event.Task{Pid: listener}, event.Task{Pid: listener + uint32(bits>>33&1)})
			may[listener], may[listener+uint32(bits>>33&1)] = true, true
		}
		Explain(&c, time.Duration(threshold))
		known := false
		for _, want := range allCauses {
			known = known || c.Cause == want
		}
		if !known {
			t.Fatalf("cause %q is not in the set", c.Cause)
		}
		if !may[c.Blamed.Pid] {
			t.Fatalf("pid %d is blamed and has nothing to do with it: %+v", c.Blamed.Pid, c)
		}
		if c.Blamed.Pid == 0 && c.Evidence != event.EvidenceNone {
			t.Fatalf("nobody blamed by %v", c.Evidence)
		}
	})
}
