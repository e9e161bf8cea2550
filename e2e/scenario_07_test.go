package e2e

import (
	"fmt"
	"os/exec"
	"testing"
)

// A child inherits the descriptors; its parent closes, and the connection stays
// (odpi#152, guacamole#698).
func TestScenario07ChildInherits(t *testing.T) {
	t.Parallel()
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		s := newScene(t)
		x := s.serve(t, s.compile(t, "gcc", program("inherit.c"), "inherit"), "PORT", fmt.Sprint(n))
		var clients []*client
		var daemon int
		s.inherits(t, x, &daemon, "in", "accept", func(i int) {
			if i == 0 {
				for range n {
					clients = append(clients, s.dial(t, x.port))
				}
				daemon = x.pidSaid(t, "daemon")
			}
			clients[i].say(t, "bye\n")
			clients[i].Close()
			s.awaitWaits(t, i+1, x.port, 1)
		})
	})
	// libpq's connections, in a program that forks: PostgreSQL closes when the parent says
	// goodbye.
	t.Run("postgresql", func(t *testing.T) {
		t.Parallel()
		s := newScene(t)
		server := s.startPostgres(t)
		x := s.startAsked(t, exec.Command(python(t), source(t, program("pgfork.py")), fmt.Sprint(server.port), fmt.Sprint(n)))
		var daemon int
		s.inherits(t, x.target, &daemon, "out", "connect", func(i int) {
			if i == 0 {
				x.tell(t, "connect")
				daemon = x.pidSaid(t, "daemon")
			}
			x.tell(t, "finish")
			s.awaitWaits(t, i+1, server.port, 1)
		})
	})
}

// inherits: the daemon is blamed for what its parent opened and let go of.
func (s *scene) inherits(t *testing.T, parent *target, daemon *int, direction, evidence string, leak func(i int)) {
	t.Helper()
	sockets := s.watchSockets(t)
	v := s.grow(t, func(i int) {
		leak(i)
		// The other end may know of it before the parent has closed its own.
		awaitAsleep(t, parent.pid())
	})
	v.demand(t, "leaking", accusation{*daemon, "held_elsewhere", direction, n})
	found := 0
	for _, x := range s.seen(t, sockets) {
		if x.State != "CLOSE_WAIT" {
			continue
		}
		found++
		o := x.Opener
		if o == nil || o.Pid != parent.pid() || o.Evidence != evidence || o.Holds == nil || *o.Holds {
			t.Errorf("opener %+v, want pid %d by %s, which holds it no more", o, parent.pid(), evidence)
		}
		if len(x.Holders) != 1 || x.Holders[0].Pid != *daemon {
			t.Errorf("holders %+v, want %d alone", x.Holders, *daemon)
		}
	}
	if found != n {
		t.Errorf("%d sockets seen, want %d", found, n)
	}
	s.checkList(t, n)
}
