package diagnosis

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// series builds an Input: waits by the ages of their entries.
type series struct {
	in     Input
	cookie event.Cookie
	tally  *Tally
}

// watched starts a series with a window of the given length that ends now.
func watched(length time.Duration) *series {
	from := now.Add(-length)
	return &series{in: Input{From: from, To: now, Threshold: minute}, tally: NewTally(from)}
}

func ago(d time.Duration) event.KTime { return now.Add(-d) }

// open adds n waits of pid 10 on port 8080, the youngest of the given age and each older
// by gap than the one before.
func (s *series) open(n int, youngest, gap time.Duration, change func(*Case)) *series {
	for i := range n {
		s.cookie++
		c := told()
		c.Cookie, c.Since = s.cookie, ago(youngest+time.Duration(i)*gap)
		c.Flow.Local = netip.MustParseAddrPort("10.0.0.1:8080")
		c.Flow.Remote = netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(40000+s.cookie))
		if change != nil {
			change(&c)
		}
		s.in.Cases = append(s.in.Cases, c)
	}
	return s
}

// close adds n waits that ended in the window, spread over it, after the given dwell.
func (s *series) close(n int, dwell time.Duration) *series {
	length := s.in.To.Sub(s.in.From)
	for i := range n {
		end := s.in.From.Add(length * time.Duration(i) / time.Duration(n))
		s.tally.Add(task(10), Site{event.In, 8080}, end.Add(-dwell), dwell)
	}
	return s
}

func (s *series) judge() Diagnosis {
	s.in.Closed = s.tally.Closed()
	return Judge(s.in)
}

func out(c *Case) {
	c.Direction, c.Socket.Evidence = event.Out, event.EvidenceConnect
	c.Flow.Local, c.Flow.Remote = c.Flow.Remote, netip.MustParseAddrPort("10.0.0.9:5432")
}

func poolOut(c *Case) { out(c); c.RecvQ = 1 }

// baseline: the age is at least this, and nothing says at most.
func baseline(c *Case) { c.Bound, c.Baseline = event.AtLeast, true }

// bounded: a baseline socket whose FIN came with data has nearly equal bounds.
func bounded(c *Case) { baseline(c); c.Earliest = c.Since.Add(-4 * time.Millisecond) }

func queued(length, limit uint32) func(*Case) {
	return func(c *Case) {
		c.Inode, c.Holders, c.Owner, c.RecvQ = 0, nil, event.Task{}, 1
		c.Listeners = []event.Holder{{Task: task(10), State: event.Listen, Listening: &event.Listening{QueueLen: length, QueueMax: limit}}}
	}
}

