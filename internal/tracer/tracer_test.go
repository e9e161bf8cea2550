package tracer

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

var (
	serverPath = []event.State{event.Listen, event.SynRecv, event.Established, event.CloseWait, event.LastAck, event.Close}
	clientPath = []event.State{event.Close, event.SynSent, event.Established, event.FinWait1, event.FinWait2, event.Close}
)

func TestEveryTransitionOfAConnection(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(addr, func(t *testing.T) {
			testenv.RequireRoot(t)
			ns := testenv.NewNetns(t)
			tr := openIn(t, ns, Config{Live: true})
			l := listen(t, ns, addr)
			churn(t, ns, l, n)
			all := collect(t, tr, func(got []event.Transition) bool {
				return count(got, func(e *event.Transition) bool { return e.New == event.Close }) >= 2*n
			})
			checkPaths(t, all, n)
			for _, e := range all {
				checkTransition(t, &e, ns.Inode)
			}
			checkBalance(t, tr, 0)
		})
	}
}

func checkPaths(t *testing.T, all []event.Transition, want int) {
	t.Helper()
	var servers, clients int
	for cookie, of := range byCookie(all) {
		switch p := path(of); {
		case slices.Equal(p, serverPath):
			servers++
		case slices.Equal(p, clientPath):
			clients++
			if timeWaits := count(of, func(e *event.Transition) bool { return e.New == event.TimeWait }); timeWaits != 1 {
				t.Errorf("socket %d: %d transitions to TIME_WAIT, want 1", cookie, timeWaits)
			}
		case len(of) == 1 && of[0].New == event.Listen:
		default:
			t.Errorf("socket %d went %v", cookie, p)
		}
	}
	if servers != want || clients != want {
		t.Errorf("%d accepted and %d connected sockets, want %d each", servers, clients, want)
	}
}

func checkTransition(t *testing.T, e *event.Transition, netns uint32) {
	t.Helper()
	self := uint32(os.Getpid())
	switch {
	case e.Cookie == 0 || e.Flow.Netns != netns || e.Flow.Protocol != event.TCP:
		t.Errorf("%v: not identified", e)
	case e.New == event.SynSent && (e.Owner.Pid != self || e.Evidence != event.EvidenceConnect || e.Direction != event.Out):
		t.Errorf("%v: connect() not attributed", e)
	case e.New == event.Listen && (e.Owner.Pid != self || e.Evidence != event.EvidenceListen):
		t.Errorf("%v: listen() not attributed", e)
	case e.New == event.CloseWait && e.Direction != event.In:
		t.Errorf("%v: direction of an accepted socket", e)
	case e.Old == event.CloseWait && (e.InBound != event.Exact || e.InState <= 0 || e.Owner.Pid != self):
		t.Errorf("%v: end of a watched wait: %v %v by %d", e, e.InState, e.InBound, e.Owner.Pid)
	case e.New == event.Close && e.Old != event.Listen && (e.Flow.Local.Port() == 0 || e.Flow.Remote.Port() == 0):
		t.Errorf("%v: flow forgotten at the end", e)
	}
}

// checkBalance: made = received + dropped + lost, once the ring is empty and the last
// connections have ended in softirq.
func checkBalance(t *testing.T, tr *Tracer, wantLost uint64) {
	t.Helper()
	var s Stats
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if err := tr.Drain(func(*event.Transition) error { return nil }); err != nil {
			t.Fatal(err)
		}
		var err error
		if s, err = tr.Stats(); err != nil {
			t.Fatal(err)
		}
		if s.Made == s.Received+s.Dropped+s.Lost {
			break
		}
	}
	if s.Made != s.Received+s.Dropped+s.Lost || s.Dropped != 0 || s.Lost < wantLost || wantLost == 0 && s.Lost != 0 {
		t.Errorf("counters do not add up: %+v", s)
	}
	if s.RecordFailed != 0 {
		t.Errorf("%d records could not be created", s.RecordFailed)
	}
}

