package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// Who starts tcpwaitd in the middle of an incident is told of the same culprits as who
// watched it come; ages are lower bounds, and never above the truth.
func TestScenario14StartedMidIncident(t *testing.T) {
	s := newScene(t)
	s.innocents(t)
	watching := s.watch(t)
	// Three kinds of leaks, with a client each.
	kinds := map[string]struct{ role, sends string }{
		"eof_ignored": {"forget", "send"}, "unread_data": {"deaf", "send"}, "unread_eof": {"deaf", ""},
	}
	var want []accusation
	type span struct{ before, after int64 }
	ended := map[uint16]span{}
	for cause, kind := range kinds {
		server := s.serving(t, "server", "-do", kind.role)
		client := s.play(t, "client", "-n", fmt.Sprint(n), server.addr())
		client.said(t, "connected")
		if kind.sends != "" {
			client.do(t, kind.sends)
		}
		e := span{before: monotonic()}
		client.do(t, "hangup")
		e.after = monotonic()
		ended[server.port] = e
		want = append(want, accusation{server.pid(), cause, "in", n})
		s.awaitWaits(t, n, server.port, map[string]uint32{"eof_ignored": 0, "unread_data": 8, "unread_eof": 1}[cause])
	}
	time.Sleep(2 * sceneThreshold)

	asked := monotonic()
	sockets := s.list(t)
	answered := monotonic()
	for _, x := range sockets {
		truth, ok := ended[x.Lport]
		if !ok || x.DwellNS == nil || x.DwellBound != "at_least" {
			t.Errorf("age %v is %q, want at_least: %+v", x.DwellNS, x.DwellBound, x)
			continue
		}
		age := time.Duration(*x.DwellNS)
		if most := time.Duration(answered - truth.before); age > most {
			t.Errorf("age %v is above the truth %v", age, most)
		}
		if least := time.Duration(asked - truth.after); age < least-time.Second {
			t.Errorf("age %v is far below the truth %v", age, least)
		}
	}
	if len(sockets) != 3*n {
		t.Errorf("%d sockets, want %d", len(sockets), 3*n)
	}
	s.checkList(t, 3*n)

	// The watcher and the latecomers, all at the same time.
	s.diagnose(t).demand(t, "suspicious", want...)
	s.diagnose(t, "--for", "1s").demand(t, "suspicious", want...)
	v := s.judge(t, watching)
	v.demand(t, "suspicious", want...)
	if rows := testenv.SS(t, s.ns.Path); len(rows) != 3*n {
		t.Errorf("ss shows %d, want %d", len(rows), 3*n)
	}
}
