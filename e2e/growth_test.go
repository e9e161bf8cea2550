package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv/facts"
)

// growth is what a diagnosis says of how a process will go on.
type growth struct {
	Pid                int
	Verdict, Why       string
	Sockets            int
	FDsOpen            int      `json:"fds_open"`
	FDsLimit           int      `json:"fds_limit"`
	GrowthPerMin       *float64 `json:"growth_per_min"`
	GrowthPerMinLow    *float64 `json:"growth_per_min_low"`
	GrowthPerMinHigh   *float64 `json:"growth_per_min_high"`
	ExhaustedInS       *int64   `json:"fds_exhausted_in_s"`
	ExhaustedEarliestS *int64   `json:"fds_exhausted_min_s"`
	ExhaustedLatestS   *int64   `json:"fds_exhausted_max_s"`
}

// onlyGrowth wants one process, the leak's.
func onlyGrowth(t *testing.T, r result, leak *testenv.Leaker) growth {
	t.Helper()
	v := decode[struct{ Processes []growth }](t, r.stdout)
	if len(v.Processes) != 1 || v.Processes[0].Pid != leak.Pid {
		t.Fatalf("processes %+v, want pid %d alone", v.Processes, leak.Pid)
	}
	return v.Processes[0]
}

// grownBy returns when the leaker has told of so many new sockets: the moments of their
// entries.
func grownBy(t *testing.T, leak *testenv.Leaker, sockets int) []int64 {
	t.Helper()
	var entered []int64
	for len(entered) < sockets {
		line, ok := <-leak.Lines
		if !ok || line.Socket == nil {
			t.Fatalf("leaker: %+v after %d of %d sockets", line, len(entered), sockets)
		}
		entered = append(entered, line.Socket.After)
	}
	return entered
}

// A steady leak is watched; then it goes on to the end, which must come when it was
// foretold. The tolerance is what the leaker tells late: it finds out that it is full when
// the next connection comes, one pace later.
func TestForecastComesTrue(t *testing.T) {
	outsideGuests(t)
	const every, limit, watched = 100 * time.Millisecond, 151, 53
	ns := testNetns(t)
	d := start(t, "diagnose", "-o", "json", "--for", patience.String(), "--threshold", "1s", "--netns", inode(ns))
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "grow", N: 2 * limit, Netns: ns.Path, Every: every, NoFile: limit})
	entered := grownBy(t, leak, watched)
	asked := monotonic()
	r := d.interrupt(t).want(t, 3)
	answered := monotonic()
	p := onlyGrowth(t, r, leak)
	if p.ExhaustedInS == nil || p.ExhaustedEarliestS == nil || p.ExhaustedLatestS == nil || p.GrowthPerMinLow == nil || p.GrowthPerMinHigh == nil {
		t.Fatalf("no forecast: %s", r.stdout)
	}
	if p.FDsLimit != limit || p.FDsOpen < watched || p.FDsOpen >= limit {
		t.Errorf("%d of %d descriptors open, want %d or more of %d", p.FDsOpen, p.FDsLimit, watched, limit)
	}
	pace := float64(watched-1) / time.Duration(entered[watched-1]-entered[0]).Minutes()
	if pace < *p.GrowthPerMinLow || pace > *p.GrowthPerMinHigh {
		t.Errorf("%.1f a minute, %.1f to %.1f were told", pace, *p.GrowthPerMinLow, *p.GrowthPerMinHigh)
	}
	full := exhausted(t, leak)
	earliest := asked + *p.ExhaustedEarliestS*int64(time.Second)
	latest := answered + *p.ExhaustedLatestS*int64(time.Second) + int64(2*every)
	t.Logf("%d of %d open, %+.1f a minute (%.1f to %.1f); foretold %d s (%d to %d), came after %v to %v", p.FDsOpen, p.FDsLimit,
		*p.GrowthPerMin, *p.GrowthPerMinLow, *p.GrowthPerMinHigh, *p.ExhaustedInS, *p.ExhaustedEarliestS, *p.ExhaustedLatestS,
		time.Duration(full-answered).Round(every), time.Duration(full-asked).Round(every))
	if full < earliest || full > latest {
		t.Errorf("descriptors ran out %v after the judgement, foretold were %d s to %d s", time.Duration(full-answered), *p.ExhaustedEarliestS, *p.ExhaustedLatestS)
	}
}

// exhausted is when the leaker had no descriptor left.
func exhausted(t *testing.T, leak *testenv.Leaker) int64 {
	t.Helper()
	for line := range leak.Lines {
		if line.Event == facts.EventFull {
			return line.At
		}
	}
	t.Fatal("the leaker ended before it was full")
	return 0
}

// A pool of 23, all idle and closed by the peer, is never called leaking: not while it fills
// before our eyes, when it looks like growth, and not when it is full.
func TestPoolIsNeverLeaking(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	d := start(t, "diagnose", "-o", "json", "--for", patience.String(), "--threshold", "1s", "--netns", inode(ns))
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "grow_unread", N: n, Netns: ns.Path, Every: 150 * time.Millisecond})
	grownBy(t, leak, n)
	p := onlyGrowth(t, d.interrupt(t).want(t, 4), leak)
	if p.Verdict != "suspicious" || p.Sockets != n || p.ExhaustedInS != nil {
		t.Errorf("while it filled: %+v", p)
	}
	// Whether growth was to be seen is the machine's affair; if it was, this must be said of it.
	if strings.Contains(p.Why, "more in") && !strings.Contains(p.Why, "a pool that fills") && !strings.Contains(p.Why, "can be chance") {
		t.Errorf("why: %s", p.Why)
	}
	for _, watch := range []string{"0", "3s"} {
		r := run(t, "diagnose", "-o", "json", "--for", watch, "--threshold", "1s", "--netns", inode(ns)).want(t, 4)
		if p := onlyGrowth(t, r, leak); p.Sockets != n || p.ExhaustedInS != nil || watch != "0" && !strings.Contains(p.Why, "no growth") {
			t.Errorf("full, watched for %s: %+v", watch, p)
		}
	}
}

// Nobody closes them, but there will be no more: a plateau that was reached while we watched.
func TestPlateauIsNotLeaking(t *testing.T) {
	outsideGuests(t)
	ns := testNetns(t)
	d := start(t, "diagnose", "-o", "json", "--for", "10s", "--threshold", "1s", "--netns", inode(ns))
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "grow", N: n, Netns: ns.Path, Every: 20 * time.Millisecond})
	entered := grownBy(t, leak, n)
	r := d.wait(t)
	if took := time.Duration(entered[n-1] - entered[0]); took > 4*time.Second {
		t.Fatalf("it took %v to make %d sockets: no plateau to be seen in 10s", took, n)
	}
	if p := onlyGrowth(t, r.want(t, 4), leak); p.Sockets != n || p.ExhaustedInS != nil {
		t.Errorf("%+v", p)
	}
}

// One burst is one moment, however many sockets it leaves.
func TestBurstIsNotLeaking(t *testing.T) {
	outsideGuests(t)
	const burst = 211
	ns := testNetns(t)
	d := start(t, "diagnose", "-o", "json", "--for", patience.String(), "--threshold", "1ms", "--netns", inode(ns))
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: burst, Netns: ns.Path})
	if p := onlyGrowth(t, d.interrupt(t).want(t, 4), leak); p.Sockets != burst || p.ExhaustedInS != nil {
		t.Errorf("%+v", p)
	}
}
