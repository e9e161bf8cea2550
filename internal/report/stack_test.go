package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
)

// evilName is what a hostile file can call its functions.
const evilName = "a;b\x1b[31m\n\xff\u202e\"\\,=cmd|' /C calc'!A0"

func goStack(user string, q event.Quality, r event.UnwindReason) *record.Stack {
	const app = "/srv/app/proxy"
	st := record.StackOf([]symbol.Frame{
		{Function: "syscall.read", File: "/usr/local/go/src/syscall/zsyscall_linux_amd64.go", Line: 736, Module: app, Offset: 0x47f0ee, Kind: symbol.Go},
		{Function: "net.(*conn).Read", File: "/usr/local/go/src/net/net.go", Line: 196, Module: app, Offset: 0x5a1b25, Kind: symbol.Go},
		{Function: user, File: "/src/proxy.go", Line: 88, Module: app, Offset: 0x6c0f1a, Kind: symbol.Go},
		{Function: "github.com/a-rather-long-organisation/a-rather-long-repository/internal/server.(*Server).ServeForever", File: "/src/a/very/long/way/to/the/file/server.go", Line: 1234, Module: app, Offset: 0x6c1000, Kind: symbol.Go},
		{Module: app, Offset: 0x46e501, Kind: symbol.Native},
	}, &event.Stack{Quality: q, Reason: r, Task: java})
	return &st
}

func cStack() *record.Stack {
	st := record.StackOf([]symbol.Frame{
		{Function: "connect", Module: "/usr/lib/x86_64-linux-gnu/libc.so.6", Offset: 0x10, Kind: symbol.Native},
		{Function: evilName, File: evilName, Line: 7, Module: "/srv/" + evilName, Offset: 0x20, Kind: symbol.Native},
		{Module: "/srv/c;srv", Offset: 0x1234, Kind: symbol.Native},
		{Offset: 0x7f0012345678, Kind: symbol.JIT},
		{Kind: symbol.Signal},
	}, &event.Stack{Quality: event.QualityGuessed, Reason: event.ReasonNoRule, Task: evil})
	return &st
}

// incident is 30 sockets of two processes: told EOF at one place (20) and another (3),
// connected somewhere (2), zombies shut down somewhere (2), and three without stacks.
func incident() ([]diagnosis.Case, *record.Facts) {
	at := clock.K
	facts := sockets().Facts
	facts.Stacks = map[event.Cookie]*record.Stacks{}
	facts.Threads = map[uint32][]record.ThreadStack{}
	pump, drop, out := goStack("main.(*proxy).pump", event.QualityComplete, 0), goStack("main.drop", event.QualityTruncated, event.ReasonTooDeep), cStack()
	var cases []diagnosis.Case
	add := func(n int, age time.Duration, change func(*diagnosis.Case), st *record.Stacks, ids event.Stacks) {
		for range n {
			c := diagnosis.Case{
				Socket: event.Socket{
					At: at, Since: at.Add(-age), Bound: event.Exact, Cookie: event.Cookie(len(cases) + 1), Inode: 9, State: event.CloseWait,
					Direction: event.In, Flow: flow("10.0.0.1:8080", fmt.Sprintf("10.0.0.2:%d", 40000+len(cases))), QueuesKnown: true,
					Owner: java, Evidence: event.EvidenceAccept, WasConnected: true, Stacks: ids,
				},
				HoldersKnown: true, Holders: []event.Holder{{Task: java, FD: int32(len(cases) + 3)}},
			}
			if change != nil {
				change(&c)
			}
			diagnosis.Explain(&c, time.Minute)
			if st != nil {
				facts.Stacks[c.Cookie] = st
			}
			cases = append(cases, c)
		}
	}
	add(20, 43*time.Minute, func(c *diagnosis.Case) {
		c.EOFSeen, c.EOFAt, c.EOFTask = true, c.Since.Add(time.Second), java
	}, &record.Stacks{Open: goStack("main.accept", event.QualityComplete, 0), EOF: pump}, event.Stacks{1, 0, 2, 0})
	add(3, 2*time.Minute, func(c *diagnosis.Case) { c.EOFSeen = true }, &record.Stacks{EOF: drop}, event.Stacks{0, 0, 3, 0})
	add(2, 90*time.Second, func(c *diagnosis.Case) {
		c.Owner, c.Holders, c.RecvQ = evil, []event.Holder{{Task: evil, FD: 4}}, 1
		c.Direction, c.Socket.Evidence, c.Flow.Remote = event.Out, event.EvidenceConnect, netip.MustParseAddrPort("[fd00::1]:443")
	}, &record.Stacks{Open: out}, event.Stacks{4, 0, 0, 0})
	add(2, 70*time.Second, func(c *diagnosis.Case) { c.State = event.Close }, &record.Stacks{EOF: pump, Close: drop}, event.Stacks{0, 0, 2, 3})
	add(3, 50*time.Minute, func(c *diagnosis.Case) { c.Baseline, c.Bound, c.RecvQ = true, event.AtLeast, 5 }, nil, event.Stacks{})
	return cases, facts
}

