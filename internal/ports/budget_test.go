package ports

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

const (
	space = 4026531840
	now   = event.KTime(time.Hour)
)

func settings(t *testing.T, more map[string]string) map[uint32]Settings {
	t.Helper()
	values := map[string]string{PortRange: "30000\t30999", TimeWaitReuse: "0", Timestamps: "1"}
	for name, value := range more {
		values[name] = value
	}
	s, err := ParseSettings(values)
	if err != nil {
		t.Fatal(err)
	}
	return map[uint32]Settings{space: s}
}

func socketAt(local, remote string, state event.State) event.Socket {
	return event.Socket{
		At: now, State: state, Flow: event.Flow{
			Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Netns: space, Protocol: event.TCP,
		},
	}
}

// connected are sockets from the ports from on, to one destination.
func connected(from, count int, remote string, state event.State) []event.Socket {
	all := make([]event.Socket, 0, count)
	for i := range count {
		s := socketAt("10.0.0.1:1", remote, state)
		s.Flow.Local = netip.AddrPortFrom(s.Flow.Local.Addr(), uint16(from+i))
		s.Port = event.PortByConnect
		all = append(all, s)
	}
	return all
}

// waiting are TIME_WAIT that came one after the other until now, every so often.
func waiting(from, count int, remote string, every time.Duration) []event.Socket {
	all := connected(from, count, remote, event.TimeWait)
	for i := range all {
		since := now.Add(-time.Duration(count-1-i) * every)
		all[i].Since, all[i].Ends, all[i].Stamped = since, since.Add(TimeWaitLasts), true
	}
	return all
}

func budgetsOf(t *testing.T, set map[uint32]Settings, sockets ...[]event.Socket) []Budget {
	t.Helper()
	in := Input{At: now, Settings: set, Recent: 10 * time.Second}
	for _, s := range sockets {
		in.Sockets = append(in.Sockets, s...)
	}
	return Budgets(&in)
}

func TestBudgetCountsWhatTakesAPort(t *testing.T) {
	accepted := connected(30500, 7, "10.0.0.9:1234", event.Established)
	for i := range accepted {
		accepted[i].Direction = event.In
	}
	listener := socketAt("0.0.0.0:30700", "0.0.0.0:0", event.Listen)
	served := waiting(30700, 1, "10.0.0.9:5555", time.Second)
	reserved := connected(30900, 3, "10.0.0.9:80", event.Established)
	got := budgetsOf(
		t, settings(t, map[string]string{ReservedPorts: "30900-30902"}),
		connected(30000, 23, "10.0.0.9:80", event.Established), waiting(30100, 29, "10.0.0.9:80", time.Second),
		connected(29000, 5, "10.0.0.9:80", event.Established), accepted, served, []event.Socket{listener}, reserved,
		connected(30000, 11, "10.0.0.9:443", event.CloseWait),
	)
	if len(got) != 2 {
		t.Fatalf("%+v", got)
	}
	for i, want := range []struct{ port, inUse, timeWait int }{{80, 52, 29}, {443, 11, 0}} {
		b := got[i]
		if int(b.Rport) != want.port || b.InUse != want.inUse || b.TimeWait != want.timeWait || b.Range != 997 {
			t.Errorf("%+v, want %+v of 997", b, want)
		}
		if b.Elsewhere != 1 || b.Unavailable() != want.inUse+1 {
			t.Errorf("the listener's port is not counted: %+v", b)
		}
	}
}