func TestJudge(t *testing.T) {
	const sec, ms = time.Second, time.Millisecond
	tests := []struct {
		name string
		s    *series
		want Verdict
		why  string
	}{
		{"nothing", watched(10 * sec), Clean, ""},
		{"healthy churn", watched(10*sec).open(20, 0, 5*ms, nil).close(5000, 40*ms), Clean, ""},
		{"healthy churn beside a stuck pool", watched(10*sec).open(20, 0, 400*ms, nil).open(23, 5*minute, 0, nil).
			close(17, 3*sec).close(40, 3*sec), Suspicious, ""},
		{"young waits only", watched(10*sec).open(4, sec, 2*sec, nil), Clean, ""},

		{"steady leak, old ones stuck", watched(10*sec).open(1000, 0, 100*ms, nil), Leaking, "101 more in 10s"},
		{"steady leak beside healthy traffic", watched(10*sec).open(1000, 0, 100*ms, nil).close(5000, 40*ms), Leaking, ""},
		{"started with the leak", watched(10*sec).open(100, 0, 100*ms, nil), Suspicious, "none is older"},
		{"started with a busy server that closes some", watched(10*sec).open(100, 0, 100*ms, nil).close(1, ms), Clean, ""},
		{"steady unread_eof leak", watched(10*sec).open(200, 0, 500*ms, poolOut), Leaking, ""},
		{"slow leak, too slow for the window", watched(10*sec).open(30, 50*sec, minute, nil), Leaking, "ages"},
		{"slow leak, present only", watched(0).open(30, 50*sec, minute, nil), Leaking, "ages"},
		{"fast leak that ended", watched(10*sec).open(1000, 3*minute, 100*ms, nil), Suspicious, "no growth"},
		{"fast leak that ended, present only", watched(0).open(1000, 3*minute, 100*ms, nil), Suspicious, ""},
		{"leak by ages, window a little too short", watched(10*sec).open(100, 11*sec, 3900*ms, nil), Leaking, "ages"},
		{"leak by ages, refuted by the window", watched(30*sec).open(100, 31*sec, 9*sec, nil), Suspicious, "no growth"},
		{"a stream that ended, and healthy churn", watched(0).open(100, 5*minute, 10*sec, nil).open(20, 0, sec, nil), Suspicious, ""},
		{"a wave of newcomers beside stuck ones", watched(10*sec).open(50, 0, 200*ms, nil).open(23, 5*minute, 7*sec, nil), Suspicious, "need not belong together"},
		{"young leak, present only", watched(0).open(1000, 0, 100*ms, nil), Suspicious, ""},

		{"one burst long ago", watched(10*sec).open(23, 5*minute, ms, nil), Suspicious, "no growth"},
		{"one burst now beside stuck ones", watched(10*sec).open(23, 3*sec, ms, nil).open(4, 5*minute, ms, nil), Suspicious, ""},
		{"idle pool", watched(10*sec).open(23, 2*minute, 7*sec, poolOut), Suspicious, "no growth"},
		{"idle pool, present only", watched(0).open(23, 2*sec, 7*sec, poolOut), Suspicious, ""},
		{"idle pool that fills while we watch", watched(10*sec).open(53, 0, 2*sec, poolOut).open(23, 0, 400*ms, poolOut), Suspicious, "a pool that fills"},
		{"in flight while we watch", watched(10*sec).open(120, 0, 550*ms, func(c *Case) { c.Holders = nil }), Suspicious, "a pool that fills"},
		{"ten in the window prove nothing", watched(10*sec).open(100, 0, 990*ms, nil), Suspicious, "11 more in 10s can be chance"},
		{"idle pool that times out right now", watched(10*sec).open(4, sec, 2*sec, poolOut).open(9, minute, 5*sec, poolOut), Suspicious, ""},

		{"slow closer", watched(10*sec).open(70, 0, sec, nil).close(10, 70*sec), Suspicious, "it does close"},
		{"slow closer, more come than go", watched(10*sec).open(70, 0, sec, nil).close(3, 70*sec), Suspicious, "it does close"},
		{"slow closer, present only", watched(0).open(70, 0, sec, nil), Suspicious, ""},
		{"a leak whose oldest were reset", watched(10*sec).open(6000, 0, 100*ms, nil).close(2, 70*sec), Leaking, ""},

		{"mid-incident, ages exact", watched(0).open(60, 0, 10*sec, bounded), Leaking, "ages"},
		{"mid-incident, ages unknown upwards", watched(0).open(60, 0, 10*sec, baseline), Suspicious, ""},
		{"mid-incident, still growing", watched(10*sec).open(20, 0, 500*ms, nil).open(40, 10*sec, 1500*ms, baseline), Leaking, "20 more"},
		{"mid-incident, direction unknown", watched(10*sec).open(20, 0, 500*ms, nil).open(40, 10*sec, 1500*ms, func(c *Case) {
			baseline(c)
			c.Direction = event.DirectionUnknown
		}), Leaking, "20 more"},

		{"half-close streams", watched(10*sec).open(50, 0, 10*sec, func(c *Case) { c.SentAfterFin, c.LastSend = 9, ago(sec) }), Clean, ""},
		{"half-close stalled", watched(10*sec).open(1, 10*minute, 0, func(c *Case) { c.SentAfterFin, c.LastSend = 9, ago(2*minute) }), Suspicious, ""},
		{"queue waits", watched(10*sec).open(5, 2*minute, 0, queued(5, 128)), Suspicious, ""},
		{"queue full", watched(10*sec).open(6, 2*minute, 0, queued(6, 5)), Leaking, "accept queue is full"},
		{"queue full for a moment", watched(10*sec).open(6, sec, 0, queued(6, 5)), Clean, ""},
		{"zombies", watched(10*sec).open(3, 2*minute, sec, func(c *Case) { c.State = event.Close }), Suspicious, ""},
		{"young zombies", watched(10*sec).open(30, 0, sec, func(c *Case) { c.State = event.Close }), Clean, ""},
		{"zombies in a stream", watched(10*sec).open(60, 0, 5*sec, func(c *Case) { c.State = event.Close }), Leaking, "ages"},
		{"zombies in a stream, all watched", watched(5*minute).open(40, 0, 6*sec, func(c *Case) { c.State = event.Close }), Leaking, "more in 5m"},
		{"inherited", watched(10*sec).open(40, 0, 5*sec, func(c *Case) { c.Holders = held(task(10)); c.Owner = task(9) }), Leaking, ""},
		{"nobody holds them", watched(10*sec).open(3, 2*minute, sec, func(c *Case) { c.Holders = nil }), Suspicious, ""},
		{"ever new ports", watched(10*sec).open(200, 0, 550*ms, func(c *Case) {
			out(c)
			c.Flow.Remote = netip.AddrPortFrom(c.Flow.Remote.Addr(), uint16(2000+c.Cookie))
		}), Leaking, ""},
		{"age unknown", watched(10*sec).open(50, 0, 10*sec, func(c *Case) { c.Bound = event.BoundUnknown }), Clean, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := tt.s.judge()
			if d.Verdict != tt.want {
				t.Errorf("%v, want %v: %+v", d.Verdict, tt.want, d.Processes)
			}
			if tt.why != "" && !strings.Contains(d.Processes[0].Why, tt.why) {
				t.Errorf("why %q, want %q in it", d.Processes[0].Why, tt.why)
			}
		})
	}
}

