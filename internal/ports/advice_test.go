package ports

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// These are the facts that advice is given on; that it is right is shown by the tests that
// Cures and NoCures name.

const ours = 7

var (
	far  = Destination{ours, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), 443}
	near = Destination{ours, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.1"), 443}
)

// usual are the settings of a Linux nobody has touched.
func usual() Settings {
	return Settings{
		Low: 32768, High: 60999, Reuse: ReuseLoopback, ReuseDelay: time.Second,
		TimeWaitLimit: 131072, FinTimeout: defaultFinTimeout,
	}
}

func factsOf(s Settings, budgets ...Budget) *Facts {
	for i := range budgets {
		budgets[i].Range = s.Size()
	}
	return &Facts{
		Budgets: budgets, Settings: map[uint32]Settings{ours: s},
		Who:   func(c *Closer) string { return c.Task.Comm.String() },
		Place: func(uint32) string { return "" },
	}
}

// full is a budget near its end, all in TIME_WAIT.
func full(d Destination) Budget {
	return Budget{Destination: d, InUse: 28000, TimeWait: 28000, Stamped: 28000}
}

func TestAdvise(t *testing.T) {
	const keep, reuse, stamps, wider, more, wrong, none = "keep connections", "tcp_tw_reuse=1 lets", "tcp_timestamps is 0",
		"ip_local_port_range", "More source addresses", "Nothing is wrong", "What does not help"
	bound, bare := full(far), full(far)
	bound.ByBind, bare.Stamped = 28000, 0
	every := Budget{Destination: far.every(), InUse: 28000, TimeWait: 27000, ByBind: 28000}
	open := Budget{Destination: far, InUse: 28000}
	leaked := Budget{Destination: far, InUse: 28000, CloseWait: 28000}
	orphaned := Budget{Destination: far, InUse: 28000, Orphaned: 28000}

	for _, tt := range []struct {
		name    string
		change  func(*Settings)
		budgets []Budget
		facts   func(*Facts)
		want    []string
		never   string
	}{
		{name: "nobody connects", want: []string{wrong}},
		{name: "hardly used", budgets: []Budget{{Destination: far, InUse: 23, TimeWait: 23, Stamped: 23}}, want: []string{wrong}, never: none},
		{name: "accepted", facts: func(f *Facts) { f.Accepted = 40000 }, want: []string{wrong, "40000 TIME_WAIT stand at the end that accepted"}, never: "lets"},
		{name: "set for nothing", change: func(s *Settings) { s.FinTimeout = 15 * time.Second }, want: []string{wrong, "What does not help: tcp_fin_timeout"}},
		{name: "blind", facts: func(f *Facts) { f.Settings = nil }, want: []string{"is not known"}, never: wrong},
		{name: "far", budgets: []Budget{full(far)}, want: []string{keep, reuse, none}},
		{name: "near, by default", budgets: []Budget{full(near)}, want: []string{"are gone for 1 s each", wider, none}, never: reuse},
		{name: "near, never", change: func(s *Settings) { s.Reuse = ReuseNever }, budgets: []Budget{full(near)}, want: []string{keep, reuse, none}},
		{name: "reused", change: func(s *Settings) { s.Reuse = ReuseAlways }, budgets: []Budget{full(far)}, want: []string{keep, wider, none}, never: reuse},
		{name: "peer without timestamps", budgets: []Budget{bare}, want: []string{"are gone for 60 s each", wider, none}, never: reuse},
		{name: "no timestamps here", change: func(s *Settings) { s.NoTimestamps = true }, budgets: []Budget{bare}, want: []string{keep, stamps, none}, never: reuse},
		{name: "no timestamps, reused", change: func(s *Settings) { s.NoTimestamps, s.Reuse = true, ReuseAlways }, budgets: []Budget{bare}, want: []string{keep, "both ends need it).", none}, never: "and net.ipv4.tcp_tw_reuse"},
		{name: "bound", budgets: []Budget{bound}, want: []string{"IP_BIND_ADDRESS_NO_PORT", keep, none}, never: reuse},
		{name: "bound, every destination", budgets: []Budget{every}, want: []string{"IP_BIND_ADDRESS_NO_PORT", keep, none}, never: reuse},
		{name: "open", budgets: []Budget{open}, want: []string{"held by connections that are open", wider, "What does not help: tcp_tw_reuse"}, never: keep},
		{name: "open, range at its end", change: func(s *Settings) { s.Low, s.High = 1024, 65535 }, budgets: []Budget{{Destination: far, InUse: 60000}}, want: []string{"open", more, none}, never: wider},
		{name: "leaked", budgets: []Budget{leaked}, want: []string{"in CLOSE_WAIT", wider, "keepalive"}, never: "lets"},
		{name: "orphaned", budgets: []Budget{orphaned}, want: []string{"FIN_WAIT2", wider, none}, never: "tcp_fin_timeout"},
		{name: "overflow", facts: func(f *Facts) { f.Overflows = map[uint32]uint64{ours: 23} }, want: []string{"23 TIME_WAIT were left out because net.ipv4.tcp_max_tw_buckets (131072)", "What does not help: a lower tcp_max_tw_buckets"}, never: wrong},
		{name: "bound to a port in use", facts: func(f *Facts) { f.Failures = []Failure{{Destination: far, N: 23, Bound: 23}} }, want: []string{"failed 23 times because the local port that bind() had chosen"}, never: wrong},
		{name: "failed, nothing else known", facts: func(f *Facts) { f.Failures = []Failure{{Destination: far, N: 1}} }, want: []string{wider, more}, never: keep},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := usual()
			if tt.change != nil {
				tt.change(&s)
			}
			f := factsOf(s, tt.budgets...)
			if tt.facts != nil {
				tt.facts(f)
			}
			got := Advise(f)
			if len(got) != len(tt.want) {
				t.Fatalf("%d sentences, want %d: %q", len(got), len(tt.want), got)
			}
			for i, text := range got {
				if !strings.Contains(text, tt.want[i]) {
					t.Errorf("sentence %d is %q, want %q in it", i+1, text, tt.want[i])
				}
				if strings.Count(text, ". ") > 0 || !strings.HasSuffix(text, ".") {
					t.Errorf("not one sentence: %q", text)
				}
				if tt.never != "" && strings.Contains(text, tt.never) {
					t.Errorf("%q must not be said here: %q", tt.never, text)
				}
			}
		})
	}
}

