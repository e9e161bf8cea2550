package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares with testdata/NAME. The name says which writer and options.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got, -update rewrites):\n%s", path, diff)
	}
}

var (
	clock = event.Clock{Wall: time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC), K: event.KTime(time.Hour)}
	java  = event.Task{Pid: 4242, Tid: 4250, Start: event.BootTime(time.Minute), Comm: event.MakeComm("java")}
	evil  = event.Task{Pid: 66, Tid: 66, Comm: event.MakeComm("=\x1b[31m,\"\n\xff\\")}
)

func flow(local, remote string) event.Flow {
	return event.Flow{
		Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote),
		Netns: 4026531840, Protocol: event.TCP,
	}
}

func sockets() *Sockets {
	at := event.KTime(time.Hour)
	return &Sockets{
		Facts: &record.Facts{
			Clock: clock, Boot: time.Date(2026, 3, 4, 4, 0, 0, 0, time.UTC),
			Processes: map[uint32]*owner.Process{4242: {
				Exe: "/usr/bin/java", Cmdline: []string{"java", "-jar", "app.jar"}, Unit: "app.service",
				Container: "0123456789abcdef0123456789abcdef",
			}},
			Peers:  map[event.Cookie]record.Peer{2: {Pid: 7, Comm: "curl", State: "FIN_WAIT2"}},
			Stacks: map[event.Cookie]*record.Stacks{2: {EOF: &record.Stack{Frames: []record.Frame{{Function: "main.handle"}}}}},
		},
		Cases: diagnosis.CaseList{
			{
				Socket: event.Socket{
					At: at, Since: at.Add(-5 * time.Second), Bound: event.Exact, Cookie: 3, Inode: 33,
					State: event.CloseWait, Flow: flow("[2001:db8::1]:443", "[2001:db8::2]:50000"), RecvQ: 1200, SendQ: 5,
				},
				HoldersKnown: true, Holders: []event.Holder{{Task: evil, FD: 4}},
				Cause: diagnosis.UnreadData, Blamed: evil, Evidence: event.EvidenceScan,
			},
			{
				Socket: event.Socket{
					At: at, Since: at.Add(-43 * time.Minute), Earliest: at.Add(-50 * time.Minute), Bound: event.AtLeast,
					Cookie: 2, Inode: 22, State: event.CloseWait, Direction: event.In,
					Flow: flow("10.0.12.34:8080", "10.0.45.67:54321"), EOFSeen: true,
				},
				HoldersKnown: true, Holders: []event.Holder{{Task: java, FD: 9}, {Task: java, FD: 10}},
				Cause: diagnosis.EOFIgnored, Blamed: java, Evidence: event.EvidenceAccept,
			},
			{
				Socket: event.Socket{At: at, Cookie: 1, State: event.CloseWait, Flow: flow("127.0.0.1:80", "127.0.0.1:0")},
				Cause:  diagnosis.Unaccepted,
				Listeners: []event.Holder{
					{Task: java, FD: 3, Listening: &event.Listening{QueueLen: 5, QueueMax: 4}},
					{Task: event.Task{Pid: 4300, Comm: event.MakeComm("worker")}, FD: 3, Listening: &event.Listening{QueueLen: 5, QueueMax: 4}},
				},
			},
		},
		Loss:        event.Loss{Lost: 3},
		UnreadNetns: map[uint32]string{4026532000: "operation not permitted"},
	}
}