func TestJudgeNames(t *testing.T) {
	s := watched(10*time.Second).open(1000, 0, 100*time.Millisecond, nil).open(7, 2*minute, 0, poolOut)
	s.open(3, 3*minute, 0, func(c *Case) { c.Owner, c.Holders = event.Task{}, held(task(11), task(12)) })
	s.open(2, 0, 0, func(c *Case) { c.Owner, c.Holders = task(5), held(task(5)) })
	s.open(1, 0, 0, func(c *Case) { c.Subflow = true })
	s.in.FDs = map[uint32]FDs{10: {Open: 1024 - 300, Limit: 1024}}
	d := s.judge()
	if d.Sockets != 1012 || d.Observed != 10*time.Second || len(d.Processes) != 3 {
		t.Fatalf("%d sockets in %v, %d processes; want 1012 in 10s, 3", d.Sockets, d.Observed, len(d.Processes))
	}
	p := d.Processes[0]
	if p.Task.Pid != 10 || p.Verdict != Leaking || p.Sockets != 1007 || p.Causes[EOFIgnored] != 1000 || p.Causes[UnreadEOF] != 7 {
		t.Errorf("first process %+v", p)
	}
	if p.GrowthPerMin == nil || *p.GrowthPerMin < 600 || *p.GrowthPerMin > 610 {
		t.Errorf("growth %v, want about 600 a minute", p.GrowthPerMin)
	}
	if in := p.FDsExhaustedIn; in == nil || in.Round(time.Second) != 30*time.Second {
		t.Errorf("exhausted in %v, want 30s", p.FDsExhaustedIn)
	}
	if len(p.Groups) != 2 || p.Groups[0].N != 1000 || p.Groups[0].Site != (Site{event.In, 8080}) || p.Groups[0].OldestCookie != 1000 ||
		p.Groups[1].Site != (Site{event.Out, 5432}) {
		t.Errorf("groups %+v", p.Groups)
	}
	if len(p.Peers) != 2 || p.Peers[0] != (Peer{netip.MustParseAddrPort("10.0.0.2:0"), 1000}) {
		t.Errorf("peers %+v", p.Peers)
	}
	if p := d.Processes[1]; p.Task.Pid != 5 || p.Verdict != Clean || p.Advice != nil {
		t.Errorf("second process %+v, want pid 5, clean, no advice", p)
	}
	if p := d.Processes[2]; p.Task.Known() || p.Sockets != 3 || p.Verdict != Suspicious {
		t.Errorf("last process %+v, want nobody with 3 sockets", p)
	}
}