// The current task of ESTABLISHED to CLOSE_WAIT is the peer that closed. It must never
// become the owner.
func TestPeerIsNeverTheOwner(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true})
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	all := collect(t, tr, func(got []event.Transition) bool { return count(got, entersCloseWait) >= n })
	for _, e := range all {
		if e.New == event.CloseWait && e.Owner.Known() && e.Owner.Pid != uint32(leak.Pid) {
			t.Errorf("%v: owner %d (%v), want %d or nobody; the peer is %d", e, e.Owner.Pid, e.Evidence, leak.Pid, leak.Peer)
		}
	}
	for _, s := range waits(t, tr).Sockets {
		watched := attached(tr, factRead) != ""
		if s.Owner.Pid != uint32(leak.Pid) || s.EOFSeen != watched || watched && s.EOFTask.Pid != uint32(leak.Pid) {
			t.Errorf("socket %d: owner %d by %v, told EOF %v to %d; want %d", s.Cookie, s.Owner.Pid, s.Evidence, s.EOFSeen, s.EOFTask.Pid, leak.Pid)
		}
	}
}

func TestAcceptNamesTheOwner(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true})
	if kind := attached(tr, factAccept); kind != kindFexit {
		if inVM() && runtime.GOARCH == "amd64" {
			t.Fatalf("this kernel permits fexit, but accept is hooked by %q: %+v", kind, tr.Hooks())
		}
		t.Logf("no fexit on this kernel: the owner comes from the first read (%+v)", tr.Hooks())
	}
	testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	checkEvidence(t, tr, wantEvidence(tr))
}

// Where fexit is there, the fallback has to be tested too.
func TestFirstReadNamesTheOwner(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true, Without: []string{kindFexit, kindFentry}})
	testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	checkEvidence(t, tr, wantEvidence(tr))
}

// wantEvidence is the best fact the attached hooks give. Before 6.3 reads are seen by
// fexit only; without it holders name the owner.
func wantEvidence(tr *Tracer) event.Evidence {
	switch {
	case attached(tr, factAccept) != "":
		return event.EvidenceAccept
	case attached(tr, factRead) != "":
		return event.EvidenceRead
	default:
		return event.EvidenceScan
	}
}

func TestSyscallAcceptNamesTheOwner(t *testing.T) {
	testenv.RequireRoot(t)
	if Tracefs() == "" {
		testenv.Skip(t, "tracefs", "not mounted; mount -t tracefs tracefs /sys/kernel/tracing")
	}
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true, SyscallAccept: true, Without: []string{kindFexit}})
	if attached(tr, factAccept) != kindTracepoint {
		t.Fatalf("syscall-exit hooks not attached: %+v", tr.Hooks())
	}
	testenv.StartLeaker(t, testenv.Options{Cause: "unread_eof", N: n, Netns: ns.Path})
	checkEvidence(t, tr, event.EvidenceAccept)
}

// waits are the sockets in CLOSE_WAIT. It looks twice: the first look may be what names
// an owner.
func waits(t *testing.T, tr *Tracer) *event.Snapshot {
	t.Helper()
	var snap *event.Snapshot
	for range 2 {
		var err error
		snap, err = tr.Snapshot(t.Context(), SnapshotOptions{States: event.SetOf(event.CloseWait), Holders: true})
		if err != nil {
			t.Fatal(err)
		}
	}
	return snap
}

// checkEvidence wants n waits whose owner is known by the given fact.
func checkEvidence(t *testing.T, tr *Tracer, want event.Evidence) {
	t.Helper()
	collect(t, tr, func(got []event.Transition) bool { return count(got, entersCloseWait) >= n })
	snap := waits(t, tr)
	if got := count(snap.Sockets, func(s *event.Socket) bool { return s.Evidence == want && s.Owner.Known() }); got != n {
		t.Errorf("%d of %d waits have an owner by %v: %+v", got, n, want, snap.Sockets)
	}
}