// What bind() took is gone for all other destinations; where it was taken for a connection,
// the address has a budget of its own.
func TestBudgetBound(t *testing.T) {
	bound := connected(30000, 23, "10.0.0.9:80", event.Established)
	for i := range bound {
		bound[i].Port = event.PortByBind
	}
	// The same ports, by another address: no hindrance to bind(), but to connect().
	other := socketAt("10.0.0.2:30500", "10.0.0.9:80", event.Established)
	other.Port = event.PortByBind
	got := budgetsOf(t, settings(t, nil), bound, connected(30100, 29, "10.0.0.9:443", event.Established), []event.Socket{other})
	byScope := map[Destination]Budget{}
	for _, b := range got {
		byScope[b.Destination] = b
	}
	laddr, raddr := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.9")
	for d, want := range map[Destination][3]int{
		{space, laddr, raddr, 80}:                         {23, 23, 1},
		{space, laddr, raddr, 443}:                        {29, 0, 24},
		{space, laddr, netip.Addr{}, 0}:                   {52, 23, 0},
		{space, other.Flow.Local.Addr(), raddr, 80}:       {1, 1, 23},
		{space, other.Flow.Local.Addr(), netip.Addr{}, 0}: {1, 1, 0},
	} {
		if b := byScope[d]; b.InUse != want[0] || b.ByBind != want[1] || b.Elsewhere != want[2] {
			t.Errorf("%v: %+v, want %v", d, b, want)
		}
	}
	if len(got) != 5 {
		t.Errorf("%d budgets", len(got))
	}
}

func TestBudgetReusable(t *testing.T) {
	for _, c := range []struct {
		reuse, remote string
		stamped       bool
		want          int
	}{
		{"0", "10.0.0.9:80", true, 0},
		{"1", "10.0.0.9:80", true, 22},
		{"1", "10.0.0.9:80", false, 0},
		{"2", "10.0.0.9:80", true, 0},
		{"2", "127.0.0.1:80", true, 22},
	} {
		// One a second; the last one is now, the one before a second old.
		sockets := waiting(30000, 23, c.remote, 1001*time.Millisecond)
		for i := range sockets {
			sockets[i].Stamped = c.stamped
		}
		b := budgetsOf(t, settings(t, map[string]string{TimeWaitReuse: c.reuse}), sockets)[0]
		if b.Reusable != c.want || b.Unavailable() != 23-c.want {
			t.Errorf("tcp_tw_reuse %s to %s, timestamps %v: %+v, want %d reusable", c.reuse, c.remote, c.stamped, b, c.want)
		}
	}
}

// One TIME_WAIT every 50 ms: 20 a second, 1,200 to come within their 60 s.
func TestForecast(t *testing.T) {
	within := func(d *time.Duration, low, high time.Duration) bool { return d != nil && *d >= low && *d <= high }
	for name, c := range map[string]struct {
		sockets   [][]event.Socket
		ports     string
		low, high time.Duration
		never     bool
	}{
		"dry":     {[][]event.Socket{waiting(30000, 500, "10.0.0.9:80", 50*time.Millisecond)}, "30000 30999", 24 * time.Second, 26 * time.Second, false},
		"enough":  {[][]event.Socket{waiting(30000, 500, "10.0.0.9:80", 50*time.Millisecond)}, "30000 31299", 0, 0, true},
		"full":    {[][]event.Socket{waiting(30000, 500, "10.0.0.9:80", 50*time.Millisecond)}, "30000 30499", 0, 0, false},
		"stopped": {[][]event.Socket{connected(30000, 500, "10.0.0.9:80", event.Established)}, "30000 30999", 0, 0, true},
		// Those that hold their ports leave less to the others: 600 are left.
		"held":  {[][]event.Socket{waiting(30000, 300, "10.0.0.9:80", 50*time.Millisecond), connected(30400, 100, "10.0.0.9:80", event.Established)}, "30000 30999", 29 * time.Second, 31 * time.Second, false},
		"a few": {[][]event.Socket{waiting(30000, 40, "10.0.0.9:80", 50*time.Millisecond)}, "30000 30999", 0, 0, true},
	} {
		b := budgetsOf(t, settings(t, map[string]string{PortRange: c.ports}), c.sockets...)[0]
		if c.never {
			if b.Forecast.In != nil {
				t.Errorf("%s: dry in %v", name, *b.Forecast.In)
			}
			continue
		}
		f := b.Forecast
		if !within(f.In, c.low, c.high) || !within(f.Soonest, 0, *f.In) || f.Latest != nil && *f.Latest < *f.In {
			t.Errorf("%s: %+v, want %v to %v", name, f, c.low, c.high)
		}
	}
}

