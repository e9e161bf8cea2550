package e2e

import (
	"io"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// shutdown() in the place of close() leaves a closed socket with a descriptor, which no lister
// of sockets shows: `ss -s` counted 20587 of them as "closed" in netty#12831, and
// WasmEdge#1490 had them with every connection.
func TestScenario12ShutdownWithoutClose(t *testing.T) {
	// The server ends first, as after a response.
	t.Run("java", func(t *testing.T) {
		s := newScene(t)
		x := s.serve(t, tool(t, "java"), actorSource(t, "Zombie.java"), "PORT")
		zombies(t, s, x, func() {
			c := s.dial(t, x.port)
			c.say(t, "hello\n")
			if _, err := io.Copy(io.Discard, c); err != nil {
				t.Fatal(err)
			}
			c.Close()
		})
	})
	// The client ends first.
	t.Run("python", func(t *testing.T) {
		s := newScene(t)
		x := s.serve(t, tool(t, "python3"), actorSource(t, "zombie.py"), "PORT")
		zombies(t, s, x, func() {
			c := s.dial(t, x.port)
			c.hangUp(t)
		})
	})
}

func zombies(t *testing.T, s *scene, x *target, one func()) {
	t.Helper()
	s.innocents(t)
	left := func(r testenv.TCPRow) bool {
		return r.Lport == x.port && r.State != event.Listen && r.Inode != 0
	}
	v := s.grow(t, func(int) {
		one()
		// The last packet of each may come late.
		s.await(t, 0, "of the server in the kernel's table", left)
	})
	v.demand(t, "leaking", accusation{x.pid(), "zombie_fd", "in", n})
	if v.SocketsCloseWait != 0 {
		t.Errorf("%d in CLOSE_WAIT", v.SocketsCloseWait)
	}

	// Nobody else shows them.
	for _, r := range testenv.TCPTable(t, s.ns.Path) {
		if left(r) {
			t.Errorf("in the kernel's table: %+v", r)
		}
	}
	sockets := s.list(t)
	for _, z := range sockets {
		if z.Owner.Pid != x.pid() || z.State != "CLOSE" || z.Cause != "zombie_fd" {
			t.Errorf("%+v", z)
		}
	}
	if len(sockets) != n {
		t.Errorf("%d listed, want %d", len(sockets), n)
	}
	s.checkList(t, 0)
}
