package report

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/ports"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// portUse is one of everything.
func portUse() *record.Timewait {
	r := record.NewTimewait(record.Time{Time: clock.Wall}, int64(10*time.Second))
	r.TimeWait, r.FinWait2, r.FinWait2Held = 1999, 7, 2
	fetch := []record.Frame{
		{Function: "syscall.Close", File: "/usr/local/go/src/syscall/zsyscall_linux_amd64.go", Line: 320, Module: "/srv/app"},
		{Function: "main.fetch", File: "/src/fetch.go", Line: 17, Module: "/srv/app", User: true},
	}
	r.ActiveClosers = []record.ActiveCloser{
		{
			Pid: 4242, Comm: "java", Container: "0123456789abcdef0123456789abcdef", Unit: "app.service",
			ClosedFirst: 1999, PerS: 199.9, Simultaneous: 23, Exiting: 3, StacksNotSampled: 5,
			Groups: []record.CloserGroup{
				{N: 1990, Direction: "out", Rport: 443, Frames: fetch, Quality: "complete"},
				{N: 23, Direction: "in", Lport: 8080, Frames: fetch[:1], Quality: "truncated", Reason: "deeper than is kept"},
				{N: 9, Direction: "out", Rport: 443},
			},
		},
		{Comm: "=\\x1b[31m,\"\\n\\xff\\\\", Processes: 311, Gone: true, ClosedFirst: 311, PerS: 31.1},
		{ClosedFirst: 1, PerS: 0.1},
	}
	r.Resets = []record.Resetter{{Pid: 7, Comm: "haproxy", N: 29, PerS: 2.9}}
	laddr, raddr := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.9")
	for _, b := range []ports.Budget{
		{
			Destination: ports.Destination{Netns: 4026531840, Laddr: laddr, Raddr: raddr, Rport: 443},
			InUse:       1999, TimeWait: 1990, Elsewhere: 29, Range: 2039, PerSecond: 199.95,
			Forecast: ports.Forecast{In: new(400 * time.Millisecond), Soonest: new(300 * time.Millisecond), Latest: new(900 * time.Millisecond)},
		},
		{
			Destination: ports.Destination{Netns: 4026531840, Laddr: laddr},
			InUse:       1301, TimeWait: 1001, ByBind: 29, Range: 2039, PerSecond: 3,
			Forecast: ports.Forecast{In: new(4 * time.Minute), Soonest: new(3 * time.Minute)},
		},
		{
			Destination: ports.Destination{Netns: 4026532000, Laddr: netip.MustParseAddr("fd00::1"), Raddr: netip.MustParseAddr("fd00::2"), Rport: 80},
			InUse:       23, TimeWait: 23, Reusable: 23, Range: 28232,
		},
	} {
		r.Budgets = append(r.Budgets, record.BudgetOf(&b, map[uint32]string{4026532000: "pod web/front"}[b.Netns]))
	}
	r.BudgetsTotal = 5
	r.ConnectFailures = []record.ConnectFailure{{Pid: 4242, Comm: "java", Netns: 4026531840, Laddr: laddr, Raddr: raddr, Rport: 443, N: 2}}
	r.Namespaces = []record.PortSpace{{
		Netns: 4026531840, TimeWait: 1999, FinWait2: 7, Range: 2039, Sysctls: map[string]string{"net.ipv4.tcp_tw_reuse": "2"},
		Counters: record.PortCounters{Overflow: &record.PortCounter{Total: 31, Observed: 29}, Recycled: &record.PortCounter{Total: 5}},
	}}
	r.Sysctls, r.SysctlsNetns = r.Namespaces[0].Sysctls, 4026531840
	r.Advice = []string{"Keep connections.", "Nothing else helps."}
	r.Loss = record.LossCounts{Lost: 12}
	r.UnreadNetns = []record.UnreadNetns{{Netns: 4026532001, Reason: "operation not permitted"}}
	return &r
}

func writeTimewait(t *testing.T, o Options, r *record.Timewait) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := NewTimewait(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(&buf, r); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestTimewait(t *testing.T) {
	for name, o := range map[string]Options{
		"table":       {Format: Table},
		"table,color": {Format: Table, Color: true},
		"verbose":     {Format: Table, Verbose: true},
		"wide":        {Format: Wide},
		"csv":         {Format: CSV, Sort: "in_use"},
		"json":        {Format: JSON},
		"json,fields": {Format: JSONL, Fields: []string{"rport", "ratio", "exhausted_in_s"}},
	} {
		t.Run(name, func(t *testing.T) {
			golden(t, "timewait,"+name, writeTimewait(t, o, portUse()))
		})
	}
	nothing := record.NewTimewait(record.Time{Time: clock.Wall}, 0)
	nothing.Advice = []string{"Nothing is wrong here."}
	golden(t, "timewait,nothing,table", writeTimewait(t, Options{Format: Table}, &nothing))
	golden(t, "timewait,nothing,json", writeTimewait(t, Options{Format: JSON}, &nothing))
}

func TestTimewaitOptions(t *testing.T) {
	for _, name := range BudgetFields() {
		if _, err := NewTimewait(Options{Format: CSV, Fields: []string{name}, Sort: "-" + name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