func judged(cases []diagnosis.Case) diagnosis.Diagnosis {
	return diagnosis.Judge(diagnosis.Input{Cases: cases, From: clock.K, To: clock.K, Threshold: time.Minute})
}

func stackedDiagnosis() *record.Diagnosis {
	cases, facts := incident()
	d := judged(cases)
	var threads []record.Stack
	for i := range 7 {
		st := goStack(fmt.Sprintf("main.worker%d", i%5), event.QualityComplete, 0)
		st.Tid = uint32(100 + i)
		threads = append(threads, *st)
	}
	fp := goStack("main.fp", event.QualityFPOnly, event.ReasonNoUnwinder)
	facts.Threads[java.Pid] = record.GroupThreads(append(threads, *fp, record.Stack{Frames: []record.Frame{}, Reason: "stack memory not readable"}))
	facts.Unsampled = map[uint32]uint64{java.Pid: 12}
	r := record.FromDiagnosis(&d, facts)
	return &r
}

func TestStacksInDiagnosis(t *testing.T) {
	for name, o := range map[string]Options{
		"table":   {Format: Table},
		"verbose": {Format: Table, Verbose: true},
		"wide":    {Format: Wide},
		"json":    {Format: JSON},
	} {
		d, err := NewDiagnosis(o)
		if err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		if err := d.Write(&buf, stackedDiagnosis()); err != nil {
			t.Fatal(err)
		}
		golden(t, "diagnosis,stacks,"+name, buf.Bytes())
		printable(t, name, buf.String())
		if o.Format == Table {
			fits(t, buf.String())
		}
	}
}

// printable: no byte of a file's own making reaches the output as it is.
func printable(t *testing.T, what, text string) {
	t.Helper()
	for _, r := range text {
		if r != '\n' && (r < ' ' || r == 0x7f || r == '\ufffd' || r == '\u202e') {
			t.Errorf("%s holds %q", what, r)
		}
	}
}

// A report with hundreds of places stays readable.
func TestManyGroups(t *testing.T) {
	var groups []record.Group
	for i := range 100 {
		groups = append(groups, record.Group{Cause: "eof_ignored", N: 2, StackKind: "eof", Frames: []record.Frame{{Function: fmt.Sprint("f", i), User: true}}})
	}
	for _, f := range []Format{Table, Wide} {
		p := page{all: f == Wide}
		p.groups(groups)
		if got := strings.Count(p.buf.String(), "EOF read at"); f == Table && got != maxGroups || f == Wide && got != 100 {
			t.Errorf("%s: %d groups", f, got)
		}
		if got := strings.Contains(p.buf.String(), "and 184 sockets in 92 groups more"); got != (f == Table) {
			t.Errorf("%s:\n%s", f, &p.buf)
		}
	}
}