func writeList(tb testing.TB, o Options, s *Sockets) []byte {
	tb.Helper()
	l, err := NewList(o)
	if err != nil {
		tb.Fatal(err)
	}
	var buf bytes.Buffer
	if err := l.Write(&buf, s); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func TestList(t *testing.T) {
	for name, o := range map[string]Options{
		"table":        {Format: Table},
		"table,color":  {Format: Table, Color: true, Threshold: time.Minute},
		"table,fields": {Format: Table, Fields: []string{"cookie", "owner.pid", "age", "dwell_ns", "peer"}, Sort: "-cookie"},
		"table,sort":   {Format: Table, Sort: "owner.comm"},
		"wide":         {Format: Wide},
		"json":         {Format: JSON},
		"json,fields":  {Format: JSON, Fields: []string{"cookie", "owner.pid", "owner.comm", "holders", "dwell_ns", "eof_seen"}},
		"jsonl":        {Format: JSONL, Sort: "cookie"},
		"csv":          {Format: CSV},
		"csv,fields":   {Format: CSV, Fields: []string{"owner", "age", "remote"}},
	} {
		t.Run(name, func(t *testing.T) { golden(t, "list,"+name, writeList(t, o, sockets())) })
	}
	golden(t, "list,empty,table", writeList(t, Options{Format: Table}, &Sockets{Facts: &record.Facts{}, Cases: diagnosis.CaseList{}}))
	golden(t, "list,empty,json", writeList(t, Options{Format: JSON}, &Sockets{Facts: &record.Facts{Clock: clock}, Cases: diagnosis.CaseList{}}))
}

// The streamed document is the record.
func TestListDocumentIsTheRecord(t *testing.T) {
	s := sockets()
	want := record.NewList(record.Time{Time: clock.Wall}, s.Loss, s.UnreadNetns)
	for _, i := range []int{1, 0, 2} {
		r := record.FromCase(s.Cases.At(i), s.Facts)
		r.Schema = ""
		want.Sockets = append(want.Sockets, r)
	}
	text, err := compact(want)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(string(writeList(t, Options{Format: JSON}, s)), "\n", "")
	if diff := cmp.Diff(string(text), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestUsualListFits80Columns(t *testing.T) {
	s := sockets()
	s.Cases = diagnosis.CaseList{*s.Cases.At(1)}
	for line := range strings.Lines(string(writeList(t, Options{Format: Table}, s))) {
		if len(line) > 80 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
}

func TestCSVReadsBack(t *testing.T) {
	rows, err := csv.NewReader(bytes.NewReader(writeList(t, Options{Format: CSV}, sockets()))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 4 {
		t.Fatalf("%d rows", len(rows))
	}
	for i, name := range rows[0] {
		if name == "owner.comm" && rows[2][i] != `\x3d\x1b[31m,"\n\xff\\` {
			t.Errorf("comm is %q", rows[2][i])
		}
	}
}

// No byte of a process's own making reaches the output unescaped.
func TestOutputIsPrintable(t *testing.T) {
	for _, f := range Formats() {
		for _, b := range string(writeList(t, Options{Format: Format(f)}, sockets())) {
			if b != '\n' && (b < ' ' || b == 0x7f || b == '\ufffd') {
				t.Errorf("%s holds %q", f, b)
			}
		}
	}
}

func transitions() []event.Transition {
	return []event.Transition{
		{
			At: clock.K.Add(1500 * time.Microsecond), Cookie: 2, Flow: flow("10.0.12.34:8080", "10.0.45.67:54321"),
			Old: event.Established, New: event.CloseWait, InState: 1500 * time.Microsecond, InBound: event.Exact,
			Direction: event.In, Owner: java, Evidence: event.EvidenceAccept,
		},
		{
			At: clock.K.Add(2 * time.Second), Cookie: 3, Flow: flow("[2001:db8:1:2::1]:443", "[2001:db8:3:4::2]:50000"),
			Old: event.CloseWait, New: event.LastAck, InState: 3 * time.Hour, InBound: event.AtLeast, Owner: evil,
		},
		{At: clock.K.Add(3 * time.Second), Flow: flow("127.0.0.1:0", "127.0.0.1:1"), Old: event.Close, New: event.SynSent},
	}
}

func writeTail(t *testing.T, o Options) []byte {
	t.Helper()
	var buf bytes.Buffer
	o.Messages = &buf
	tail, err := NewTail(&buf, o)
	if err != nil {
		t.Fatal(err)
	}
	tail.Clock(clock)
	for _, tr := range transitions() {
		if err := errors.Join(tail.Transition(&tr, record.TransitionFacts{Cgroup: record.Cgroup{Container: "abc"}}), tail.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tail.Loss(clock.K.Add(4*time.Second), event.Loss{Lost: 5}), tail.Flush()); err != nil {
		t.Fatal(err)
	}
	if tail.Count() != 3 || tail.Lost().Lost != 5 {
		t.Errorf("count %d, lost %v", tail.Count(), tail.Lost())
	}
	return buf.Bytes()
}

func TestTail(t *testing.T) {
	for name, o := range map[string]Options{
		"table":        {Format: Table},
		"table,color":  {Format: Table, Color: true},
		"table,zone":   {Format: Table, Location: time.FixedZone("x", 3600), Fields: []string{"clock", "time", "cookie"}},
		"wide":         {Format: Wide},
		"json":         {Format: JSON},
		"jsonl,fields": {Format: JSONL, Fields: []string{"new_state", "owner.comm", "in_state_ns", "inferred"}},
		"csv":          {Format: CSV},
	} {
		t.Run(name, func(t *testing.T) { golden(t, "tail,"+name, writeTail(t, o)) })
	}
}

func manyListeners(n int) []event.Task {
	var tasks []event.Task
	for i := range n {
		tasks = append(tasks, event.Task{Pid: uint32(21571 + i), Comm: event.MakeComm(fmt.Sprintf("worker%d", i))})
	}
	return tasks
}

func leakingDiagnosis() *record.Diagnosis {
	growth, low, high, left, soonest, latest := 138.0, 101.0, 184.0, 54*time.Second, 40*time.Second, 74*time.Second
	d := &diagnosis.Diagnosis{
		Verdict: diagnosis.Leaking, Observed: 10 * time.Second, Threshold: time.Minute, Sockets: 24,
		Loss: event.Loss{Lost: 12},
		Processes: []diagnosis.Process{
			{
				Task: java, Verdict: diagnosis.Leaking, Why: "20 older than 1m, and 23 more in 10s",
				Sockets: 23, Stuck: 20, Oldest: 43 * time.Minute, OldestBound: event.AtLeast, GrowthPerMin: &growth,
				GrowthPerMinLow: &low, GrowthPerMinHigh: &high,
				Causes: map[diagnosis.Cause]int{diagnosis.EOFIgnored: 20, diagnosis.UnreadEOF: 3},
				FDs:    diagnosis.FDs{Open: 900, Limit: 1024}, FDsExhaustedIn: &left,
				FDsExhaustedMin: &soonest, FDsExhaustedMax: &latest,
				Peers: []diagnosis.Peer{
					{Remote: netip.MustParseAddrPort("10.0.0.9:0"), N: 20}, {Remote: netip.MustParseAddrPort("[fd00::1]:443"), N: 3},
				},
				Groups: []diagnosis.Group{
					{
						Cause: diagnosis.EOFIgnored, Site: diagnosis.Site{Direction: event.In, Port: 8080}, N: 20, Stuck: 20,
						Oldest: 43 * time.Minute, OldestBound: event.AtLeast, OldestCookie: 2,
					},
					{Cause: diagnosis.UnreadEOF, Site: diagnosis.Site{Direction: event.Out, Port: 443}, N: 3},
				},
				Advice: []string{
					diagnosis.AdviceFor(diagnosis.EOFIgnored), diagnosis.AdviceFor(diagnosis.UnreadEOF),
				},
				Commands: []string{"ss -tanp state close-wait '( sport = :8080 )'", "tcpwaitd list -o wide -p 4242"},
			},
			{Task: evil, Sockets: 1, Causes: map[diagnosis.Cause]int{diagnosis.HalfClose: 1}},
			{Verdict: diagnosis.Suspicious, Sockets: 2, Stuck: 2, Causes: map[diagnosis.Cause]int{diagnosis.InFlight: 1, diagnosis.Unaccepted: 1}, Listeners: manyListeners(10)},
		},
	}
	facts := sockets().Facts
	facts.Stacks[2].EOF.Frames = []record.Frame{
		{Function: "main.handle", File: "/src/main.go", Line: 42},
		{Function: "read", Module: "libc.so.6"},
		{Module: "libc.so.6", Offset: 0x1234},
		{},
		{},
		{},
		{Function: "main.main"},
	}
	r := record.FromDiagnosis(d, facts)
	r.SocketsTotal = new(uint64(1000))
	r.UnreadNetns = record.UnreadOf(sockets().UnreadNetns)
	return &r
}

func TestDiagnosis(t *testing.T) {
	clean := record.FromDiagnosis(&diagnosis.Diagnosis{Threshold: time.Minute}, &record.Facts{Clock: clock})
	for name, tt := range map[string]struct {
		o Options
		r *record.Diagnosis
	}{
		"leaking,table":        {Options{Format: Table}, leakingDiagnosis()},
		"leaking,table,color":  {Options{Format: Table, Color: true}, leakingDiagnosis()},
		"leaking,table,fields": {Options{Format: Table, Fields: []string{"pid", "comm", "verdict", "stuck", "causes"}, Sort: "stuck"}, leakingDiagnosis()},
		"leaking,wide":         {Options{Format: Wide}, leakingDiagnosis()},
		"leaking,json":         {Options{Format: JSON}, leakingDiagnosis()},
		"leaking,jsonl,fields": {Options{Format: JSONL, Fields: []string{"pid", "causes", "groups"}, Sort: "-sockets"}, leakingDiagnosis()},
		"leaking,csv":          {Options{Format: CSV}, leakingDiagnosis()},
		"leaking,table,filter": {Options{Format: Table, Filtered: true}, leakingDiagnosis()},
		"clean,table":          {Options{Format: Table}, &clean},
		"clean,json":           {Options{Format: JSON}, &clean},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := NewDiagnosis(tt.o)
			if err != nil {
				t.Fatal(err)
			}
			var buf bytes.Buffer
			if err := d.Write(&buf, tt.r); err != nil {
				t.Fatal(err)
			}
			golden(t, "diagnosis,"+name, buf.Bytes())
		})
	}
}

func TestStates(t *testing.T) {
	var all, a, b record.StateCounts
	all[event.CloseWait], all[event.Established] = 23, 100
	a[event.CloseWait], a[event.Established] = 20, 40
	b[event.CloseWait], b[event.Established] = 3, 60
	for name, tt := range map[string]struct {
		o  Options
		by string
	}{
		"table":             {Options{Format: Table}, ""},
		"json":              {Options{Format: JSON}, ""},
		"csv":               {Options{Format: CSV}, ""},
		"by-pid,table":      {Options{Format: Table, Sort: "-states.CLOSE_WAIT"}, "pid"},
		"by-pid,csv":        {Options{Format: CSV}, "pid"},
		"by-pid,csv,fields": {Options{Format: CSV, Fields: []string{"pid", "states.CLOSE_WAIT"}}, "pid"},
		"by-pid,jsonl":      {Options{Format: JSONL, Sort: "total", Fields: []string{"comm", "total"}}, "pid"},
		"by-netns,wide":     {Options{Format: Wide}, "netns"},
		"by-container":      {Options{Format: Table}, "container"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := NewStates(tt.o, tt.by)
			if err != nil {
				t.Fatal(err)
			}
			var groups []record.StatesGroup
			switch tt.by {
			case "pid":
				groups = []record.StatesGroup{{Pid: 1, Comm: "init", States: b}, {States: a}}
			case "netns":
				groups = []record.StatesGroup{{Netns: 4026531840, States: a}}
			case "container":
				groups = []record.StatesGroup{{Container: "abc", States: a}}
			}
			r := record.NewStates(record.Time{Time: clock.Wall}, all, groups, nil)
			var buf bytes.Buffer
			if err := s.Write(&buf, &r); err != nil {
				t.Fatal(err)
			}
			golden(t, "states,"+name, buf.Bytes())
		})
	}
}

// Every state is in use: the table adds up what does not fit.
func TestStatesByPidFit80Columns(t *testing.T) {
	var busy record.StateCounts
	for _, st := range event.States() {
		busy[st] = 12345
	}
	s, err := NewStates(Options{Format: Table}, "pid")
	if err != nil {
		t.Fatal(err)
	}
	r := record.NewStates(record.Time{Time: clock.Wall}, busy, []record.StatesGroup{{Pid: 4194303, Comm: "a-long-name-15b", States: busy}}, nil)
	var buf bytes.Buffer
	if err := s.Write(&buf, &r); err != nil {
		t.Fatal(err)
	}
	fits(t, buf.String())
	golden(t, "states,by-pid,busy,table", buf.Bytes())
}

// fits wants lines of a terminal's width.
func fits(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if n := width([]byte(strings.TrimSuffix(line, "\n"))); n > lineWidth {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestDoctor(t *testing.T) {
	r := record.NewDoctor("6.18.0", "x86_64",
		[]record.Check{
			{Name: "kernel", OK: true, Detail: "6.18.0"},
			{Name: "capabilities", Detail: "CAP_BPF is missing", Cure: "run as root, or give the binary cap_bpf, cap_perfmon, cap_net_admin and cap_sys_ptrace"},
		},
		[]event.Hook{{Fact: "transitions", Hook: "inet_sock_set_state", Kind: "tp_btf", Attached: true, Reason: "first choice"}, {Fact: "accept", Hook: "inet_csk_accept", Kind: "fexit", Reason: "not permitted"}},
		[]record.Sysctl{
			{Name: "net.ipv4.tcp_fin_timeout", Value: "15", Default: "60", Changed: true, NamespacesChanged: 24, Note: "for orphaned FIN_WAIT2"},
			{Name: "net.ipv4.tcp_tw_reuse", Value: "2", Default: "2", NamespacesChanged: 1, Note: "for the end that connects"},
			{Name: "net.ipv4.tcp_tw_recycle", Value: "1", Changed: true, Files: []string{"/etc/sysctl.d/99-tuning.conf"}, Note: "gone since Linux 4.12"},
			{Name: "net.ipv4.tcp_orphan_retries", Value: "0", Default: "0", Note: "for sockets their process has closed"},
			{Name: "net.ipv4.tcp_max_tw_buckets", Value: "4096", Note: "lowering it leaves TIME_WAIT out"},
		})
	for name, o := range map[string]Options{
		"table": {Format: Table}, "json": {Format: JSON}, "csv": {Format: CSV, Sort: "name"},
		"table,fields": {Format: Table, Fields: []string{"name", "ok"}},
	} {
		d, err := NewDoctor(o)
		if err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		if err := d.Write(&buf, &r); err != nil {
			t.Fatal(err)
		}
		golden(t, "doctor,"+name, buf.Bytes())
	}
}

// A rate of a short window is only told where growth is established.
func TestRatesOfShortWindows(t *testing.T) {
	rate := 58.3
	for _, tt := range []struct {
		observed time.Duration
		verdict  diagnosis.Verdict
		left     *time.Duration
		want     bool
	}{
		{4 * time.Second, diagnosis.Suspicious, nil, false},
		{4 * time.Second, diagnosis.Clean, nil, false},
		{4 * time.Second, diagnosis.Leaking, nil, true},
		{4 * time.Second, diagnosis.Suspicious, new(time.Minute), true},
		{10 * time.Second, diagnosis.Suspicious, nil, true},
	} {
		r := record.FromDiagnosis(&diagnosis.Diagnosis{Observed: tt.observed, Processes: []diagnosis.Process{
			{Task: java, Verdict: tt.verdict, GrowthPerMin: &rate, FDsExhaustedIn: tt.left},
		}}, &record.Facts{})
		d, err := NewDiagnosis(Options{Format: Table})
		if err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		if err := d.Write(&buf, &r); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(buf.String(), "per minute") != tt.want {
			t.Errorf("%+v:\n%s", tt, &buf)
		}
	}
}

// What is known of the descriptors, and of their end no more than that.
func TestFilesText(t *testing.T) {
	count := func(n uint64) *uint64 { return &n }
	sec := func(n int64) *int64 { return &n }
	for want, s := range map[string]record.Suspect{
		"":                             {FDsLimit: count(1024)},
		"1 descriptor open":            {FDsOpen: count(1)},
		"871 of 1024 descriptors open": {FDsOpen: count(871), FDsLimit: count(1024)},
		"no descriptor is left: 1024 of 1024 open": {FDsOpen: count(1024), FDsLimit: count(1024), FDsExhaustedInS: sec(0)},
		"descriptors run out in 4m10s (3m40s to 4m50s at this rate): 871 of 1024 open": {
			FDsOpen: count(871), FDsLimit: count(1024), FDsExhaustedInS: sec(250), FDsExhaustedMinS: sec(220), FDsExhaustedMaxS: sec(290),
		},
		"descriptors run out in 4m10s (3m40s or later at this rate): 871 of 1024 open": {
			FDsOpen: count(871), FDsLimit: count(1024), FDsExhaustedInS: sec(250), FDsExhaustedMinS: sec(220),
		},
	} {
		if got := filesText(&s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestThresholdText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "every wait counts as stuck", time.Minute: "stuck means 60s or more", 5 * time.Minute: "stuck means 5m or more",
		time.Hour: "stuck means 1h or more", 90 * time.Minute: "stuck means 1h30m or more", 1500 * time.Millisecond: "stuck means 1.5s or more",
		10*time.Minute + 30*time.Second: "stuck means 10m30s or more", 24 * time.Hour: "stuck means 24h or more",
	} {
		if got := stuckText(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

func TestMistypedNamesGetSuggestions(t *testing.T) {
	for _, tt := range []struct{ fields, sort, value, want string }{
		{"pid", "", "pid", "want owner.pid or opener.pid or last_user.pid, or else one of"},
		{"onwer.comm", "", "onwer.comm", "want owner.comm, or else one of"},
		{"recv-q", "", "recv-q", "want recv_q, or else one of"},
		{"", "-dwel", "-dwel", "want dwell_ns or dwell_bound or dwell_max_ns, or else one of"},
		{"", "-", "-", "want one of cookie,"},
		{"frobnicate", "", "frobnicate", "want one of cookie,"},
	} {
		o := Options{Format: Table, Sort: tt.sort}
		if tt.fields != "" {
			o.Fields = []string{tt.fields}
		}
		_, err := NewList(o)
		var option *OptionError
		if !errors.As(err, &option) || option.Value != tt.value || !strings.HasPrefix(strings.Join(strings.Fields(option.Want), " "), strings.TrimPrefix(tt.want, "want ")) {
			t.Errorf("%+v: got %v", tt, err)
			continue
		}
		fits(t, "tcpwaitd list: "+err.Error())
	}
}

// What is offered to the shell is taken.
func TestOfferedFields(t *testing.T) {
	for name, tt := range map[string]struct {
		names []string
		try   func(Options) error
	}{
		"list":     {SocketFields(), func(o Options) error { _, err := NewList(o); return err }},
		"tail":     {TransitionFields(), func(o Options) error { o.Sort = ""; _, err := NewTail(io.Discard, o); return err }},
		"diagnose": {SuspectFields(), func(o Options) error { _, err := NewDiagnosis(o); return err }},
		"doctor":   {CheckFields(), func(o Options) error { _, err := NewDoctor(o); return err }},
		"states":   {GroupFields("pid"), func(o Options) error { _, err := NewStates(o, "pid"); return err }},
	} {
		if len(tt.names) == 0 {
			t.Errorf("%s: none", name)
		}
		for _, f := range tt.names {
			if err := tt.try(Options{Format: Table, Fields: []string{f}, Sort: f}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestOptionErrors(t *testing.T) {
	list := func(o Options) error { _, err := NewList(o); return err }
	for name, err := range map[string]error{
		"fields": list(Options{Format: Table, Fields: []string{"cookie", "foo"}}),
		"sort":   list(Options{Format: Table, Sort: "-foo"}),
		"tail":   func() error { _, err := NewTail(io.Discard, Options{Format: JSON, Sort: "time"}); return err }(),
		"states": func() error { _, err := NewStates(Options{Format: JSON, Sort: "total"}, ""); return err }(),
		"by":     func() error { _, err := NewStates(Options{Format: JSON, Fields: []string{"netns"}}, "pid"); return err }(),
		"doctor": func() error { _, err := NewDoctor(Options{Format: Table, Fields: []string{"x"}}); return err }(),
		"age":    list(Options{Format: JSON, Fields: []string{"age"}}),
		"format": func() error { _, err := ParseFormat("xml"); return err }(),
		"prefix": list(Options{Format: JSON, Sort: "owner"}),
	} {
		var option *OptionError
		if !errors.As(err, &option) || option.Want == "" {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 999: "999ns", 1500: "1us", 39 * time.Millisecond: "39ms", time.Second: "1s", 119 * time.Second: "119s",
		2 * time.Minute: "2m", 330 * time.Second: "5m30s", 43*time.Minute + time.Second: "43m", 3 * time.Hour: "3h",
		185 * time.Minute: "3h5m", 27 * time.Hour: "27h", 53 * time.Hour: "2d5h", 192 * time.Hour: "8d", 9600 * time.Hour: "400d",
	} {
		if got := string(appendAge(nil, d, event.Exact)); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
		if got := string(appendAge(nil, d, event.AtLeast)); got != want+"+" {
			t.Errorf("%v: got %s, want %s+", d, got, want)
		}
	}
	if got := appendAge(nil, time.Second, event.BoundUnknown); len(got) > 0 {
		t.Errorf("unknown: got %s", got)
	}
}

func TestAgeOfBaseline(t *testing.T) {
	for _, tt := range []struct {
		d, most time.Duration
		b       event.Bound
		want    string
	}{
		{0, 0, event.AtLeast, "0s+"},
		{0, 4 * time.Second, event.AtLeast, "<4s"},
		{0, 3*time.Second + 1, event.AtLeast, "<4s"},
		{0, 11*time.Minute + 1, event.AtLeast, "<12m"},
		{0, 9*time.Hour + 1, event.AtLeast, "<10h"},
		{0, 9 * 24 * time.Hour, event.AtLeast, "<9d"},
		{900 * time.Microsecond, 500 * time.Millisecond, event.AtLeast, "<500ms"},
		{time.Second, 4 * time.Second, event.AtLeast, "1s+"},
		{0, 4 * time.Second, event.Exact, "0s"},
		{0, 0, event.BoundUnknown, ""},
	} {
		if got := string(appendBounds(nil, tt.d, tt.most, tt.b)); got != tt.want {
			t.Errorf("%+v: got %s", tt, got)
		}
	}
}

func TestSelectionOfNestedRecords(t *testing.T) {
	v := record.FromCase(sockets().Cases.At(1), sockets().Facts)
	text, err := selectPaths([]string{"owner", "owner.pid", "peer.pid", "stacks.eof.frames", "listener"}).marshal(&v)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]json.RawMessage
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for name, want := range map[string]string{
		"peer": `{"pid":7}`, "stacks": `{"eof":{"frames":[{"function":"main.handle"}]}}`, "listener": "null",
	} {
		if string(got[name]) != want {
			t.Errorf("%s: got %s", name, got[name])
		}
	}
	if !strings.Contains(string(got["owner"]), "evidence") {
		t.Errorf("owner.pid narrowed owner: %s", got["owner"])
	}
}

func manySockets(n int) *Sockets {
	cases := make(diagnosis.CaseList, n)
	for i := range cases {
		cases[i] = *sockets().Cases.At(1)
		cases[i].Since -= event.KTime(i * 7919 % n)
		cases[i].Cookie = event.Cookie(i)
	}
	return &Sockets{Facts: &record.Facts{Clock: clock}, Cases: cases}
}

// Many rows are rendered in two halves, and their lines in blocks by turns: what is in them, their
// order and the width of the columns are as if one after the other.
func TestLongTable(t *testing.T) {
	s := manySockets(7*block + 3)
	for i := range s.Cases.Len() {
		c := s.Cases.At(i)
		c.Cookie, c.RecvQ = event.Cookie(i+1), uint32(i%503)
		c.Flow = flow("10.0.12.34:8080", fmt.Sprintf("10.0.45.67:%d", 1024+i*31%50021))
	}
	fields := []string{"cookie", "remote", "recv_q", "age"}
	for _, sort := range []string{"", "cookie", "-recv_q", "remote"} {
		table := strings.Split(strings.TrimSpace(string(writeList(t, Options{Format: Table, Fields: fields, Sort: sort}, s))), "\n")
		var want []string
		for line := range strings.Lines(string(writeList(t, Options{Format: CSV, Fields: fields[:3], Sort: sort}, s))) {
			want = append(want, strings.TrimSpace(line))
		}
		if len(table) != len(want) {
			t.Fatalf("by %q: %d lines, want %d", sort, len(table), len(want))
		}
		for i := 1; i < len(table); i++ {
			cells := strings.Fields(table[i])
			if got := strings.Join(cells[:3], ","); got != want[i] {
				t.Fatalf("by %q: line %d is %q, want %q", sort, i, got, want[i])
			}
			if len(table[i]) != len(table[1]) {
				t.Fatalf("by %q: line %d is not as wide as the first:\n%s\n%s", sort, i, table[1], table[i])
			}
		}
	}
}

// failing takes so many pieces.
type failing struct{ left int }

func (f *failing) Write(p []byte) (int, error) {
	if f.left == 0 {
		return 0, io.ErrClosedPipe
	}
	f.left--
	return len(p), nil
}

// Who reads goes away in the middle: it is told, and nobody is left waiting.
func TestLongTableToNobody(t *testing.T) {
	l, err := NewList(Options{Format: Table})
	if err != nil {
		t.Fatal(err)
	}
	for left := range 8 {
		synctest.Test(t, func(t *testing.T) {
			if err := l.Write(&failing{left}, manySockets(7*block)); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("after %d pieces: %v", left, err)
			}
		})
	}
}

func BenchmarkList(b *testing.B) {
	for _, f := range []Format{Table, Wide, JSON, CSV} {
		b.Run(fmt.Sprintf("%s-100000", f), func(b *testing.B) {
			s := manySockets(100_000)
			l, err := NewList(Options{Format: f})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := l.Write(io.Discard, s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkTail(b *testing.B) {
	events := testenv.Churn(1023)
	for _, f := range []Format{Table, Wide, JSON, CSV} {
		b.Run(string(f), func(b *testing.B) {
			tail, err := NewTail(io.Discard, Options{Format: f})
			if err != nil {
				b.Fatal(err)
			}
			tail.Clock(clock)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := tail.Transition(&events[i%len(events)], record.TransitionFacts{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestTailTextDoesNotAllocate(t *testing.T) {
	for _, f := range []Format{Table, JSON} {
		tail, err := NewTail(io.Discard, Options{Format: f})
		if err != nil {
			t.Fatal(err)
		}
		tail.Clock(clock)
		tr := transitions()[0]
		// The first lines grow the buffers.
		if n := testing.AllocsPerRun(2000, func() { _ = tail.Transition(&tr, record.TransitionFacts{}) }); n > 0 {
			t.Errorf("%s: %v allocations per transition", f, n)
		}
	}
}
