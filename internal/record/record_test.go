package record

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

var testClock = event.Clock{
	Wall: time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC), K: event.KTime(time.Hour),
}

func fullTransition() *event.Transition {
	return &event.Transition{
		At: event.KTime(time.Hour + 1500*time.Millisecond), Cookie: 12345, Old: event.CloseWait, New: event.LastAck,
		Flow: event.Flow{
			Local:  netip.MustParseAddrPort("10.1.2.3:8080"),
			Remote: netip.MustParseAddrPort("[2001:db8::1]:50000"), Netns: 4026531840, Protocol: event.TCP,
		},
		InState: 90 * time.Second, InBound: event.Exact, Direction: event.In, Evidence: event.EvidenceAccept,
		Owner: event.Task{Pid: 42, Tid: 43, Comm: event.MakeComm("java")},
	}
}

// reference is the slow way to the same text.
func reference(tb testing.TB, v any) string {
	tb.Helper()
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		tb.Fatal(err)
	}
	return strings.TrimSuffix(buf.String(), "\n")
}

func encode(t *event.Transition, f *TransitionFacts) string {
	e := NewTransitionEncoder()
	e.SetClock(testClock)
	return string(e.AppendJSON(nil, t, f))
}

func inContainer(id string) *TransitionFacts { return &TransitionFacts{Cgroup: Cgroup{Container: id}} }

func TestTransitionJSON(t *testing.T) {
	got := encode(fullTransition(), inContainer("abc"))
	want := `{"schema":"tcpwaitd/v1","kind":"transition","time":"2026-03-04T05:06:08.500000008Z",` +
		`"ktime_ns":3601500000000,"cookie":12345,"netns":4026531840,"family":"ipv4","protocol":"tcp",` +
		`"laddr":"10.1.2.3","lport":8080,"raddr":"2001:db8::1","rport":50000,` +
		`"old_state":"CLOSE_WAIT","new_state":"LAST_ACK","in_state_ns":90000000000,"in_state_bound":"exact",` +
		`"direction":"in","owner":{"pid":42,"tid":43,"comm":"java","evidence":"accept"},"container":"abc"}`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got = encode(&event.Transition{Inferred: true}, inContainer(""))
	want = `{"schema":"tcpwaitd/v1","kind":"transition","time":null,"ktime_ns":0,"protocol":"tcp",` +
		`"old_state":"UNKNOWN","new_state":"UNKNOWN","in_state_bound":null,"direction":null,` +
		`"owner":{"evidence":"none"},"inferred":true}`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unknown (-want +got):\n%s", diff)
	}
}