func TestPlace(t *testing.T) {
	user := []record.Frame{{Function: "read"}, {Function: "main.(*proxy).pump", File: "/src/proxy.go", Line: 88, User: true}}
	for _, tt := range []struct {
		s    stacked
		want string
	}{
		{stacked{}, ""},
		{stacked{kind: "eof", frames: user}, "EOF read at main.(*proxy).pump proxy.go:88"},
		{stacked{kind: "open", direction: "in", frames: user}, "accepted at main.(*proxy).pump proxy.go:88"},
		{stacked{kind: "open", direction: "out", frames: user}, "connected at main.(*proxy).pump proxy.go:88"},
		{stacked{kind: "open", frames: user}, "opened at main.(*proxy).pump proxy.go:88"},
		{stacked{kind: "last_read", frames: user}, "first used at main.(*proxy).pump proxy.go:88"},
		{stacked{kind: "close", frames: user}, "closed at main.(*proxy).pump proxy.go:88"},
		{stacked{kind: "close", cause: "zombie_fd", frames: user}, "shut down at main.(*proxy).pump proxy.go:88"},
		{stacked{kind: "eof", frames: user, quality: "truncated"}, "EOF read at main.(*proxy).pump proxy.go:88"},
		{stacked{kind: "eof", frames: user, quality: "guessed"}, "EOF read at main.(*proxy).pump proxy.go:88 (guessed)"},
		{stacked{kind: "eof", frames: user, quality: "fp-only"}, "EOF read at main.(*proxy).pump proxy.go:88 (fp-only)"},
		{stacked{kind: "eof", reason: "frames lost on the way"}, "EOF read at a place not known (frames lost on the way)"},
		{stacked{kind: "eof", frames: []record.Frame{{Module: "/usr/bin/app", Offset: 0x1234, User: true}}}, "EOF read at app+0x1234"},
		{stacked{kind: "eof", frames: []record.Frame{{Offset: 0x7f00, User: true}}}, "EOF read at 0x7f00"},
		{stacked{kind: "eof", frames: []record.Frame{{Function: "dropAll", File: "file:///app/server.js", User: true}}}, "EOF read at dropAll server.js"},
		{stacked{kind: "eof", frames: []record.Frame{{File: "/app/server.js", Line: 3, User: true}}}, "EOF read at server.js:3"},
		{stacked{kind: "eof", frames: []record.Frame{{Function: "ngx_unix_recv", Module: "/usr/sbin/nginx", User: true}}}, "EOF read at ngx_unix_recv"},
		{stacked{kind: "eof", frames: []record.Frame{{Kind: "signal"}}}, "EOF read at <signal>"},
		{stacked{kind: "eof", frames: []record.Frame{{}}}, "EOF read at ?"},
	} {
		if got := tt.s.place(); got != tt.want {
			t.Errorf("%+v: got %q, want %q", tt.s, got, tt.want)
		}
	}
}

func TestGroups(t *testing.T) {
	cases, facts := incident()
	cases[29].State, cases[29].Cause = event.Established, diagnosis.None
	r := record.NewGroups(cases, time.Minute, facts, event.Loss{Lost: 1}, map[uint32]string{7: "gone"})
	if r.Sockets != 30 {
		t.Errorf("%d sockets", r.Sockets)
	}
	for name, o := range map[string]Options{
		"table":        {Format: Table},
		"wide":         {Format: Wide},
		"table,fields": {Format: Table, Fields: []string{"n", "pid", "comm", "cause", "oldest_ns", "stack_kind"}, Sort: "-oldest_ns"},
		"jsonl,fields": {Format: JSONL, Fields: []string{"n", "frames"}},
		"csv":          {Format: CSV, Sort: "n"},
	} {
		g, err := NewGroups(o)
		if err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		if err := g.Write(&buf, &r); err != nil {
			t.Fatal(err)
		}
		golden(t, "groups,"+name, buf.Bytes())
		printable(t, name, buf.String())
		if name == "table" {
			fits(t, buf.String())
		}
		if o.Format == CSV {
			if rows, err := csv.NewReader(&buf).ReadAll(); err != nil || len(rows) != 1+len(r.Groups) {
				t.Errorf("%d rows, %v", len(rows), err)
			}
		}
	}
}

