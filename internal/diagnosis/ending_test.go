package diagnosis

import (
	"strings"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Each way a socket can be has its endings, and none of another way. That they are true is
// shown on a real kernel by e2e/explain_test.go.
func TestEndings(t *testing.T) {
	one := []event.Holder{{Task: named(10, "one"), FD: 5}}
	two := append([]event.Holder{{Task: named(11, "two"), FD: 6}}, one...)
	unknown, gone := OtherEnd{}, OtherEnd{Known: true, Gone: true}
	held := OtherEnd{Known: true, State: event.FinWait2, Who: "pid 7 (curl)", Held: true, HeldKnown: true}
	closed := OtherEnd{Known: true, State: event.FinWait2, HeldKnown: true}
	for name, test := range map[string]struct {
		c     Case
		other OtherEnd
		// has and lacks are parts of sentences.
		has, lacks []string
	}{
		"one holder": {
			Case{Cause: EOFIgnored, Holders: one, HoldersKnown: true},
			unknown,
			[]string{"close() of descriptor 5 of pid 10 (one).", "The end of pid 10 (one)", "A RST from the peer", "No timer"},
			[]string{"both", "Keepalive,"},
		},
		"two holders": {
			Case{Cause: HeldElsewhere, Holders: two, HoldersKnown: true},
			unknown,
			[]string{"close() by both processes", "descriptor 6 of pid 11 (two) and descriptor 5 of pid 10 (one)", "as long as one of them lives"},
			nil,
		},
		"copies": {
			Case{Cause: UnreadEOF, Holders: append(one, event.Holder{Task: named(10, "one"), FD: 9}), HoldersKnown: true},
			unknown,
			[]string{"copies of one", "descriptor 5 of pid 10 (one) and descriptor 9 of pid 10 (one)"},
			[]string{"both"},
		},
		"nobody looked":   {Case{Cause: EOFIgnored}, unknown, []string{"was not looked for"}, []string{"pid"}},
		"the peer holds":  {Case{Cause: EOFIgnored}, held, []string{"Nothing from the network: pid 7 (curl) still holds"}, []string{"RST", "No timer"}},
		"the peer closed": {Case{Cause: EOFIgnored}, closed, []string{"the other end is closed, so it draws a RST", "No timer"}, []string{"is gone"}},
		"the peer closed, keepalive": {
			Case{Cause: EOFIgnored, Socket: event.Socket{Keepalive: true}},
			closed,
			[]string{"Keepalive, once the kernel has forgotten"},
			[]string{"No timer"},
		},
		"gone, keepalive":    {Case{Cause: UnreadData, Socket: event.Socket{Keepalive: true}}, gone, []string{"is gone, so it draws a RST", "next keepalive probe"}, []string{"No timer"}},
		"far away, alive":    {Case{Cause: UnreadData, Socket: event.Socket{Keepalive: true}}, unknown, []string{"Keepalive, if the other host"}, []string{"No timer"}},
		"unaccepted":         {Case{Cause: Unaccepted, Listeners: one}, unknown, []string{"accept() and then close() by pid 10 (one)", "resets what waits"}, []string{"RST"}},
		"unaccepted, shared": {Case{Cause: Unaccepted, Listeners: two}, unknown, []string{"by one of the 2 processes", "by both of them"}, nil},
		"unaccepted, by nobody": {
			Case{Cause: Unaccepted},
			unknown,
			[]string{"by a process that holds the listening socket"},
			[]string{"pid"},
		},
		"message":     {Case{Cause: InFlight, Passed: []event.Passed{{Receiver: named(3, "rx"), FD: 4}}}, unknown, []string{"recvmsg() and then close()", "descriptor 4 of pid 3 (rx)"}, []string{"RST"}},
		"io_uring":    {Case{Cause: InFlight, Fixed: []event.Holder{{Task: named(3, "ring"), FD: 2}}}, unknown, []string{"slot 2 of pid 3", "The end of that ring"}, nil},
		"the kernel":  {Case{Cause: InFlight, Socket: event.Socket{Kernel: true}}, unknown, []string{"no process has a descriptor to close"}, nil},
		"in flight":   {Case{Cause: InFlight}, unknown, []string{"if it is in a unix-socket message", "what carries it"}, []string{"pid"}},
		"half-close":  {Case{Cause: HalfClose, Holders: one, HoldersKnown: true}, unknown, []string{"when it has sent all", "descriptor 5"}, []string{"RST"}},
		"zombie":      {Case{Cause: ZombieFD, Holders: one, HoldersKnown: true}, unknown, []string{"descriptor 5", "only the descriptor is left"}, []string{"RST"}},
		"FIN_WAIT2":   {Case{Socket: event.Socket{State: event.FinWait2}, Holders: one}, OtherEnd{Known: true, Who: "pid 7 (curl)"}, []string{"close() of the other end by pid 7 (curl)", "stays in CLOSE_WAIT"}, nil},
		"orphan":      {Case{Socket: event.Socket{State: event.FinWait2}}, unknown, []string{"The other end, when it closes", "tcp_fin_timeout"}, []string{"pid"}},
		"established": {Case{Socket: event.Socket{State: event.Established}}, unknown, nil, []string{"close"}},
		"MPTCP": {
			Case{Cause: EOFIgnored, Holders: one, HoldersKnown: true, Socket: event.Socket{Flow: event.Flow{Protocol: event.MPTCP}}},
			unknown,
			[]string{"descriptor 5"},
			[]string{"RST", "timer"},
		},
		"a hostile name": {Case{Cause: EOFIgnored, Holders: []event.Holder{{Task: named(1, "\x1b[31m\"\n"), FD: 1}}, HoldersKnown: true}, unknown, []string{`(\x1b[31m"\n)`}, []string{"\x1b", "\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Join(Endings(&test.c, &test.other), " | ")
			for _, part := range test.has {
				if !strings.Contains(text, part) {
					t.Errorf("no %q in %q", part, text)
				}
			}
			for _, part := range test.lacks {
				if strings.Contains(text, part) {
					t.Errorf("%q is in %q", part, text)
				}
			}
		})
	}
}

func named(pid uint32, comm string) event.Task {
	return event.Task{Pid: pid, Comm: event.MakeComm(comm)}
}

// proxied is a judgement of a proxy (pid 20) and of a server (pid 30) that forgets n
// connections; the proxy passes each end on after a while.
func proxied(n int, after time.Duration, change func(*Case)) (Diagnosis, []PassedEnd) {
	const second = event.KTime(time.Second)
	var cases []Case
	var ends []PassedEnd
	for i := range event.KTime(n) {
		for _, pid := range []uint32{20, 30} {
			c := Case{
				Socket: event.Socket{
					State: event.CloseWait, Cookie: event.Cookie(2*i) + event.Cookie(pid), Inode: 1, Bound: event.Exact,
					Since: 1000*second + i*second/10, At: 2000 * second, EOFSeen: true, QueuesKnown: true, EOFWatched: true,
					Direction: event.In, Evidence: event.EvidenceAccept, Owner: named(pid, "x"),
				},
				Holders: []event.Holder{{Task: named(pid, "x"), FD: 1}}, HoldersKnown: true,
			}
			c.EOFAt, c.EOFTask = c.Since.Add(time.Millisecond), named(pid, "x")
			if pid == 20 {
				ends = append(ends, PassedEnd{By: 20, At: c.EOFAt.Add(after), To: 30})
				if change != nil {
					change(&c)
				}
			}
			cases = append(cases, c)
		}
	}
	return Judge(Input{Cases: cases, From: 2000 * second, To: 2000 * second, Threshold: time.Minute}), ends
}

// Whose waits follow from another's is told so, and only if every one does.
func TestFollow(t *testing.T) {
	for name, test := range map[string]struct {
		after   time.Duration
		change  func(*Case)
		ends    func([]PassedEnd) []PassedEnd
		follows bool
	}{
		"each end passed on":    {0, nil, nil, true},
		"within a second":       {time.Second, nil, nil, true},
		"later":                 {30 * time.Second, nil, nil, false},
		"before the waits":      {-time.Minute, nil, nil, false},
		"one is missing":        {0, nil, func(e []PassedEnd) []PassedEnd { return e[1:] }, false},
		"not seen to be told":   {0, func(c *Case) { c.EOFSeen, c.EOFAt = false, 0 }, nil, true},
		"the same, later":       {2 * time.Second, func(c *Case) { c.EOFSeen, c.EOFAt = false, 0 }, nil, false},
		"unread":                {0, func(c *Case) { c.RecvQ = 1 }, nil, false},
		"not watched":           {0, func(c *Case) { c.Bound = event.AtLeast }, nil, false},
		"nobody at the far end": {0, nil, toPid(0), false},
		"one who is not judged": {0, nil, toPid(77), false},
		"no ends":               {0, nil, func([]PassedEnd) []PassedEnd { return nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			d, ends := proxied(7, test.after, test.change)
			if test.ends != nil {
				ends = test.ends(ends)
			}
			before := d.Verdict
			d.Follow(ends)
			for _, p := range d.Processes {
				follows := p.Task.Pid == 20 && test.follows
				if (len(p.Follows) > 0) != follows {
					t.Errorf("pid %d follows %v", p.Task.Pid, p.Follows)
				}
				if follows && (p.Verdict != Suspicious || !strings.Contains(p.Why, "pid 30 (x)")) {
					t.Errorf("%v: %s", p.Verdict, p.Why)
				}
				if p.Task.Pid == 30 && test.follows != strings.Contains(p.Why, "7 waits of pid 20 (x) follow") {
					t.Errorf("the server: %s", p.Why)
				}
			}
			if d.Verdict != before || before == Clean {
				t.Errorf("the verdict is %v, was %v", d.Verdict, before)
			}
		})
	}
}

func toPid(pid uint32) func([]PassedEnd) []PassedEnd {
	return func(ends []PassedEnd) []PassedEnd {
		for i := range ends {
			ends[i].To = pid
		}
		return ends
	}
}