func FuzzTransitionJSON(f *testing.F) {
	f.Add(uint64(1), int64(1), uint8(1), uint8(8), uint8(1), []byte{10, 0, 0, 1}, uint16(80), []byte("java"), "c")
	f.Add(uint64(0), int64(-1), uint8(99), uint8(0), uint8(2), bytes.Repeat([]byte{255}, 16), uint16(0), []byte("\x1b[31m\"\\\xff\u202e"), "\n")
	f.Fuzz(func(t *testing.T, cookie uint64, at int64, old, next, small uint8, addr []byte, port uint16, comm []byte, container string) {
		a, _ := netip.AddrFromSlice(addr)
		tr := &event.Transition{
			// Years of five digits are no RFC 3339.
			At: event.KTime(at % (1 << 60)), Cookie: event.Cookie(cookie), Old: event.State(old), New: event.State(next),
			Flow: event.Flow{
				Local: netip.AddrPortFrom(a, port), Remote: netip.AddrPortFrom(a.Unmap(), port/2),
				Netns: uint32(cookie >> 3), Protocol: event.Protocol(port),
			},
			InState: time.Duration(at), InBound: event.Bound(small % 4), Direction: event.Direction(small % 3),
			Owner: event.Task{Pid: uint32(port), Tid: uint32(old)}, Evidence: event.Evidence(small), Inferred: small > 128,
		}
		copy(tr.Owner.Comm[:], comm)
		facts := inContainer(container)
		facts.Stacks = fuzzStacks(small, string(comm), container, int(at))
		got := encode(tr, facts)
		if want := reference(t, FromTransition(tr, testClock, facts)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		var back struct{ Owner TransitionOwner }
		if err := json.Unmarshal([]byte(got), &back); err != nil {
			t.Fatal(err)
		}
		if tr.Owner.Known() && unescape(t, back.Owner.Comm) != tr.Owner.Comm.String() {
			t.Errorf("comm %q came back as %q", tr.Owner.Comm.String(), back.Owner.Comm)
		}
	})
}

// fuzzStacks makes stacks of every shape: none, empty ones, and frames with any part missing.
func fuzzStacks(shape uint8, a, b string, line int) *Stacks {
	if shape&1 == 0 {
		return nil
	}
	frames := []symbol.Frame{
		{Function: a, File: b, Line: line, Module: a, Offset: uint64(shape), Kind: symbol.Go},
		{Module: b},
		{Line: 1},
		{},
		{Kind: symbol.Kind("js")},
	}
	st := StackOf(frames[:int(shape)%len(frames)], &event.Stack{
		Quality: event.Quality(shape % 6), Reason: event.UnwindReason(shape),
		Task: event.Task{Tid: uint32(shape), Comm: event.MakeComm(a)},
	})
	all := &Stacks{}
	for bit, at := range []**Stack{&all.Open, &all.LastRead, &all.EOF, &all.Close} {
		if shape>>(bit+1)&1 == 1 {
			*at = &st
		}
	}
	if shape > 250 {
		all.Close = &Stack{}
	}
	return all
}

func unescape(tb testing.TB, s string) string {
	tb.Helper()
	raw, err := strconv.Unquote(`"` + strings.ReplaceAll(s, `"`, `\"`) + `"`)
	if err != nil {
		tb.Fatalf("unescape %q: %v", s, err)
	}
	return raw
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"":                 "",
		"java":             "java",
		"kworker/0:1":      "kworker/0:1",
		"\x1b[31mred":      `\x1b[31mred`,
		"a\nb\tc\x00\x7f":  `a\nb\tc\x00\x7f`,
		`say "hi" \ 'x'`:   `say "hi" \\ 'x'`,
		"\xff\xc3(":        `\xff\xc3(`,
		"\u202eevil\u2066": `\u202eevil\u2066`,
		"\u2028\ufeff":     `\u2028\ufeff`,
		"\ufffd":           "\ufffd",
		"größe 日本 שלום":    "größe 日本 שלום",
		"\U000e0001":       `\U000e0001`,
		"\u0085\u009b31m":  `\u0085\u009b31m`,
	} {
		if got := Escape(in); got != want {
			t.Errorf("Escape(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("\x1b]0;x\x07\xf0\x9f\x98")
	f.Fuzz(func(t *testing.T, s string) {
		got := Escape(s)
		if !utf8.ValidString(got) {
			t.Errorf("Escape(%q) = %q is not UTF-8", s, got)
		}
		for _, r := range got {
			if !strconv.IsPrint(r) {
				t.Errorf("Escape(%q) = %q holds %U", s, got, r)
			}
		}
		if back := unescape(t, got); back != s {
			t.Errorf("Escape(%q) comes back as %q", s, back)
		}
		if again := string(AppendEscaped(nil, []byte(s))); again != got {
			t.Errorf("from bytes %q, from string %q", again, got)
		}
	})
}

func TestStamp(t *testing.T) {
	s := NewStamp("15:04:05", time.FixedZone("x", 3600), 3)
	for nano, want := range map[int64]string{0: "01:00:00.000", 999_999_999: "01:00:00.999", -1: "00:59:59.999", 61_002_000_000: "01:01:01.002"} {
		if got := string(s.Append(nil, nano)); got != want {
			t.Errorf("%d: got %s, want %s", nano, got, want)
		}
	}
}

func TestFromCase(t *testing.T) {
	java := event.Task{Pid: 42, Tid: 43, Start: event.BootTime(10 * time.Second), Comm: event.MakeComm("java")}
	sh := event.Task{Pid: 41, Tid: 41, Comm: event.MakeComm("sh")}
	c := &diagnosis.Case{
		Socket: event.Socket{
			At: event.KTime(100 * time.Second), Since: event.KTime(40 * time.Second), Earliest: event.KTime(30 * time.Second),
			Bound: event.AtLeast, Cookie: 7, Inode: 8, State: event.CloseWait, Direction: event.In, Cgroup: 5,
			Flow: event.Flow{
				Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort("10.0.0.2:5000"),
				Netns: 1, Protocol: event.MPTCP,
			},
			EOFSeen: true, SentKnown: true, Keepalive: true, EOFTask: java,
			Owner: sh, Evidence: event.EvidenceAccept, User: java, UserEvidence: event.EvidenceWrite,
		},
		HoldersKnown: true, Holders: []event.Holder{{Task: java, FD: 3}},
		Listeners: []event.Holder{{Task: java, Listening: &event.Listening{QueueMax: 128}}}, Cause: diagnosis.EOFIgnored, Blamed: java, Evidence: event.EvidenceAccept,
	}
	facts := &Facts{
		Clock: testClock, Boot: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Processes: map[uint32]*owner.Process{42: {Exe: "/bin/java", Cmdline: []string{"java", "-jar", "x\n"}, Unit: "a.service"}},
		Peers:     map[event.Cookie]Peer{7: {Pid: 9, Comm: "curl", State: "FIN_WAIT2"}},
		Stacks:    map[event.Cookie]*Stacks{7: {EOF: &Stack{Frames: []Frame{FrameOf(&symbol.Frame{Function: "main", File: "a.go", Line: 1})}}}},
		Cgroups:   map[uint64]Cgroup{5: {Path: "/a", Container: "c"}},
	}
	want := `{"schema":"tcpwaitd/v1","kind":"socket","cookie":7,"inode":8,"netns":1,"family":"ipv4","protocol":"mptcp",` +
		`"laddr":"10.0.0.1","lport":80,"raddr":"10.0.0.2","rport":5000,"state":"CLOSE_WAIT","direction":"in",` +
		`"dwell_ns":60000000000,"dwell_bound":"at_least","dwell_max_ns":70000000000,"cause":"eof_ignored","eof_seen":true,` +
		`"recv_q":0,"send_q":0,"bytes_sent_after_fin":0,"keepalive":true,` +
		`"owner":{"pid":42,"tid":43,"comm":"java","exe":"/bin/java","cmdline":"java -jar x\\n",` +
		`"start_time":"2026-01-01T00:00:10.000000000Z","unit":"a.service","evidence":"accept"},"container":"c","cgroup":"/a",` +
		`"holders":[{"pid":42,"comm":"java","fd":3,"start_time":"2026-01-01T00:00:10.000000000Z"}],` +
		`"opener":{"pid":41,"comm":"sh","evidence":"accept","holds":false},` +
		`"last_user":{"pid":42,"comm":"java","start_time":"2026-01-01T00:00:10.000000000Z","evidence":"write","holds":true},` +
		`"eof_told":{"pid":42,"comm":"java","start_time":"2026-01-01T00:00:10.000000000Z","evidence":"read","holds":true},` +
		`"listener":{"pid":42,"comm":"java","queue_len":0,"queue_max":128},"stacks":{"eof":{"frames":[{"function":"main","file":"a.go","line":1}]}},` +
		`"peer":{"pid":9,"comm":"curl","state":"FIN_WAIT2","holders":null}}`
	if diff := cmp.Diff(want, reference(t, FromCase(c, facts))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	lost := &diagnosis.Case{
		Socket: event.Socket{State: event.CloseWait, Inode: 8}, Cause: diagnosis.InFlight, HoldersKnown: true,
		Passed: []event.Passed{{Receiver: java, FD: 5, Sender: 41}},
	}
	const inMessage = `"holders":[],"in_flight":{"where":"message","receivers":[{"pid":42,"comm":"java","fd":5,` +
		`"start_time":"2026-01-01T00:00:10.000000000Z"}],"sender":41}}`
	if got := reference(t, FromCase(lost, facts)); !strings.HasSuffix(got, inMessage) {
		t.Errorf("in a message: %s", got)
	}
	want = `{"schema":"tcpwaitd/v1","kind":"socket","protocol":"tcp","state":"UNKNOWN","direction":null,"dwell_bound":null,` +
		`"cause":null,"eof_seen":null,"recv_q":0,"send_q":0,"keepalive":false,"owner":{"evidence":"none"},"holders":null}`
	if diff := cmp.Diff(want, reference(t, FromCase(&diagnosis.Case{}, &Facts{}))); diff != "" {
		t.Errorf("unknown (-want +got):\n%s", diff)
	}
}

func TestStatesListsEveryState(t *testing.T) {
	var c StateCounts
	c[event.CloseWait] = 23
	c[event.TimeWait] = 2
	got := reference(t, NewStates(Time{testClock.Wall}, c, nil, map[uint32]string{2: "gone", 1: "denied"}))
	want := `{"schema":"tcpwaitd/v1","kind":"states","time":"2026-03-04T05:06:07.000000008Z","total":25,` +
		`"states":{"ESTABLISHED":0,"SYN_SENT":0,"SYN_RECV":0,"FIN_WAIT1":0,"FIN_WAIT2":0,"TIME_WAIT":2,"CLOSE":0,` +
		`"CLOSE_WAIT":23,"LAST_ACK":0,"LISTEN":0,"CLOSING":0,"NEW_SYN_RECV":0,"BOUND_INACTIVE":0},` +
		`"unread_netns":[{"netns":1,"reason":"denied"},{"netns":2,"reason":"gone"}]}`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := event.States()[len(event.States())-1]; int(n) >= len(c) {
		t.Errorf("no room for %v", n)
	}
}

func TestLossAndDoctor(t *testing.T) {
	got := reference(t, FromLoss(event.Loss{Lost: 1, Dropped: 2, Evicted: 3, Missed: 4}, At(testClock, testClock.K)))
	want := `{"schema":"tcpwaitd/v1","kind":"loss","time":"2026-03-04T05:06:07.000000008Z","lost":1,"dropped":2,"evicted":3,"missed":4}`
	if got != want {
		t.Errorf("got %s", got)
	}
	d := NewDoctor("6.18", "amd64", []Check{{Name: "btf", OK: true}, {Name: "caps"}}, nil, nil)
	got = reference(t, d)
	want = `{"schema":"tcpwaitd/v1","kind":"doctor","ok":false,"kernel":"6.18","arch":"amd64",` +
		`"checks":[{"name":"btf","ok":true,"detail":""},{"name":"caps","ok":false,"detail":""}],"hooks":[],"misleading_sysctls":[]}`
	if got != want {
		t.Errorf("got %s", got)
	}
}

func TestFromDiagnosis(t *testing.T) {
	growth, low, high, left, soonest, latest := 12.5, 10.0, 15.5, 90*time.Second, 72600*time.Millisecond, 112100*time.Millisecond
	d := &diagnosis.Diagnosis{
		Verdict: diagnosis.Leaking, Observed: 10 * time.Second, Threshold: time.Minute, Sockets: 23,
		Processes: []diagnosis.Process{
			{
				Task: event.Task{Pid: 42, Comm: event.MakeComm("java")}, Verdict: diagnosis.Leaking, Why: "23 stuck",
				Sockets: 23, Stuck: 20, Oldest: time.Hour, OldestBound: event.AtLeast, GrowthPerMin: &growth,
				GrowthPerMinLow: &low, GrowthPerMinHigh: &high, FDsExhaustedMin: &soonest, FDsExhaustedMax: &latest,
				Causes: map[diagnosis.Cause]int{diagnosis.EOFIgnored: 23}, FDs: diagnosis.FDs{Open: 90, Limit: 100},
				FDsExhaustedIn: &left, Peers: []diagnosis.Peer{{Remote: netip.MustParseAddrPort("10.0.0.9:0"), N: 23}},
				Groups: []diagnosis.Group{{
					Cause: diagnosis.EOFIgnored, Site: diagnosis.Site{Direction: event.In, Port: 80}, N: 23, Stuck: 20,
					Oldest: time.Hour, OldestBound: event.AtLeast, OldestCookie: 7,
				}},
				Advice: []string{"close it"}, Commands: []string{"ss"},
			},
			{Causes: map[diagnosis.Cause]int{}},
		},
	}
	facts := &Facts{
		Clock:  testClock,
		Stacks: map[event.Cookie]*Stacks{7: {Open: &Stack{}, LastRead: &Stack{Frames: []Frame{{Function: "f"}}}}},
	}
	want := `{"schema":"tcpwaitd/v1","kind":"diagnosis","time":"2026-03-04T05:06:07.000000008Z","verdict":"leaking",` +
		`"observed_ns":10000000000,"threshold_ns":60000000000,"sockets_close_wait":23,` +
		`"loss":{"lost":0,"dropped":0,"evicted":0,"missed":0},"processes":[` +
		`{"pid":42,"comm":"java","verdict":"leaking","why":"23 stuck","sockets":23,"stuck":20,"oldest_ns":3600000000000,` +
		`"oldest_bound":"at_least","growth_per_min":12.5,"growth_per_min_low":10,"growth_per_min_high":15.5,"causes":{"eof_ignored":23},"fds_open":90,"fds_limit":100,` +
		`"fds_exhausted_in_s":90,"fds_exhausted_min_s":72,"fds_exhausted_max_s":113,"peers":[{"raddr":"10.0.0.9","n":23}],"groups":[{"cause":"eof_ignored","direction":"in",` +
		`"lport":80,"n":23,"stuck":20,"oldest_ns":3600000000000,"oldest_bound":"at_least","stack_kind":"last_read",` +
		`"frames":[{"function":"f"}]}],"advice":["close it"],"commands":["ss"]},` +
		`{"verdict":"clean","sockets":0,"stuck":0,"oldest_bound":null,"causes":{},"peers":[],"groups":[],"advice":[],"commands":[]}]}`
	if diff := cmp.Diff(want, reference(t, FromDiagnosis(d, facts))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The encoder remembers texts of flows; others with the same ports or the same place must
// not get them.
func TestEncoderTellsFlowsApart(t *testing.T) {
	events := testenv.Churn(300)
	for i := range 23 {
		tr := events[i]
		tr.Flow.Netns++
		events = append(events, tr)
		tr.Flow.Local = netip.AddrPortFrom(netip.MustParseAddr("::1"), tr.Flow.Local.Port())
		events = append(events, tr, event.Transition{})
	}
	e := NewTransitionEncoder()
	e.SetClock(testClock)
	for i := range events {
		if got, want := string(e.AppendJSON(nil, &events[i], &TransitionFacts{})), encode(&events[i], &TransitionFacts{}); got != want {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
	}
}

func TestEncoderDoesNotAllocate(t *testing.T) {
	e := NewTransitionEncoder()
	e.SetClock(testClock)
	tr, buf, plain := fullTransition(), make([]byte, 0, 1<<16), inContainer("abc")
	stacked := *plain
	stacked.Stacks = fuzzStacks(1+2+16+4*30, "f", "\x1b", 7)
	for _, f := range []*TransitionFacts{plain, &stacked} {
		if n := testing.AllocsPerRun(100, func() { buf = e.AppendJSON(buf[:0], tr, f) }); n > 0 {
			t.Errorf("%v allocations per transition, stacks %v", n, f.Stacks != nil)
		}
	}
}

func BenchmarkTransitionJSON(b *testing.B) {
	e := NewTransitionEncoder()
	e.SetClock(testClock)
	events, buf := testenv.Churn(1023), make([]byte, 0, 4096)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		buf = e.AppendJSON(buf[:0], &events[i%len(events)], &TransitionFacts{})
	}
}

func BenchmarkTransitionReference(b *testing.B) {
	tr := fullTransition()
	b.ReportAllocs()
	for b.Loop() {
		reference(b, FromTransition(tr, testClock, &TransitionFacts{}))
	}
}