// Who closes first is named only if that was watched.
func TestAdviseNamesTheCloser(t *testing.T) {
	f := factsOf(usual(), full(far))
	f.Closers = []*Closer{
		{Task: event.Task{Comm: event.MakeComm("other")}, Destinations: map[Destination]int{near: 500}},
		{Task: event.Task{Comm: event.MakeComm("churner")}, Destinations: map[Destination]int{far: 230}},
	}
	for observed, want := range map[time.Duration]string{
		0:                "28000 of the 28000 ports in use to 192.0.2.2:443 are gone for 60 s each because this end closed first",
		10 * time.Second: "churner closes first, 23 times a second, to 192.0.2.2:443",
	} {
		f.Observed = observed
		if got := Advise(f)[0]; !strings.HasPrefix(got, want) {
			t.Errorf("observed %v: %q, want %q", observed, got, want)
		}
	}
}

// Every budget the advice could be about gets some.
func TestAdviseIsNeverSilent(t *testing.T) {
	counts := []int{0, 9000, 14000, 28000}
	for _, tw := range counts {
		for _, orphans := range counts {
			for _, waits := range counts {
				for _, bind := range counts {
					if tw+orphans+waits > 28000 {
						continue
					}
					for reuse := ReuseNever; reuse <= ReuseLoopback; reuse++ {
						s := usual()
						s.Reuse, s.Low, s.High = reuse, 1024, 65535
						b := Budget{Destination: far, InUse: 28000, TimeWait: tw, Orphaned: orphans, CloseWait: waits, ByBind: bind, Elsewhere: 20000}
						if got := Advise(factsOf(s, b)); len(got) == 0 || len(got) > maxAdvice {
							t.Errorf("%+v: %q", b, got)
						}
					}
				}
			}
		}
	}
}

func TestAcceptedTimeWait(t *testing.T) {
	at := func(local, remote string, state event.State) event.Socket {
		return event.Socket{State: state, Flow: event.Flow{
			Netns: ours, Protocol: event.TCP, Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote),
		}}
	}
	got := AcceptedTimeWait([]event.Socket{
		at("0.0.0.0:80", "0.0.0.0:0", event.Listen),
		at("192.0.2.1:80", "192.0.2.2:4711", event.TimeWait),
		at("192.0.2.1:80", "192.0.2.2:4712", event.Established),
		at("192.0.2.1:4713", "192.0.2.2:80", event.TimeWait),
	})
	if got != 1 {
		t.Errorf("%d, want 1", got)
	}
}

func TestMisleadingSettings(t *testing.T) {
	table := map[string]string{"host": "262144", "shared": "-262144"}
	for _, tt := range []struct {
		name, value, table string
		standard           string
		set                bool
	}{
		{FinTimeout, "60", "host", "60", false},
		{FinTimeout, "15", "host", "60", true},
		{TimeWaitReuse, "1", "host", "2", true},
		{TimeWaitLimit, "131072", "host", "131072", false},
		{TimeWaitLimit, "131072", "shared", "131072", false},
		{TimeWaitLimit, "5000", "host", "131072", true},
		{TimeWaitLimit, "2000000", "host", "131072", false},
		{TimeWaitLimit, "5000", "before 6.1", "", false},
		{Timestamps, "0", "host", "1", true},
		{Timestamps, "2", "host", "1", false},
	} {
		for _, m := range MisleadingSettings() {
			if m.Name != tt.name {
				continue
			}
			standard := m.DefaultOf(func(name string) (string, bool) {
				text, ok := table[tt.table]
				return text, ok && name == EstablishedTable
			})
			got := []any{standard, m.Set(tt.value, standard)}
			if diff := cmp.Diff([]any{tt.standard, tt.set}, got); diff != "" {
				t.Errorf("%s = %s (%s): %s", tt.name, tt.value, tt.table, diff)
			}
		}
	}
}
