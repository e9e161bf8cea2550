package e2e

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// A steady leak under a low RLIMIT_NOFILE: first the descriptors run out, then connections
// stay in the accept queue ("accept4: too many open files; retrying",
// clickhouse_exporter#25). The end is told before it comes.
func TestScenario13DescriptorsRunOut(t *testing.T) {
	const limit, total = 353, 409
	s := newScene(t)
	s.innocents(t)
	server := s.serving(t, "server", "-do", "forget", "-nofile", fmt.Sprint(limit))
	// Twenty a second.
	client := s.play(t, "client", "-close", "-n", fmt.Sprint(total), "-pace", "50ms", server.addr())
	v := s.diagnose(t, "--for", "5s")
	if v.code != exitLeaking {
		t.Fatalf("exit code %d: %s", v.code, v.stdout)
	}
	p := v.of(t, server.pid())
	if p.Verdict != "leaking" || p.FDsLimit == nil || *p.FDsLimit != limit {
		t.Errorf("%s, limit %v, want leaking under %d", p.Verdict, p.FDsLimit, limit)
	}
	told := decode[forecast](t, v.stdout)
	nanos, err := strconv.ParseInt(server.said(t, "full "), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	told.check(t, server.pid(), time.Unix(0, nanos))

	client.said(t, "connected")
	if err := client.orders.Close(); err != nil {
		t.Fatal(err)
	}
	s.await(t, total, "in CLOSE_WAIT at the server", func(r testenv.TCPRow) bool {
		return r.State == event.CloseWait && r.Lport == server.port
	})
	queued := 0
	for _, r := range testenv.TCPTable(t, s.ns.Path) {
		if r.State == event.CloseWait && r.Inode == 0 {
			queued++
		}
	}
	if queued < n {
		t.Fatalf("%d in the accept queue, want more", queued)
	}
	v = s.diagnose(t)
	v.demand(t, v.Verdict,
		accusation{server.pid(), "eof_ignored", "in", total - queued},
		accusation{server.pid(), "unaccepted", "in", queued})
	if v.Verdict == "clean" {
		t.Errorf("clean: %s", v.stdout)
	}
	s.checkList(t, total)
}

// forecast is what diagnose says of the descriptors, and when.
type forecast struct {
	Time      time.Time
	Processes []struct {
		Pid      int
		In       *int64 `json:"fds_exhausted_in_s"`
		Least    *int64 `json:"fds_exhausted_min_s"`
		Most     *int64 `json:"fds_exhausted_max_s"`
		FDsOpen  int    `json:"fds_open"`
		FDsLimit int    `json:"fds_limit"`
	}
}

// check: the truth is within the interval, whose ends are whole seconds.
func (f *forecast) check(t *testing.T, pid int, full time.Time) {
	t.Helper()
	for _, p := range f.Processes {
		if p.Pid != pid {
			continue
		}
		left := full.Sub(f.Time)
		if left <= 0 {
			t.Fatalf("the descriptors had run out %v before the diagnosis: the test is too slow", -left)
		}
		if p.In == nil || p.Least == nil || p.Most == nil {
			t.Fatalf("no forecast, or without its error, at %d of %d descriptors", p.FDsOpen, p.FDsLimit)
		}
		t.Logf("forecast %d s (%d to %d), truth %v", *p.In, *p.Least, *p.Most, left)
		if s := left.Seconds(); s < float64(*p.Least) || s > float64(*p.Most)+1 {
			t.Errorf("forecast %d to %d s, the truth is %v", *p.Least, *p.Most, left)
		}
		if *p.In < *p.Least || *p.In > *p.Most {
			t.Errorf("forecast %d s, outside of %d to %d", *p.In, *p.Least, *p.Most)
		}
		return
	}
	t.Fatalf("nothing is said of pid %d", pid)
}
