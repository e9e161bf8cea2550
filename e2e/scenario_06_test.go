package e2e

import (
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// An event loop that stops polling a socket after half a request (haproxy#1362). Whole
// requests to the same server are answered and closed meanwhile.
func TestScenario06LoopStopsPolling(t *testing.T) {
	t.Parallel()
	const rest = "23 bytes that nobody sees"
	s := newScene(t)
	x := s.serve(t, s.compile(t, "gcc", program("eventloop.c"), "eventloop"), "PORT")
	v := s.grow(t, func(i int) {
		whole := s.dial(t, x.port)
		whole.say(t, "GET / HTTP/1.0\n")
		whole.Close()
		half := s.dialSaying(t, x.port, "GET / HT")
		s.awaitServed(t, half)
		if _, err := half.Write([]byte(rest)); err != nil {
			t.Fatal(err)
		}
		half.Close()
		s.awaitWaits(t, i+1, x.port, uint32(len(rest))+1)
	})
	v.demand(t, "leaking", accusation{x.pid(), "unread_data", "in", n})
	v.of(t, x.pid()).shows(t, n, want{slot: "last_read", frames: []string{"read", "on_readable", "main"}})
	for _, socket := range s.list(t) {
		if socket.RecvQ != uint32(len(rest))+1 {
			t.Errorf("Recv-Q %d, want %d", socket.RecvQ, len(rest)+1)
		}
	}
	s.checkList(t, n)
}

// awaitServed waits until the server has accepted the connection and read what came.
func (s *scene) awaitServed(t *testing.T, c *client) {
	t.Helper()
	// Recv-Q is empty, too, before something has come. What is acknowledged has.
	s.await(t, 1, "of which all has arrived", func(r testenv.TCPRow) bool {
		return r.Lport == c.ports.remote && r.Rport == c.ports.local && r.State == event.Established && r.SendQ == 0
	})
	s.await(t, 1, "accepted and read", func(r testenv.TCPRow) bool {
		return r.Lport == c.ports.local && r.Rport == c.ports.remote && r.State == event.Established && r.Inode != 0 && r.RecvQ == 0
	})
}
