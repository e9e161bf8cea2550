package tracer

import (
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv/facts"
)

func portOf(l net.Listener) uint16 { return uint16(l.Addr().(*net.TCPAddr).Port) }

// A leak that is older than the tracer: same sockets, and ages that are true lower
// bounds, by a single look and by a live tracer that starts late.
func TestBaselineAges(t *testing.T) {
	testenv.RequireRoot(t)
	for _, cause := range []string{"unaccepted", "unread_data", "unread_eof", "eof_ignored", "out_eof", "zombie_fd"} {
		t.Run(cause, func(t *testing.T) {
			ns := testenv.NewNetns(t)
			leak := testenv.StartLeaker(t, testenv.Options{Cause: cause, N: n, Netns: ns.Path})
			there := Now()
			for name, cfg := range map[string]Config{"once": {}, "live": {Live: true}} {
				t.Run(name, func(t *testing.T) {
					tr := openIn(t, ns, cfg)
					snap, err := tr.Snapshot(t.Context(), SnapshotOptions{
						States: event.SetOf(event.CloseWait, event.Close), Holders: true,
					})
					if err != nil {
						t.Fatal(err)
					}
					checkAges(t, snap, leak, there)
				})
			}
		})
	}
}

func checkAges(t *testing.T, snap *event.Snapshot, leak *testenv.Leaker, there event.KTime) {
	t.Helper()
	if len(snap.Sockets) != n {
		t.Errorf("%d sockets, want %d", len(snap.Sockets), n)
	}
	for i := range snap.Sockets {
		s := &snap.Sockets[i]
		truth := truthOf(leak, s)
		if truth == nil {
			t.Errorf("socket %v is none of the leak's", s.Flow)
			continue
		}
		// It entered between Before and the leaker's word: by After its FIN need not have come, nor its
		// own end been closed. The age at s.At follows.
		least, most := s.At.Sub(there), s.At.Sub(event.KTime(truth.Before))
		if s.Bound != event.AtLeast || !s.Baseline || s.Dwell() > most || s.Dwell() < least-time.Second {
			t.Errorf("age %v (%v), truth is between %v and %v", s.Dwell(), s.Bound, least, most)
		}
		if s.DwellMax() != 0 && s.DwellMax() < least {
			t.Errorf("upper bound %v is below the truth %v", s.DwellMax(), least)
		}
	}
}

func truthOf(leak *testenv.Leaker, s *event.Socket) *facts.Socket {
	for i := range leak.Entered {
		e := &leak.Entered[i]
		if e.Lport == s.Flow.Local.Port() && e.Rport == s.Flow.Remote.Port() {
			return e
		}
	}
	return nil
}

func TestDirectionOfTheBaseline(t *testing.T) {
	testenv.RequireRoot(t)
	for cause, want := range map[string]event.Direction{"unread_data": event.In, "out_eof": event.Out} {
		ns := testenv.NewNetns(t)
		testenv.StartLeaker(t, testenv.Options{Cause: cause, N: n, Netns: ns.Path})
		snap, err := openIn(t, ns, Config{}).Snapshot(t.Context(), SnapshotOptions{States: event.SetOf(event.CloseWait)})
		if err != nil {
			t.Fatal(err)
		}
		if got := count(snap.Sockets, func(s *event.Socket) bool { return s.Direction == want }); got != n {
			t.Errorf("%s: %d of %d sockets have direction %v", cause, got, n, want)
		}
	}
}

// Both ways of reading give the same waits, and ss agrees.
func TestSnapshotEqualsKernel(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	testenv.StartLeaker(t, testenv.Options{Cause: "unread_data", N: n, Netns: ns.Path})
	live := openIn(t, ns, Config{Live: true})
	testenv.StartLeaker(t, testenv.Options{Cause: "unaccepted", N: n, Netns: ns.Path})
	once := openIn(t, ns, Config{})
	var sets [2][]event.Cookie
	for i, tr := range []*Tracer{live, once} {
		snap, err := tr.Snapshot(t.Context(), SnapshotOptions{States: event.SetOf(event.CloseWait)})
		if err != nil {
			t.Fatal(err)
		}
		sets[i] = cookies(snap.Sockets)
	}
	if len(sets[0]) != 2*n || !slices.Equal(sets[0], sets[1]) {
		t.Errorf("by records: %v\nby tables: %v", sets[0], sets[1])
	}
	if rows := testenv.TCPTable(t, ns.Path); count(rows, func(r *testenv.TCPRow) bool { return r.State == event.CloseWait }) != 2*n {
		t.Errorf("the kernel's own table has other waits: %v", rows)
	}
}

func TestHoldersAndListeners(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	snap, err := openIn(t, ns, Config{}).Snapshot(t.Context(), SnapshotOptions{States: event.SetOf(event.CloseWait), Holders: true})
	if err != nil {
		t.Fatal(err)
	}
	ours := map[event.Cookie]bool{}
	for _, s := range snap.Sockets {
		ours[s.Cookie] = s.Flow.Netns == ns.Inode
	}
	held := map[event.Cookie]int{}
	for _, h := range snap.Holders {
		if h.State == event.CloseWait && ours[h.Cookie] {
			held[h.Cookie]++
			if h.Pid != uint32(leak.Pid) || h.Start == 0 || h.Comm == (event.Comm{}) || h.Listening != nil {
				t.Errorf("holder %+v, want pid %d", h, leak.Pid)
			}
		}
	}
	if len(held) != n {
		t.Errorf("%d sockets are held, want %d", len(held), n)
	}
}

