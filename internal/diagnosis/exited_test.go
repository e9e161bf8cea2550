package diagnosis

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// command is a series of waits that ended with their process, now.
type command struct {
	*series
	left Leftovers
}

func ran(length time.Duration) *command {
	return &command{watched(length), Leftovers{ByCookie: map[event.Cookie]Leftover{}, Grace: time.Second}}
}

// keep adds n waits that nobody closed, the youngest of the given age, each older by gap. Their
// connections were established lived before the FIN.
func (s *command) keep(n int, youngest, gap, lived time.Duration, change func(*Case, *Leftover)) *command {
	for i := range n {
		s.open(1, youngest+time.Duration(i)*gap, 0, nil)
		c := &s.in.Cases[len(s.in.Cases)-1]
		c.EOFSeen, c.EOFAt, c.EOFTask = true, c.Since, task(10)
		u := Leftover{Opened: c.Since.Add(-lived), Ended: true}
		if change != nil {
			change(c, &u)
		}
		s.left.ByCookie[c.Cookie] = u
	}
	return s
}

func (s *command) judge() Diagnosis {
	s.in.Closed = s.tally.Closed()
	return JudgeCommand(s.in, &s.left)
}

func idle(c *Case, _ *Leftover) { poolOut(c); c.EOFSeen, c.EOFAt = false, 0 }

// elsewhere is idle with a destination of its own for each.
func elsewhere(c *Case, u *Leftover) {
	idle(c, u)
	c.Flow.Remote = netip.AddrPortFrom(c.Flow.Remote.Addr(), uint16(50000+c.Cookie))
}

func body(c *Case, u *Leftover) { elsewhere(c, u); u.Reads = true }

func alive(_ *Case, u *Leftover) { u.Ended = false }

func atExit(c *Case, _ *Leftover) { c.EOFAt = c.At }

func sends(c *Case, _ *Leftover) { c.SentKnown, c.SentAfterFin = true, 7 }

func untold(c *Case, _ *Leftover) { c.EOFAt = 0 }

func byExit(_ *Case, u *Leftover) { u.Closed = ClosedByExit }

func beforeExit(_ *Case, u *Leftover) { u.Closed = ClosedBeforeExit }

func idleByExit(c *Case, u *Leftover) { idle(c, u); byExit(c, u) }

