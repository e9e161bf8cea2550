package e2e

import "testing"

// Descriptors handed over in messages of a unix socket, as at a reload of HAProxy: the
// receiver forgets them, or never receives.
func TestScenario08HandOver(t *testing.T) {
	t.Parallel()
	for how, cause := range map[string]string{"forgets": "held_elsewhere", "deaf": "in_flight"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			x := s.serve(t, python(t), source(t, program("handover.py")), "PORT", how)
			receiver := x.pidSaid(t, "worker")
			sockets := s.watchSockets(t)
			v := s.grow(t, func(i int) {
				s.dial(t, x.port).Close()
				s.awaitWaits(t, i+1, x.port, 1)
				// Accepted, handed over, closed here and received there.
				s.awaitAccepted(t, i+1, x.port)
				awaitAsleep(t, x.pid())
				awaitAsleep(t, receiver)
			})
			blamed, verdict := receiver, "leaking"
			if how == "deaf" {
				blamed, verdict = 0, "suspicious" // nobody; the message may be received yet
			}
			v.demand(t, verdict, accusation{blamed, cause, "in", n})
			for _, socket := range s.seen(t, sockets) {
				socket.checkHandOver(t, x.pid(), receiver, how == "deaf")
				if t.Failed() {
					break // the others say the same
				}
			}
			s.checkList(t, n)
		})
	}
}

// checkHandOver: who accepted let go of it; the receiver has it, or the message.
func (x *sceneSocket) checkHandOver(t *testing.T, opener, receiver int, inFlight bool) {
	t.Helper()
	if o := x.Opener; o == nil || o.Pid != opener || o.Holds == nil || *o.Holds {
		t.Errorf("opener %+v, want pid %d, which holds it no more", o, opener)
	}
	if !inFlight {
		if len(x.Holders) != 1 || x.Holders[0].Pid != receiver || x.InFlight != nil {
			t.Errorf("holders %+v, in flight %+v, want %d alone", x.Holders, x.InFlight, receiver)
		}
		return
	}
	f := x.InFlight
	if len(x.Holders) != 0 || f == nil || f.Where == nil || *f.Where != "message" || len(f.Receivers) != 1 || f.Receivers[0].Pid != receiver {
		t.Errorf("holders %+v, in flight %+v, want a message to %d", x.Holders, f, receiver)
	}
}
