package owner_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strconv"
	"testing"
	"unsafe"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
)

func itoa(n int) string { return strconv.Itoa(n) }

func holder(cookie event.Cookie, pid uint32, fd int32) event.Holder {
	return event.Holder{Task: event.Task{Pid: pid}, FD: fd, Cookie: cookie, State: event.CloseWait}
}

// listener is a LISTEN descriptor; its cookie is its pid.
func listener(pid uint32, local string, queued uint32, proto event.Protocol) event.Holder {
	return event.Holder{
		Task: event.Task{Pid: pid}, FD: 3, Cookie: event.Cookie(pid), State: event.Listen,
		Listening: &event.Listening{
			QueueLen: queued,
			Flow:     event.Flow{Local: netip.MustParseAddrPort(local), Netns: 1, Protocol: proto},
		},
	}
}

func pids(holders []event.Holder) string {
	var all []uint32
	for _, h := range holders {
		all = append(all, h.Pid)
	}
	return fmt.Sprint(all)
}

func TestByCookie(t *testing.T) {
	sorted := []event.Holder{holder(0, 9, 9), holder(5, 1, 3), holder(5, 1, 4), holder(5, 2, 3), holder(8, 1, 5), holder(1<<40, 7, 1)}
	shuffled := []event.Holder{sorted[4], sorted[3], sorted[5], sorted[1], sorted[0], sorted[2]}
	for _, holders := range [][]event.Holder{sorted, shuffled} {
		x := owner.NewIndex(holders)
		for cookie, want := range map[event.Cookie]string{
			5: "[1 1 2]", 8: "[1]", 1 << 40: "[7]", 0: "[]", 6: "[]", 1<<40 + 1: "[]",
		} {
			if got := pids(x.ByCookie(cookie)); got != want {
				t.Errorf("cookie %d: %s, want %s", cookie, got, want)
			}
		}
	}
	if got := owner.NewIndex(nil).ByCookie(1); got != nil {
		t.Errorf("empty index: %v", got)
	}
	// Nobody may grow into a neighbour.
	if got := owner.NewIndex(sorted).ByCookie(5); cap(got) != 3 {
		t.Errorf("capacity %d, want 3", cap(got))
	}
}

func TestByCookieRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	want := map[event.Cookie]int{}
	var holders []event.Holder
	for cookie := event.Cookie(1); len(holders) < 5000; cookie += event.Cookie(1 + rng.IntN(4096)*rng.IntN(2)) {
		want[cookie] = 1 + rng.IntN(3)
		for pid := range want[cookie] {
			holders = append(holders, holder(cookie, uint32(pid+1), 3))
		}
	}
	x := owner.NewIndex(holders)
	for cookie, n := range want {
		if got := x.ByCookie(cookie); len(got) != n || got[0].Cookie != cookie {
			t.Fatalf("cookie %d: %d holders, want %d", cookie, len(got), n)
		}
		if _, there := want[cookie+1]; !there && x.ByCookie(cookie+1) != nil {
			t.Fatalf("cookie %d does not exist", cookie+1)
		}
	}
}

