package e2e

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv/facts"
)

// causes are the leaks that list and diagnose must tell apart, each made by a process of
// its own with a peer of its own.
var causes = []string{
	"unaccepted", "unread_data", "unread_eof", "eof_ignored", "eof_unsaid", "half_close", "zombie_fd", "out_eof",
	"held_elsewhere", "in_flight",
}

// blame is who is named, and for what.
type blame struct {
	pid   int
	cause string
}

func leakAll(t *testing.T, ns *testenv.Netns) []*testenv.Leaker {
	t.Helper()
	var leaks []*testenv.Leaker
	for _, cause := range causes {
		leaks = append(leaks, testenv.StartLeaker(t, testenv.Options{Cause: cause, N: n, Netns: ns.Path}))
	}
	return leaks
}

// seen is what could be watched of a leak.
type seen struct{ reads, accepts bool }

// expected is the truth, as far as it can be known without having seen everything.
func expected(leaks []*testenv.Leaker, saw seen) map[blame]int {
	want := map[blame]int{}
	for _, l := range leaks {
		cause := l.Expect
		switch {
		case l.Cause == "eof_unsaid" && !saw.reads:
			// The FIN came with the last data: nobody saw that recv() was not told.
			cause = "eof_ignored"
		case l.Cause == "held_elsewhere" && !saw.accepts:
			// Nobody saw who opened it; its only holder does not read.
			cause = "unread_eof"
		}
		want[blame{l.Pid, cause}] += n
	}
	return want
}

func named(sockets []socket) map[blame]int {
	got := map[blame]int{}
	for _, s := range sockets {
		got[blame{s.Owner.Pid, s.Cause}]++
	}
	return got
}

func judgedBy(v verdict) map[blame]int {
	got := map[blame]int{}
	for _, p := range v.Processes {
		for cause, count := range p.Causes {
			got[blame{p.Pid, cause}] += count
		}
	}
	return got
}

func TestLeaksOlderThanTcpwaitd(t *testing.T) {
	ns := testNetns(t)
	leaks := leakAll(t, ns)
	want := expected(leaks, seen{})
	asked := monotonic()

	r := run(t, "list", "-o", "json", "--netns", inode(ns)).want(t, 0)
	got := decode[list](t, r.stdout)
	if !maps.Equal(named(got.Sockets), want) {
		t.Errorf("list:     %v\nexpected: %v", named(got.Sockets), want)
	}
	checkAges(t, got.Sockets, leaks, asked)
	checkAgainstKernel(t, ns, got.Sockets)

	for _, watch := range []string{"0", "1s"} {
		r := run(t, "diagnose", "-o", "json", "--for", watch, "--threshold", "1ms", "--netns", inode(ns))
		v := decode[verdict](t, r.stdout)
		if !maps.Equal(judgedBy(v), want) {
			t.Errorf("diagnose --for %s: %v\nexpected: %v", watch, judgedBy(v), want)
		}
		if r.want(t, 4); v.Verdict != "suspicious" || v.SocketsCloseWait != n*(len(causes)-1) {
			t.Errorf("diagnose --for %s: %s, %d in CLOSE_WAIT", watch, v.Verdict, v.SocketsCloseWait)
		}
	}
}

func TestLeaksThatAreWatched(t *testing.T) {
	ns := testNetns(t)
	d := start(t, "diagnose", "-o", "json", "--for", patience.String(), "--threshold", "1ms", "--netns", inode(ns))
	leaks := leakAll(t, ns)
	v := decode[verdict](t, d.interrupt(t).stdout)
	want := expected(leaks, sees(t))
	if !maps.Equal(judgedBy(v), want) {
		t.Errorf("diagnose: %v\nexpected: %v", judgedBy(v), want)
	}
	if lost(v.Loss) {
		t.Errorf("lost: %+v", v.Loss)
	}
}