func TestJudgeCommand(t *testing.T) {
	const sec, ms, us = time.Second, time.Millisecond, time.Microsecond
	closing := func(s *command, n int, dwell time.Duration) *command { s.close(n, dwell); return s }
	tests := []struct {
		name string
		s    *command
		want Verdict
		why  string
	}{
		{"nothing", ran(sec), Clean, ""},
		{"closes all", closing(ran(sec), 5000, ms), Clean, ""},
		{"curl: one, exit at once", ran(sec).keep(1, 50*us, 0, ms, nil), Clean, ""},
		{"two in a row, exit at once", ran(sec).keep(2, 50*us, 5*ms, ms, nil), Clean, ""},
		{"23 in 200 ms", ran(200*ms).keep(23, ms, 9*ms, ms, nil), Leaking, "23 never closed; at least 23 times"},
		{"five tests in 5 ms", ran(5*ms).keep(5, 100*us, ms, 500*us, nil), Leaking, "5 times"},
		{"three in a row", ran(sec).keep(3, ms, 5*ms, ms, nil), Leaking, ""},
		{"23 at once, exit at once", ran(sec).keep(23, ms, 0, 100*ms, nil), Clean, ""},
		{"23 clients gone one after the other, killed 9 ms later", ran(sec).keep(23, 9*ms, 50*us, 500*ms, nil), Clean, ""},
		{"23 at once, 5 s before the exit", ran(10*sec).keep(23, 5*sec, 0, 100*ms, nil), Suspicious, "23 never closed, although it had 5s"},
		{"two, 5 s before the exit", ran(10*sec).keep(2, 5*sec, 0, 100*ms, nil), Clean, ""},
		{"told just before the exit", ran(10*sec).keep(23, 5*sec, 0, 100*ms, atExit), Clean, ""},
		{"not known when it was told", ran(10*sec).keep(23, 5*sec, 0, 100*ms, untold), Clean, ""},
		{"23 older than the threshold", ran(2*minute).keep(23, minute, 0, 100*ms, atExit), Suspicious, "older than 1m"},

		{"idle pool, its server stopped", ran(10*sec).keep(23, 5*sec, ms, 4*sec, idle), Clean, ""},
		{"idle pool, its server stopped long ago", ran(2*minute).keep(23, minute, ms, 4*sec, idle), Suspicious, ""},
		{"three to one place, not read", ran(10*sec).keep(3, sec, sec, 100*ms, idle), Suspicious, "idle connections"},
		{"five to one place, not read", ran(10*sec).keep(5, sec, sec, 100*ms, idle), Leaking, "ends not read"},
		{"pool of four servers that stopped in turn", ran(10*sec).keep(4, sec, sec, 100*ms, elsewhere), Clean, ""},
		{"pool of twenty", ran(30*sec).keep(20, sec, sec, 100*ms, elsewhere), Clean, ""},
		{"more than a pool", ran(30*sec).keep(23, sec, sec, 100*ms, elsewhere), Suspicious, ""},
		{"response bodies of a server for each test", ran(10*ms).keep(3, ms, ms, 500*us, body), Leaking, ""},

		{"23 closed by exit()", ran(3*sec).keep(23, sec, 50*ms, ms, byExit), Leaking, "23 closed only when the process ended; at least 23 times"},
		{"two closed by exit()", ran(3*sec).keep(2, sec, 50*ms, ms, byExit), Clean, ""},
		{"23 at once, closed by exit()", ran(3*sec).keep(23, sec, 0, 100*ms, byExit), Suspicious, ""},
		{"some closed by exit()", ran(3*sec).keep(3, sec, 50*ms, ms, byExit).keep(2, 2*sec, 50*ms, ms, nil), Leaking, "5 never closed, 3 of them closed only when"},
		{"leak beside quick closes, closed by exit()", closing(ran(3*sec).keep(23, sec, 50*ms, ms, byExit), 500, 45*ms), Leaking, ""},
		{"it does close, late, and at its end", closing(ran(9*sec).keep(9, sec, 50*ms, ms, byExit), 7, 3*sec), Clean, ""},
		{"idle pool, closed by exit()", ran(3*sec).keep(23, sec, ms, sec, idleByExit), Clean, ""},
		{"23 closed by somebody", ran(3*sec).keep(23, sec, 50*ms, ms, beforeExit), Suspicious, "by whom they were closed is not known"},
		{"23 at once, closed by somebody", ran(3*sec).keep(23, sec, 0, 100*ms, beforeExit), Clean, ""},
		{"two, and two closed by somebody", ran(3*sec).keep(2, sec, 50*ms, ms, nil).keep(2, 2*sec, 50*ms, ms, beforeExit), Suspicious, "4 never closed, 2 of them"},
		{"23 stuck, closed by somebody", ran(5*minute).keep(23, sec, 10*sec, ms, beforeExit), Suspicious, ""},

		{"slow server killed", closing(ran(10*sec).keep(5, ms, 9*ms, 5*ms, nil), 500, 45*ms), Clean, ""},
		{"leak beside quick closes", closing(ran(10*sec).keep(23, 100*ms, 300*ms, 5*ms, nil), 500, 45*ms), Leaking, ""},
		{"it does close, late", closing(ran(30*sec).keep(9, sec, sec, ms, nil), 7, 10*sec), Clean, ""},
		{"sends on", ran(10*sec).keep(23, sec, 100*ms, ms, sends), Clean, ""},
		{"daemon, young waits", ran(10*sec).keep(23, ms, 40*ms, ms, alive), Clean, ""},
		{"daemon, old waits", ran(30*sec).keep(23, sec, 40*ms, ms, alive), Leaking, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := tt.s.judge()
			why := ""
			if len(d.Processes) > 0 {
				why = d.Processes[0].Why
			}
			if d.Verdict != tt.want || !strings.Contains(why, tt.why) {
				t.Errorf("%v (%q), want %v (%q)", d.Verdict, why, tt.want, tt.why)
			}
			for _, p := range d.Processes {
				if (p.Verdict == Clean) != (len(p.Advice) == 0) {
					t.Errorf("%v: advice %q", p.Verdict, p.Advice)
				}
			}
		})
	}
}