func TestListeners(t *testing.T) {
	const tcp, mptcp = event.TCP, event.MPTCP
	for _, tt := range []struct {
		name    string
		holders []event.Holder
		local   string
		proto   event.Protocol
		want    string
	}{
		{"same address", []event.Holder{listener(1, "127.0.0.1:80", 1, tcp)}, "127.0.0.1:80", tcp, "[1]"},
		{"other port", []event.Holder{listener(1, "127.0.0.1:81", 1, tcp)}, "127.0.0.1:80", tcp, "[]"},
		{"other address", []event.Holder{listener(1, "127.0.0.2:80", 1, tcp)}, "127.0.0.1:80", tcp, "[]"},
		{"wildcard", []event.Holder{listener(1, "0.0.0.0:80", 1, tcp)}, "127.0.0.1:80", tcp, "[1]"},
		{"dual stack", []event.Holder{listener(1, "[::]:80", 1, tcp)}, "127.0.0.1:80", tcp, "[1]"},
		{"IPv6 wildcard", []event.Holder{listener(1, "[::]:80", 1, tcp)}, "[::1]:80", tcp, "[1]"},
		{"IPv4 wildcard takes no IPv6", []event.Holder{listener(1, "0.0.0.0:80", 1, tcp)}, "[::1]:80", tcp, "[]"},
		{"mapped address", []event.Holder{listener(1, "[::ffff:127.0.0.1]:80", 1, tcp)}, "127.0.0.1:80", tcp, "[1]"},
		{
			"the very address before the wildcard",
			[]event.Holder{listener(1, "0.0.0.0:80", 3, tcp), listener(2, "127.0.0.1:80", 3, tcp), listener(3, "[::]:80", 3, tcp)},
			"127.0.0.1:80", tcp, "[2]",
		},
		{
			"the family's wildcard before dual stack",
			[]event.Holder{listener(1, "[::]:80", 3, tcp), listener(2, "0.0.0.0:80", 3, tcp)},
			"127.0.0.1:80", tcp, "[2]",
		},
		{
			"an empty queue has nobody waiting",
			[]event.Holder{listener(1, "0.0.0.0:80", 3, tcp), listener(2, "127.0.0.1:80", 0, tcp)},
			"127.0.0.1:80", tcp, "[1]",
		},
		{
			"SO_REUSEPORT: those with a queue",
			[]event.Holder{
				listener(1, "0.0.0.0:80", 0, tcp), listener(2, "0.0.0.0:80", 4, tcp),
				listener(3, "0.0.0.0:80", 0, tcp), listener(4, "0.0.0.0:80", 1, tcp),
			},
			"127.0.0.1:80", tcp, "[2 4]",
		},
		{
			"nobody has a queue: the snapshot was not one moment",
			[]event.Holder{listener(1, "0.0.0.0:80", 0, tcp), listener(2, "0.0.0.0:80", 0, tcp)},
			"127.0.0.1:80", tcp, "[1 2]",
		},
		{"TCP client of an MPTCP listener", []event.Holder{listener(1, "[::]:80", 0, mptcp)}, "127.0.0.1:80", tcp, "[1]"},
		{"MPTCP connection", []event.Holder{listener(1, "[::]:80", 0, mptcp)}, "127.0.0.1:80", mptcp, "[1]"},
		{"MPTCP connection, TCP listener", []event.Holder{listener(1, "[::]:80", 1, tcp)}, "127.0.0.1:80", mptcp, "[]"},
		{
			"pre-fork: one socket, several processes",
			[]event.Holder{
				{Task: event.Task{Pid: 1}, FD: 3, Cookie: 7, State: event.Listen, Listening: listener(1, "0.0.0.0:80", 2, tcp).Listening},
				{Task: event.Task{Pid: 2}, FD: 3, Cookie: 7, State: event.Listen, Listening: listener(1, "0.0.0.0:80", 2, tcp).Listening},
			},
			"127.0.0.1:80", tcp, "[1 2]",
		},
	} {
		x := owner.NewIndex(tt.holders)
		flow := event.Flow{Local: netip.MustParseAddrPort(tt.local), Netns: 1, Protocol: tt.proto}
		for range 2 { // the second answer is remembered
			if got := pids(x.Listeners(flow)); got != tt.want {
				t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
			}
		}
		flow.Netns = 2
		if got := pids(x.Listeners(flow)); got != "[]" {
			t.Errorf("%s: %s in another namespace", tt.name, got)
		}
	}
}

