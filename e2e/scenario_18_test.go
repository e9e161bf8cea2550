package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// A server that accepts into fixed files of an io_uring has no descriptor of its connections:
// no lister names a process. The ring that has them does.
func TestScenario18IoUring(t *testing.T) {
	s := newScene(t)
	s.innocents(t)
	watching := s.watch(t)
	seen := s.watchSockets(t)
	server := s.serving(t, "uring")
	client := s.play(t, "client", "-n", fmt.Sprint(n), server.addr())
	client.said(t, "connected")
	client.do(t, "send")
	client.do(t, "hangup")
	server.said(t, fmt.Sprint("told ", n))
	s.awaitWaits(t, n, server.port, 0)
	for _, row := range testenv.SS(t, s.ns.Path) {
		if len(row.Users) > 0 {
			t.Fatalf("ss knows who has it: %+v", row)
		}
	}

	want := accusation{server.pid(), "in_flight", "in", n}
	waitStuck()
	s.judge(t, watching).demand(t, "suspicious", want)
	watched, now := s.seen(t, seen), s.list(t)
	s.diagnose(t).demand(t, "suspicious", want)
	for when, sockets := range map[string][]sceneSocket{"watched": watched, "now": now} {
		slots := map[int]bool{}
		for _, x := range sockets {
			f := x.InFlight
			if f == nil || f.Where == nil || *f.Where != "io_uring" || len(f.Rings) != 1 || f.Rings[0].Pid != server.pid() {
				t.Errorf("%s: in flight %+v, want in the io_uring of %d", when, f, server.pid())
				continue
			}
			slots[f.Rings[0].FD] = true
			if x.Owner.Pid != server.pid() || len(x.Holders) > 0 {
				t.Errorf("%s: %+v", when, x)
			}
			if told := x.EOFSeen != nil && *x.EOFSeen; told != (when == "watched") {
				t.Errorf("%s: eof_seen %v", when, x.EOFSeen)
			}
		}
		if len(sockets) != n || len(slots) != n {
			t.Errorf("%s: %d sockets in %d slots, want %d", when, len(sockets), len(slots), n)
		}
	}
	s.checkList(t, n)
	if slices.ContainsFunc(now, func(x sceneSocket) bool { return x.Owner.Pid == client.pid() }) {
		t.Error("the client is blamed")
	}
}

// Where it never reads, nothing but the ring tells who it is.
func TestScenario18IoUringThatNeverReads(t *testing.T) {
	s := newScene(t)
	server := s.serving(t, "uring", "-do", "deaf")
	client := s.play(t, "client", "-n", fmt.Sprint(n), server.addr())
	client.said(t, "connected")
	server.said(t, fmt.Sprint("accepted ", n))
	client.do(t, "hangup")
	s.awaitWaits(t, n, server.port, 1)
	// The age of a socket older than tcpwaitd is a lower bound, with room for late ticks.
	waitFor(t, func() string {
		for _, x := range s.list(t) {
			if x.DwellNS == nil || *x.DwellNS < int64(time.Millisecond) {
				return fmt.Sprintf("%+v is not a millisecond old", x)
			}
		}
		return ""
	})
	v := s.diagnose(t, "--threshold", "1ms")
	v.demand(t, "suspicious", accusation{server.pid(), "in_flight", "in", n})
}