func writeExplain(t *testing.T, o Options, x *Explanation) []byte {
	t.Helper()
	o.Threshold = time.Minute
	e, err := NewExplain(o)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := e.Write(&buf, x); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestExplainProcess(t *testing.T) {
	cases, facts := incident()
	d := judged(cases)
	x := &Explanation{Facts: facts, Observed: 10 * time.Second, Loss: event.Loss{Lost: 2}, Notes: []string{"a note"}}
	for i := range d.Processes {
		if d.Processes[i].Task.Pid == java.Pid {
			x.Process = &d.Processes[i]
		}
	}
	for c := range d.Waits() {
		if c.Blamed.Pid == java.Pid {
			x.Cases = append(x.Cases, c)
		}
	}
	x.States[event.CloseWait], x.States[event.Close], x.States[event.Listen] = 26, 2, 1
	for name, o := range map[string]Options{
		"table":        {Format: Table},
		"wide":         {Format: Wide},
		"json":         {Format: JSON, Fields: []string{"cookie", "cause", "stacks.eof.quality"}},
		"csv":          {Format: CSV, Fields: []string{"cookie", "cause", "owner.comm"}, Sort: "-dwell_ns"},
		"table,fields": {Format: Table, Fields: []string{"cookie", "dwell_ns"}},
	} {
		text := writeExplain(t, o, x)
		golden(t, "explain,process,"+name, text)
		if name == "table" {
			fits(t, string(text))
		}
	}
	// A process that has nothing to do with TCP is explained all the same.
	none := &Explanation{Process: &diagnosis.Process{Task: java}, Facts: &record.Facts{Clock: clock}}
	golden(t, "explain,process,nothing", writeExplain(t, Options{Format: Table}, none))
}

// One page for each way a socket can be.
func TestExplainSocket(t *testing.T) {
	cases, facts := incident()
	stamp := func(d time.Duration) event.KTime { return clock.K.Add(-d) }
	with := func(change func(*diagnosis.Case)) *diagnosis.Case {
		c := cases[29]
		c.Cookie = 4503599627370497
		change(&c)
		diagnosis.Explain(&c, time.Minute)
		return &c
	}
	curl := []record.Holder{{Pid: 7, Comm: "curl", FD: 5}}
	peers := map[string]record.Peer{
		"eof_ignored": {
			Pid: 7, Comm: "curl", State: "FIN_WAIT2", Cookie: 99, Netns: 4026532000, NetnsName: "blue", MatchedBy: "sequence",
			DwellNS: new(int64(43 * time.Minute)), DwellBound: "exact", Holders: curl,
		},
		"connected":  {Pid: 7, Comm: "curl", State: "FIN_WAIT2", Cookie: 99, MatchedBy: "flow_and_sequence", Holders: []record.Holder{}},
		"baseline":   {Gone: true},
		"not_told":   {State: "FIN_WAIT2", MatchedBy: "flow", Holders: []record.Holder{}},
		"fin_wait2":  {Pid: 7, Comm: "curl", State: "CLOSE_WAIT", Cookie: 99, MatchedBy: "flow", Holders: curl},
		"half_close": {State: "FIN_WAIT2", MatchedBy: "flow", Holders: append(slices.Clone(curl), record.Holder{Pid: 8, Comm: "wget"})},
	}
	passed := event.Task{Pid: 9, Tid: 9, Comm: event.MakeComm("opener")}
	for name, c := range map[string]*diagnosis.Case{
		"eof_ignored": &cases[0],
		"connected":   &cases[23],
		"zombie":      &cases[25],
		"baseline":    with(func(c *diagnosis.Case) { c.Earliest = stamp(55 * time.Minute) }),
		"since_yesterday": with(func(c *diagnosis.Case) {
			// The host has been up for long.
			c.At = event.KTime(1000 * time.Hour)
			c.Since = c.At.Add(-30 * time.Hour)
		}),
		"unaccepted": with(func(c *diagnosis.Case) {
			c.Inode, c.Holders, c.Owner, c.Bound = 0, nil, event.Task{}, event.BoundUnknown
			c.Listeners = []event.Holder{{Task: java}, {Task: evil}}
		}),
		"held_elsewhere": with(func(c *diagnosis.Case) {
			c.Owner, c.Holders = passed, []event.Holder{{Task: java, FD: 3}, {Task: evil, FD: 4}}
		}),
		"in_flight":  with(func(c *diagnosis.Case) { c.Holders, c.RecvQ = nil, 0 }),
		"half_close": with(func(c *diagnosis.Case) { c.SentKnown, c.SentAfterFin, c.LastSend = true, 9, stamp(time.Second) }),
		"not_told":   with(func(c *diagnosis.Case) { c.EOFWatched, c.RecvQ = true, 0 }),
		"fin_wait2":  with(func(c *diagnosis.Case) { c.State = event.FinWait2 }),
		"in_message": with(func(c *diagnosis.Case) {
			c.Holders, c.Passed = nil, []event.Passed{{Receiver: java, FD: 6, Sender: 9}}
		}),
		"in_io_uring": with(func(c *diagnosis.Case) { c.Holders, c.Fixed = nil, []event.Holder{{Task: java, FD: 2}} }),
		"established": with(func(c *diagnosis.Case) {
			c.State, c.Cookie = event.Established, 0
			c.HoldersKnown, c.QueuesKnown = false, false
		}),
	} {
		at := *facts
		at.Clock.K = c.At
		if p, ok := peers[name]; ok {
			at.Peers = map[event.Cookie]record.Peer{c.Cookie: p}
		}
		x := &Explanation{Process: &diagnosis.Process{}, Socket: c, Facts: &at}
		if d := judged([]diagnosis.Case{*c}); len(d.Processes) > 0 {
			x.Process = &d.Processes[0]
		}
		text := writeExplain(t, Options{Format: Table}, x)
		golden(t, "explain,socket,"+name, text)
		printable(t, name, string(text))
		fits(t, string(text))
	}
	x := &Explanation{Process: &diagnosis.Process{}, Socket: &cases[0], Facts: facts}
	text := writeExplain(t, Options{Format: JSONL}, x)
	bare := bytes.TrimSuffix(mustJSON(t, record.FromCase(&cases[0], facts)), []byte("}"))
	if !bytes.HasPrefix(text, bare) || !json.Valid(text) {
		t.Errorf("it does not begin with the record of the socket: %s", text)
	}
	golden(t, "explain,socket,json", writeExplain(t, Options{Format: JSON, Fields: []string{"cookie", "cause", "owner.pid"}}, x))
	golden(t, "explain,socket,csv", writeExplain(t, Options{Format: CSV, Fields: []string{"cookie", "owner.comm"}}, x))
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	text, err := compact(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTailWithStacks(t *testing.T) {
	pump, out := goStack("main.(*proxy).pump", event.QualityComplete, 0), cStack()
	for name, o := range map[string]Options{
		"table": {Format: Table}, "verbose": {Format: Table, Verbose: true}, "wide": {Format: Wide}, "json": {Format: JSON},
		"jsonl,fields": {Format: JSONL, Fields: []string{"new_state", "stacks.close.quality"}}, "csv,fields": {Format: CSV, Fields: []string{"new_state", "stacks"}},
	} {
		var buf bytes.Buffer
		tail, err := NewTail(&buf, o)
		if err != nil {
			t.Fatal(err)
		}
		tail.Clock(clock)
		for i, stacks := range []*record.Stacks{{Open: out}, {Open: pump, EOF: pump}, {Open: out, Close: pump}, {Open: out, EOF: pump}, nil} {
			tr := transitions()[0]
			tr.Old = []event.State{event.Close, event.Established, event.CloseWait, event.LastAck, event.SynSent}[i]
			tr.New = []event.State{event.SynSent, event.CloseWait, event.LastAck, event.Close, event.Established}[i]
			if err := errors.Join(tail.Transition(&tr, record.TransitionFacts{Stacks: stacks}), tail.Flush()); err != nil {
				t.Fatal(err)
			}
		}
		golden(t, "tail,stacks,"+name, buf.Bytes())
		printable(t, name, buf.String())
	}
}