// A ring of one page loses most of a burst. Nothing may be lost in silence, and a snapshot
// must know what the ring could not tell.
func TestLossIsCounted(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true, RingBytes: os.Getpagesize()})
	l := listen(t, ns, "127.0.0.1:0")
	churn(t, ns, l, 227)
	for _, p := range connect(t, ns, l, n) {
		p.client.Close()
	}
	awaitTable(t, ns, "wait", func(r testenv.TCPRow) bool { return r.State == event.CloseWait }, n)
	var received uint64
	if err := tr.Drain(func(*event.Transition) error { received++; return nil }); err != nil {
		t.Fatal(err)
	}
	s, err := tr.Stats()
	if err != nil {
		t.Fatal(err)
	}
	// Each connection makes at least ten transitions.
	if s.Received != received || s.Lost == 0 || s.Made < 10*227 {
		t.Errorf("received %d, counters %+v", received, s)
	}
	checkBalance(t, tr, 1)
	snap, err := tr.Snapshot(t.Context(), SnapshotOptions{States: event.SetOf(event.CloseWait)})
	if err != nil {
		t.Fatal(err)
	}
	if len(snap.Sockets) != n {
		t.Errorf("after the burst the snapshot has %d waits, want %d", len(snap.Sockets), n)
	}
}

// What finds no room in the ring is kept elsewhere, and comes in order.
func TestOverflowTakesOver(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	const pages = 4
	tr := openIn(t, ns, Config{Live: true, RingBytes: pages * os.Getpagesize()})
	l := listen(t, ns, "127.0.0.1:0")
	churn(t, ns, l, n)
	if tr.overflow.AvailableBytes() == 0 {
		t.Fatalf("%d connections fit into a ring of %d pages", n, pages)
	}
	all := collect(t, tr, func(got []event.Transition) bool {
		return count(got, func(e *event.Transition) bool { return e.New == event.Close }) >= 2*n
	})
	checkPaths(t, all, n)
	checkBalance(t, tr, 0)
	// The ring is used again: the overflow stays as empty as it was.
	churn(t, ns, l, 1)
	if tr.reader.AvailableBytes() == 0 || tr.overflow.AvailableBytes() != 0 {
		t.Errorf("%d bytes in the ring, %d beside it", tr.reader.AvailableBytes(), tr.overflow.AvailableBytes())
	}
}

// What comes while the overflow is read comes before what comes after that.
func TestOverflowKeepsTheOrder(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true, RingBytes: 8 * os.Getpagesize()})
	l := listen(t, ns, "127.0.0.1:0")
	churn(t, ns, l, 2*n)
	if tr.overflow.AvailableBytes() == 0 {
		t.Fatalf("%d connections fit into the ring", 2*n)
	}
	var all []event.Transition
	var late []pair
	hear := func(e *event.Transition) error {
		all = append(all, *e)
		if tr.reader.AvailableBytes() == 0 && tr.overflow.AvailableBytes() > 0 && len(late) < n {
			late = append(late, connect(t, ns, l, 1)...)
		}
		return nil
	}
	ended := 0
	for end := time.Now().Add(patience); count(all, closes) < 2*3*n; {
		if time.Now().After(end) {
			t.Fatalf("after %v: %d sockets are closed, want %d", patience, count(all, closes), 2*3*n)
		}
		if err := tr.next(hear); err != nil {
			t.Fatal(err)
		}
		for _, p := range late[ended:] {
			p.client.Close()
			readEOF(t, p.server)
			p.server.Close()
		}
		ended = len(late)
	}
	checkPaths(t, all, 3*n)
	checkBalance(t, tr, 0)
}

// The kernel's clock at both ends of the truth: the peer's close() and our own.
func TestDwellIsExact(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true})
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path, CloseAfter: 100 * time.Millisecond})
	// On a busy machine the FIN comes after the peer's close() has returned, so the wait began between
	// Before and Seen.
	type truth struct{ least, most time.Duration }
	want := map[uint16]truth{}
	for line := range leak.Lines {
		if s := line.Socket; s != nil && line.CloseBefore != 0 {
			want[s.Rport] = truth{
				least: time.Duration(line.CloseBefore - s.Seen),
				most:  time.Duration(line.CloseAfter - s.Before),
			}
		}
		if len(want) == n {
			break
		}
	}
	all := collect(t, tr, func(got []event.Transition) bool { return count(got, leavesCloseWait) >= n })
	for _, e := range all {
		if !leavesCloseWait(&e) {
			continue
		}
		w, ok := want[e.Flow.Remote.Port()]
		if !ok || e.InBound != event.Exact || e.InState < w.least || e.InState > w.most {
			t.Errorf("wait of port %d lasted %v (%v), truth is between %v and %v", e.Flow.Remote.Port(), e.InState, e.InBound, w.least, w.most)
		}
	}
}