// Where nobody knows who closed only what the program kept after it was told says something.
func TestTells(t *testing.T) {
	const grace = time.Second
	for name, tt := range map[string]struct {
		change func(*Case, *Leftover)
		want   bool
	}{
		"told in time":       {beforeExit, true},
		"never closed, idle": {idle, true},
		"by exit(), idle":    {idleByExit, true},
		"idle":               {func(c *Case, u *Leftover) { idle(c, u); beforeExit(c, u); c.Cause = UnreadEOF }, false},
		"told at the end":    {func(c *Case, u *Leftover) { atExit(c, u); beforeExit(c, u) }, false},
		"told, unknown when": {func(c *Case, u *Leftover) { untold(c, u); beforeExit(c, u) }, false},
		"data unread":        {func(c *Case, u *Leftover) { beforeExit(c, u); c.Cause = UnreadData }, true},
	} {
		for _, g := range []time.Duration{0, grace} {
			s := ran(9*time.Second).keep(1, 2*grace, 0, grace, func(c *Case, u *Leftover) { c.Cause = EOFIgnored; tt.change(c, u) })
			s.left.Grace = g
			if got := s.left.Tells(&s.in.Cases[0]); got != tt.want {
				t.Errorf("%s, grace %v: %v, want %v", name, g, got, tt.want)
			}
		}
	}
}

// Each of many short-lived processes may leave one socket to the kernel.
func TestJudgeCommandManyProcesses(t *testing.T) {
	s := ran(10*time.Second).keep(23, time.Millisecond, 400*time.Millisecond, time.Millisecond, func(c *Case, _ *Leftover) {
		pid := uint32(100 + c.Cookie)
		c.Owner, c.EOFTask, c.Holders = task(pid), task(pid), []event.Holder{{Task: task(pid), FD: 3}}
	})
	if d := s.judge(); d.Verdict != Clean || len(d.Processes) != 23 {
		t.Errorf("%v, %d processes", d.Verdict, len(d.Processes))
	}
}

// Servers that close everything, killed at a random moment of their work: nobody is accused,
// however many waits are open then.
func TestKilledServers(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 23))
	const rounds = 500
	wrong := 0
	for range rounds {
		s := ran(10 * time.Second)
		perSec, service := 1+r.Float64()*400, time.Duration(r.ExpFloat64()*float64(20*time.Millisecond))
		for at := now.Add(-time.Duration(r.Int64N(int64(10 * time.Second)))); at < now; at = at.Add(time.Duration(r.ExpFloat64() / perSec * 1e9)) {
			// The service time is that of the FIN: nobody takes exactly the same time twice.
			dwell := time.Duration(float64(service) * (0.8 + 0.4*r.Float64()))
			if end := at.Add(dwell); end < now {
				s.tally.Add(task(10), Site{event.In, 8080}, at, dwell)
				continue
			}
			s.keep(1, now.Sub(at), 0, time.Millisecond, nil)
		}
		if d := s.judge(); d.Verdict != Clean {
			wrong++
			t.Logf("%.0f a second, %v: %s", perSec, service, d.Processes[0].Why)
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d accused", wrong, rounds)
	}
}