func TestCases(t *testing.T) {
	local := netip.MustParseAddrPort("127.0.0.1:80")
	flow := event.Flow{Local: local, Remote: netip.MustParseAddrPort("127.0.0.1:5000"), Netns: 1, Protocol: event.TCP}
	sock := func(cookie event.Cookie, inode uint64, edit ...func(*event.Socket)) event.Socket {
		s := event.Socket{Cookie: cookie, Inode: inode, Flow: flow, State: event.CloseWait, Direction: event.In}
		for _, e := range edit {
			e(&s)
		}
		return s
	}
	state := func(st event.State) func(*event.Socket) { return func(s *event.Socket) { s.State = st } }
	out := func(s *event.Socket) { s.Direction = event.Out }
	connected := func(s *event.Socket) { s.WasConnected = true }
	subflow := func(parent event.Cookie) func(*event.Socket) {
		return func(s *event.Socket) { s.Subflow, s.Parent = true, parent }
	}
	snap := &event.Snapshot{
		HoldersKnown: true,
		Holders:      []event.Holder{listener(9, "0.0.0.0:80", 2, event.TCP), holder(100, 1, 3), holder(100, 2, 3)},
	}
	want := []struct {
		name               string
		s                  event.Socket
		holders, listeners string
	}{
		{"held twice", sock(100, 55), "[1 2]", "[]"},
		{"in flight", sock(101, 56), "[]", "[]"},
		{"in the accept queue", sock(102, 0), "[]", "[9]"},
		{"in the accept queue, open", sock(103, 0, state(event.Established)), "[]", "[9]"},
		{"in the accept queue, reset", sock(104, 0, state(event.Close), connected), "[]", "[9]"},
		{"never connected", sock(105, 0, state(event.Close)), "[]", "[]"},
		{"orphan", sock(106, 0, state(event.FinWait2)), "[]", "[]"},
		{"connecting side", sock(107, 0, out), "[]", "[]"},
		{"subflow of an accepted connection", sock(108, 0, subflow(100)), "[1 2]", "[]"},
		{"subflow of a waiting connection", sock(109, 0, subflow(999)), "[]", "[9]"},
		{"subflow of nobody known", sock(110, 0, subflow(0)), "[]", "[]"},
		{"unknown cookie", sock(0, 57), "[]", "[]"},
	}
	for _, w := range want {
		snap.Sockets = append(snap.Sockets, w.s)
	}
	cases := owner.Cases(snap, snap.All())
	if len(cases) != len(want) {
		t.Fatalf("%d cases, want %d", len(cases), len(want))
	}
	x := owner.NewIndex(snap.Holders)
	for i, w := range want {
		for _, c := range []diagnosis.Case{cases[i], x.Case(&snap.Sockets[i], true)} {
			if c.Socket != w.s || !c.HoldersKnown {
				t.Errorf("%s: socket changed", w.name)
			}
			if pids(c.Holders) != w.holders || pids(c.Listeners) != w.listeners {
				t.Errorf("%s: holders %s, listeners %s; want %s, %s", w.name, pids(c.Holders), pids(c.Listeners), w.holders, w.listeners)
			}
		}
	}
	if owner.Cases(&event.Snapshot{}, snap.All())[0].HoldersKnown {
		t.Error("holders are known although nobody looked")
	}
}

// bigSnapshot has n sockets in the order of a hash table, each held once, and a listener
// with as many more waiting if queued.
func bigSnapshot(n int, queued bool) *event.Snapshot {
	snap := &event.Snapshot{HoldersKnown: true}
	flow := event.Flow{Local: netip.MustParseAddrPort("10.0.0.1:80"), Netns: 1, Protocol: event.TCP}
	snap.Holders = append(snap.Holders, listener(1, "0.0.0.0:80", uint32(n), event.TCP))
	for i := range n {
		cookie := event.Cookie(i + 10)
		flow.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 16), byte(i >> 8)}), uint16(i))
		s := event.Socket{Cookie: cookie, Inode: uint64(i + 1), Flow: flow, State: event.CloseWait, Direction: event.In}
		if queued {
			s.Inode = 0
		} else {
			snap.Holders = append(snap.Holders, holder(cookie, uint32(2+i%50), int32(i)))
		}
		snap.Sockets = append(snap.Sockets, s)
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(n, func(i, j int) {
		snap.Sockets[i], snap.Sockets[j] = snap.Sockets[j], snap.Sockets[i]
	})
	return snap
}

func BenchmarkCases(b *testing.B) {
	b.Logf("Socket %d, Holder %d, Case %d bytes", unsafe.Sizeof(event.Socket{}), unsafe.Sizeof(event.Holder{}), unsafe.Sizeof(diagnosis.Case{}))
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		for _, queued := range []bool{false, true} {
			b.Run(fmt.Sprintf("n=%d/unaccepted=%v", n, queued), func(b *testing.B) {
				snap := bigSnapshot(n, queued)
				b.ReportAllocs()
				for b.Loop() {
					runtime.KeepAlive(owner.Cases(snap, snap.All()))
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/socket")
			})
		}
	}
}

// The index alone: what a caller that goes through the sockets one by one needs.
func BenchmarkIndex(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			snap := bigSnapshot(n, false)
			b.ReportAllocs()
			for b.Loop() {
				x := owner.NewIndex(snap.Holders)
				for i := range snap.Sockets {
					if x.ByCookie(snap.Sockets[i].Cookie) == nil {
						b.Fatal("socket without holder")
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/socket")
		})
	}
}