// A namespace no process lives in and no name leads to: what somebody holds is found all
// the same, and the rest is said to be missing.
func TestNamespaceThatNobodyCanEnter(t *testing.T) {
	testenv.RequireRoot(t)
	for name, cfg := range map[string]Config{"once": {}, "live": {Live: true}} {
		t.Run(name, func(t *testing.T) {
			ns := testenv.NewNetns(t)
			l := listen(t, ns, "127.0.0.1:0")
			for _, p := range connect(t, ns, l, n) {
				p.client.Close()
			}
			awaitTable(t, ns, "wait", func(r testenv.TCPRow) bool { return r.State == event.CloseWait }, n)
			if err := unix.Unmount(ns.Path, unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
			cfg.Filter.Netns = []uint32{ns.Inode}
			tr, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer tr.Close()
			snap, err := tr.Snapshot(t.Context(), SnapshotOptions{States: event.SetOf(event.CloseWait), Holders: true})
			if err != nil {
				t.Fatal(err)
			}
			if len(snap.Sockets) != n || snap.UnreadNetns[ns.Inode] == "" {
				t.Errorf("%d sockets, want %d; unread %v", len(snap.Sockets), n, snap.UnreadNetns)
			}
		})
	}
}

func TestInTables(t *testing.T) {
	const head = "sockets: used 23\n"
	for text, want := range map[string]uint64{
		head + "TCP: inuse 0 orphan 7 tw 0 alloc 7 mem 2\nUDP: inuse 3 mem 0\n": 0,
		head + "TCP: inuse 1 orphan 0 tw 0 alloc 1 mem 0\n":                     1,
		head + "TCP: inuse 7 orphan 3 tw 16 alloc 9 mem 0\n":                    n,
		"TCP6: inuse 0\nUDP6: inuse 5\n":                                        0,
		"TCP6: inuse 23\n":                                                      n,
		"":                                                                      0,
		head:                                                                    1,
		"TCP: something else\n":                                                 1,
		"TCP: inuse many\n":                                                     1,
	} {
		if got := inTables([]byte(text)); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

// The look that gives sockets their records is the first: it has those that were asked for with
// their holders, which are the owners of all.
func TestFirstLook(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	l := listen(t, ns, "127.0.0.1:0")
	open := connect(t, ns, l, n)
	tr := openIn(t, ns, Config{Live: true, First: event.SetOf(event.CloseWait)})
	first := tr.First()
	if first == nil || tr.First() != nil {
		t.Fatal("the first look is to be had once")
	}
	if first.Len() != n {
		t.Errorf("%d sockets, want %d", first.Len(), n)
	}
	for s := range first.All() {
		if s.State != event.CloseWait || s.Owner.Pid != uint32(leak.Pid) || s.Evidence != event.EvidenceScan {
			t.Errorf("%v is %v, of %+v by %v; want pid %d by %v", s.Flow, s.State, s.Owner, s.Evidence, leak.Pid, event.EvidenceScan)
		}
		if !slices.ContainsFunc(first.Holders, func(h event.Holder) bool { return h.Cookie == s.Cookie }) {
			t.Errorf("%v has no holder", s.Flow)
		}
	}
	snap, err := tr.Snapshot(t.Context(), SnapshotOptions{States: event.SetOf(event.Established)})
	if err != nil {
		t.Fatal(err)
	}
	owned := count(snap.Sockets, func(s *event.Socket) bool { return s.Evidence == event.EvidenceScan })
	if owned != 2*len(open) {
		t.Errorf("%d established sockets have an owner, want %d", owned, 2*len(open))
	}
}

// Namespaces are read side by side, and each to its end.
func TestManyNamespaces(t *testing.T) {
	testenv.RequireRoot(t)
	var inodes []uint32
	sizes := map[uint32]int{}
	for i := range 5 {
		ns := testenv.NewNetns(t)
		sizes[ns.Inode] = n + i
		inodes = append(inodes, ns.Inode)
		testenv.StartLeaker(t, testenv.Options{Cause: "unread_data", N: n + i, Netns: ns.Path})
	}
	for name, cfg := range map[string]Config{"once": {}, "live": {Live: true}} {
		t.Run(name, func(t *testing.T) {
			cfg.Filter.Netns = inodes
			tr, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer tr.Close()
			snap, err := tr.Snapshot(t.Context(), SnapshotOptions{States: event.SetOf(event.CloseWait)})
			if err != nil {
				t.Fatal(err)
			}
			got := map[uint32]int{}
			for i := range snap.Sockets {
				got[snap.Sockets[i].Flow.Netns]++
			}
			if !maps.Equal(got, sizes) || len(snap.ReadNetns) != len(inodes) {
				t.Errorf("%v sockets by namespace, want %v; read %v", got, sizes, snap.ReadNetns)
			}
			if len(slices.Compact(cookies(snap.Sockets))) != len(snap.Sockets) {
				t.Error("a socket was read twice")
			}
			// Each wait has a peer in FIN_WAIT2, and each leaker listens.
			if least := uint64(len(snap.Sockets) + len(inodes)); snap.Met < least {
				t.Errorf("met %d sockets, at least %d are there", snap.Met, least)
			}
		})
	}
}