// The ports of a burst come back at once, 60 s after it: who began later lives on these.
func TestForecastKnowsWhatComesBack(t *testing.T) {
	old := waiting(30000, 600, "10.0.0.9:80", 0)
	for i := range old {
		old[i].Since, old[i].Ends = now.Add(-50*time.Second), now.Add(10*time.Second)
	}
	fresh := func(every time.Duration) []event.Socket { return waiting(30600, 100, "10.0.0.9:80", every) }
	// 300 are left. At 20 a second they last for 15 s, but after 11 s there are 600 more, for
	// ever: 20 a second need no more than 1,220.
	b := budgetsOf(t, settings(t, map[string]string{PortRange: "30000 31299"}), old, fresh(50*time.Millisecond))[0]
	if b.Forecast.In != nil {
		t.Errorf("dry in %v", *b.Forecast.In)
	}
	// At 50 a second they do not last that long.
	b = budgetsOf(t, settings(t, nil), old, fresh(20*time.Millisecond))[0]
	if in := b.Forecast.In; in == nil || *in < 5*time.Second || *in > 7*time.Second {
		t.Errorf("forecast %+v, want 6 s", b.Forecast)
	}
}

// Connections that are opened and kept use the ports up, too.
func TestForecastOfGrowth(t *testing.T) {
	in := Input{
		At: now, Settings: settings(t, nil), Recent: 10 * time.Second, Sockets: connected(30000, 300, "10.0.0.9:80", event.Established),
		HeldAt: now.Add(-10 * time.Second),
	}
	in.Held = Held(in.Sockets[:100], in.Settings)
	if b := Budgets(&in)[0]; b.Forecast.In == nil || *b.Forecast.In != 35*time.Second || b.PerSecond != 20 {
		t.Errorf("%+v, want 700 more at 20 a second", b)
	}
	// A few more or less are no growth.
	in.Held = Held(in.Sockets[:280], in.Settings)
	if b := Budgets(&in)[0]; b.Forecast.In != nil {
		t.Errorf("dry in %v", *b.Forecast.In)
	}
}

func TestSettings(t *testing.T) {
	s := settings(t, map[string]string{ReservedPorts: "29999-30001,30500,30400-30600,65535\n", ReuseDelay: "300", AutobindReuse: "1", TimeWaitLimit: "8192", FinTimeout: "30"})[space]
	if s.Size() != 1000-2-201 || s.Has(30001) || !s.Has(30002) || s.Has(30500) || s.Has(31000) || !s.Has(30999) {
		t.Errorf("%+v has %d ports", s, s.Size())
	}
	if s.ReuseDelay != 300*time.Millisecond || !s.AutobindReuse || s.TimeWaitLimit != 8192 || s.FinTimeout != 30*time.Second {
		t.Errorf("%+v", s)
	}
	for _, bad := range []map[string]string{
		{},
		{PortRange: "1"},
		{PortRange: "5 4"},
		{PortRange: "0 0"},
		{PortRange: "1 65536"},
		{PortRange: "a b"},
		{PortRange: "1 2", ReservedPorts: "x"},
		{PortRange: "1 2", ReservedPorts: "9-8"},
		{PortRange: "1 2", TimeWaitReuse: "3"},
		{PortRange: "1 2", FinTimeout: "-1"},
	} {
		if s, err := ParseSettings(bad); err == nil {
			t.Errorf("%v: %+v", bad, s)
		}
	}
}

func FuzzSettings(f *testing.F) {
	f.Add("30000\t32002", "8080,9000-9100", "2")
	f.Add("1 65535", "1-65535,0", "")
	f.Fuzz(func(t *testing.T, ports, reserved, reuse string) {
		s, err := ParseSettings(map[string]string{PortRange: ports, ReservedPorts: reserved, TimeWaitReuse: reuse})
		if err != nil {
			return
		}
		n := 0
		for p := range 1 << 16 {
			if s.Has(uint16(p)) {
				n++
			}
		}
		if n != s.Size() {
			t.Errorf("%q without %q: %d ports, said to be %d", ports, reserved, n, s.Size())
		}
	})
}