// sees asks doctor which hooks this kernel has.
func sees(t *testing.T) seen {
	t.Helper()
	d := decode[struct {
		OK    bool
		Hooks []event.Hook
	}](t, run(t, "doctor", "-o", "json").want(t, 0).stdout)
	has := func(fact string) bool {
		return slices.ContainsFunc(d.Hooks, func(h event.Hook) bool { return h.Fact == fact && h.Attached })
	}
	return seen{reads: has("read"), accepts: has("accept")}
}

// checkAges: at_least, never above the truth and at most a second below.
func checkAges(t *testing.T, sockets []socket, leaks []*testenv.Leaker, asked int64) {
	t.Helper()
	answered := monotonic()
	type ports struct{ local, remote uint16 }
	entered := map[ports]facts.Socket{}
	for _, l := range leaks {
		for _, s := range l.Entered {
			entered[ports{s.Lport, s.Rport}] = s
		}
	}
	for _, s := range sockets {
		truth, ok := entered[ports{s.Lport, s.Rport}]
		if !ok {
			t.Errorf("%s:%d to %s:%d is nobody's leak", s.Laddr, s.Lport, s.Raddr, s.Rport)
			continue
		}
		least, most := time.Duration(asked-truth.After), time.Duration(answered-truth.Before)
		switch {
		case s.DwellNS == nil || s.DwellBound != "at_least":
			t.Errorf("%s: age %v is %q, want at_least", s.Cause, s.DwellNS, s.DwellBound)
		case time.Duration(*s.DwellNS) > most:
			t.Errorf("%s: age %v is above the truth %v", s.Cause, time.Duration(*s.DwellNS), most)
		case s.Cause != "half_close" && time.Duration(*s.DwellNS) < least-time.Second:
			// The stream's own ACKs move the bound of a half-close.
			t.Errorf("%s: age %v is far below the truth %v", s.Cause, time.Duration(*s.DwellNS), least)
		}
	}
}

// checkAgainstKernel: the set of waits is that of the kernel's own table, and of ss where
// it is installed.
func checkAgainstKernel(t *testing.T, ns *testenv.Netns, sockets []socket) {
	t.Helper()
	var ours, kernels, sss []string
	for _, s := range sockets {
		if s.State == "CLOSE_WAIT" {
			ours = append(ours, fmt.Sprint(s.Lport, " ", s.Rport))
		}
	}
	for _, r := range testenv.TCPTable(t, ns.Path) {
		if r.State == event.CloseWait {
			kernels = append(kernels, fmt.Sprint(r.Lport, " ", r.Rport))
		}
	}
	slices.Sort(ours)
	slices.Sort(kernels)
	if kernels = slices.Compact(kernels); !slices.Equal(ours, kernels) {
		t.Errorf("%d waits listed, %d in the kernel's table:\n%v\n%v", len(ours), len(kernels), ours, kernels)
	}
	t.Run("ss", func(t *testing.T) {
		for _, r := range testenv.SS(t, ns.Path) {
			sss = append(sss, fmt.Sprint(r.Local.Port(), " ", r.Remote.Port()))
		}
		slices.Sort(sss)
		if !slices.Equal(ours, slices.Compact(sss)) {
			t.Errorf("%d waits listed, %d by ss", len(ours), len(sss))
		}
	})
}

// From the host, without naming the namespace: everything of it is there, and marked.
func TestOtherNetworkNamespace(t *testing.T) {
	ns := testNetns(t)
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	r := run(t, "list", "-o", "json", "-p", fmt.Sprint(leak.Pid)).want(t, 0)
	sockets := decode[list](t, r.stdout).Sockets
	for _, s := range sockets {
		if s.Netns != ns.Inode || s.Owner.Pid != leak.Pid || s.Cause != "eof_ignored" {
			t.Errorf("%+v, want pid %d in namespace %d", s, leak.Pid, ns.Inode)
		}
	}
	if len(sockets) != n {
		t.Errorf("%d sockets, want %d", len(sockets), n)
	}
}