// Several could accept: none is blamed, all are named.
func TestJudgeNamesListeners(t *testing.T) {
	d := watched(0).open(3, 2*minute, 0, func(c *Case) {
		queued(3, 128)(c)
		for _, pid := range []uint32{12, 11, 10} {
			c.Listeners = append(c.Listeners, held(task(pid))...)
		}
	}).judge()
	var pids []uint32
	for _, l := range d.Processes[0].Listeners {
		pids = append(pids, l.Pid)
	}
	if len(d.Processes) != 1 || d.Processes[0].Task.Known() || !slices.Equal(pids, []uint32{10, 11, 12}) {
		t.Errorf("%+v, want nobody with listeners 10, 11, 12", d.Processes)
	}
	d = watched(0).open(3, 2*minute, 0, queued(3, 128)).judge()
	if p := d.Processes[0]; p.Task.Pid != 10 || p.Listeners != nil {
		t.Errorf("%+v, want pid 10 without listeners", p)
	}
}

// Two of five workers leak: exactly these two.
func TestJudgePreforkWorkers(t *testing.T) {
	s := watched(10 * time.Second)
	for pid := uint32(20); pid < 25; pid++ {
		n := 1
		if pid == 21 || pid == 23 {
			n = 230
		}
		s.open(n, 0, 500*time.Millisecond, func(c *Case) { c.Owner, c.Holders = task(pid), held(task(pid)) })
		s.tally.Add(task(pid), Site{event.In, 8080}, ago(time.Second), 3*time.Millisecond)
	}
	for _, p := range s.judge().Processes {
		want := Clean
		if p.Task.Pid == 21 || p.Task.Pid == 23 {
			want = Leaking
		}
		if p.Verdict != want {
			t.Errorf("pid %d %v, want %v", p.Task.Pid, p.Verdict, want)
		}
	}
}

// Waits that a process opened and another holds are credited to the holder when they end.
func TestJudgeCreditsThePasser(t *testing.T) {
	passed := func(c *Case) { c.Owner, c.Holders = task(10), held(task(30)) }
	s := watched(10*time.Second).open(200, 0, 500*time.Millisecond, passed)
	if v := s.judge().Verdict; v != Leaking {
		t.Errorf("without endings %v, want leaking", v)
	}
	if d := s.close(20, 65*time.Second).judge(); d.Verdict != Suspicious {
		t.Errorf("with as many endings %v, want suspicious: %+v", d.Verdict, d.Processes)
	}
}

// mixed is an input with everything in it.
func mixed() Input {
	s := watched(10*time.Second).open(200, 0, 100*time.Millisecond, nil).open(23, 2*minute, time.Second, poolOut).
		open(5, 2*minute, 0, queued(9, 5)).open(9, minute, minute, bounded).close(50, 70*time.Second)
	s.open(9, minute, minute, func(c *Case) { c.State = event.Close })
	s.open(9, minute, minute, func(c *Case) { c.Owner, c.Holders = event.Task{}, held(task(11), task(12)) })
	s.open(40, 0, time.Second, func(c *Case) {
		out(c)
		c.Flow.Remote = netip.AddrPortFrom(c.Flow.Remote.Addr(), uint16(2000+c.Cookie))
	})
	s.in.Closed = s.tally.Closed()
	return s.in
}

func TestJudgeIsDeterministic(t *testing.T) {
	want := Judge(mixed())
	for seed := range uint64(50) {
		in, r := mixed(), rand.New(rand.NewPCG(seed, 1))
		r.Shuffle(len(in.Cases), func(i, j int) { in.Cases[i], in.Cases[j] = in.Cases[j], in.Cases[i] })
		r.Shuffle(len(in.Closed), func(i, j int) { in.Closed[i], in.Closed[j] = in.Closed[j], in.Closed[i] })
		if got := Judge(in); !reflect.DeepEqual(got, want) {
			t.Fatalf("another order gives another diagnosis:\n%+v\n%+v", got, want)
		}
	}
}