func TestKernelFilters(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	wanted, other := listen(t, ns, "127.0.0.1:0"), listen(t, ns, "127.0.0.1:0")
	port := event.PortRange{From: portOf(wanted), To: portOf(wanted)}
	for name, f := range map[string]event.Filter{
		"lport":     {Lports: []event.PortRange{port}},
		"rport":     {Rports: []event.PortRange{port}},
		"states":    {States: event.SetOf(event.CloseWait)},
		"direction": {Direction: event.Out},
		"family":    {Family: 6},
		"pid":       {Pids: []uint32{1}},
	} {
		t.Run(name, func(t *testing.T) {
			tr := openIn(t, ns, Config{Live: true, Filter: f})
			churn(t, ns, wanted, n)
			churn(t, ns, other, n)
			f := tr.cfg.Filter
			var got []event.Transition
			if err := tr.Drain(func(e *event.Transition) error { got = append(got, *e); return nil }); err != nil {
				t.Fatal(err)
			}
			for _, e := range got {
				if !passes(&f, &e) {
					t.Errorf("%v: should have been kept back", e)
				}
			}
			s, err := tr.Stats()
			if err != nil {
				t.Fatal(err)
			}
			if s.Filtered == 0 || name != "family" && name != "pid" && len(got) < n {
				t.Errorf("%d passed: %+v", len(got), s)
			}
		})
	}
}

func passes(f *event.Filter, e *event.Transition) bool {
	return f.Ports(e.Flow) &&
		(f.States == 0 || f.States.Has(e.Old) || f.States.Has(e.New)) &&
		(f.Direction == 0 || f.Direction == e.Direction) &&
		(f.Family == 0 || e.Flow.Local.Addr().Is6()) &&
		(len(f.Pids) == 0 || !e.Owner.Known() || slices.Contains(f.Pids, e.Owner.Pid))
}

func TestHookTable(t *testing.T) {
	testenv.RequireRoot(t)
	tr := openIn(t, testenv.NewNetns(t), Config{Live: true})
	facts := map[string]int{}
	for _, h := range tr.Hooks() {
		if h.Reason == "" || h.Hook == "" || h.Kind == "" {
			t.Errorf("incomplete row: %+v", h)
		}
		if h.Attached {
			facts[h.Fact]++
		}
	}
	want := []string{factHolders, factSockets, factTransitions}
	if seesReads() {
		want = append(want, factRead)
	}
	for _, fact := range want {
		if facts[fact] != 1 {
			t.Errorf("%s is given by %d hooks, want 1: %+v", fact, facts[fact], tr.Hooks())
		}
	}
	if inVM() && runtime.GOARCH == "amd64" && !exactTimeWait(tr) {
		t.Errorf("fentry and fexit should work here: %+v", tr.Hooks())
	}
}

func TestCloseEndsEverything(t *testing.T) {
	testenv.RequireRoot(t)
	before := descriptors(t)
	for range 3 {
		tr, err := Open(Config{Live: true})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- tr.Run(t.Context(), func(*event.Transition) error { return nil }, nil) }()
		if err := errors.Join(tr.Close(), tr.Close()); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Errorf("run after close: %v", err)
		}
		if _, err := tr.Snapshot(t.Context(), SnapshotOptions{}); !errors.Is(err, ErrClosed) {
			t.Errorf("snapshot after close: %v", err)
		}
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	// The library keeps one descriptor for the kernel's BTF and probes on first use.
	tr, err := Open(Config{Live: true})
	if err != nil {
		t.Fatal(err)
	}
	tr.Close()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