// The web is full of cures that are none.
func TestAdviceTellsTheTruth(t *testing.T) {
	for _, p := range Judge(mixed()).Processes {
		all := strings.Join(p.Advice, "\n")
		if p.Verdict != Clean && (!strings.Contains(all, noCure) || !strings.Contains(all, noKill)) {
			t.Errorf("advice for pid %d leaves out what does not help", p.Task.Pid)
		}
		for _, c := range p.Commands {
			if strings.Contains(c, "sysctl") || strings.Contains(c, "-K") || strings.Contains(c, "/proc/0/") || strings.Contains(c, "-p 0") {
				t.Errorf("pid %d is told to run %q", p.Task.Pid, c)
			}
		}
	}
}

func TestCommands(t *testing.T) {
	d := watched(0).open(3, 2*minute, 0, nil).judge()
	got := strings.Join(d.Processes[0].Commands, "\n")
	want := "ss -tanp state close-wait '( sport = :8080 )'\ntcpwaitd list -o wide -p 10\ntcpwaitd explain 10\nls -l /proc/10/fd"
	if got != want {
		t.Errorf("commands\n%s\nwant\n%s", got, want)
	}
}

// at sets the stacks of a case: open, last_read, eof, close.
func at(ids ...event.StackID) func(*Case) {
	return func(c *Case) { copy(c.Stacks[:], ids) }
}

// Sockets of one cause and site that stand at two places in the code are two groups.
func TestGroupsByStack(t *testing.T) {
	s := watched(0).open(3, 2*minute, 0, at(1, 2, 70)).open(5, 3*minute, 0, at(1, 2, 80)).open(2, minute, 0, nil)
	s.open(4, minute, 0, func(c *Case) { c.RecvQ = 9; at(1, 2)(c) }).open(1, minute, 0, func(c *Case) { c.RecvQ = 9; at(1)(c) })
	p := s.judge().Processes[0]
	type group struct {
		cause Cause
		stack event.StackID
		n     int
	}
	var got []group
	sum := 0
	for _, g := range p.Groups {
		got = append(got, group{g.Cause, g.Stack, g.N})
		sum += g.N
		for _, c := range g.Cases {
			if c.Cause != g.Cause || c.Stack() != g.Stack {
				t.Errorf("%+v is in group %+v", c, g)
			}
		}
		if len(g.Cases) != g.N || !slices.IsSortedFunc(g.Cases, func(a, b *Case) int { return int(a.Cookie) - int(b.Cookie) }) {
			t.Errorf("group %+v: cases %v", g, g.Cases)
		}
	}
	want := []group{{EOFIgnored, 80, 5}, {UnreadData, 2, 4}, {EOFIgnored, 70, 3}, {EOFIgnored, 0, 2}, {UnreadData, 1, 1}}
	if !slices.Equal(got, want) || sum != p.Sockets {
		t.Errorf("groups %v, want %v", got, want)
	}
	// Who is to blame and how badly does not depend on where in the code.
	if plain := watched(0).open(8, 2*minute, 0, nil).open(2, minute, 0, nil).judge(); plain.Verdict != p.Verdict {
		t.Errorf("verdict %v with stacks, %v without", p.Verdict, plain.Verdict)
	}
}

func TestTellingStack(t *testing.T) {
	for _, tt := range []struct {
		cause Cause
		ids   []event.StackID
		want  event.StackID
	}{
		{EOFIgnored, []event.StackID{1, 2, 3, 4}, 3},
		{UnreadData, []event.StackID{1, 2, 0, 4}, 2},
		{Unaccepted, []event.StackID{1, 0, 0, 4}, 1},
		{InFlight, []event.StackID{0, 0, 0, 4}, 4},
		{ZombieFD, []event.StackID{1, 2, 3, 4}, 4},
		{ZombieFD, []event.StackID{1, 2, 3, 0}, 3},
		{EOFIgnored, nil, 0},
	} {
		c := Case{Cause: tt.cause}
		at(tt.ids...)(&c)
		if got := c.Stack(); got != tt.want {
			t.Errorf("%s %v: stack %d, want %d", tt.cause, tt.ids, got, tt.want)
		}
	}
}

// BenchmarkJudge is an incident of 50,000 sockets.
func BenchmarkJudge(b *testing.B) {
	s := watched(10*time.Second).open(50_000, 0, 10*time.Millisecond, nil)
	b.ReportAllocs()
	for b.Loop() {
		s.judge()
	}
}
