package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// Go listens with MPTCP by default. A client that speaks it makes an MPTCP socket with a
// subflow beside it: one wait, not two, and it has an owner.
func TestScenario16MPTCP(t *testing.T) {
	s := newScene(t)
	s.innocents(t)
	server := s.serving(t, "server", "-do", "forget")
	seen := startUntil(t, `msg="unwind tables"`, "list", "-o", "json", "--syscall-accept", "--for", patience.String(), "--netns", inode(s.ns))
	// One client each, so that one ends after the other.
	v := s.grow(t, func(i int) {
		client := s.play(t, "client", "-n", "1", "-mptcp", server.addr())
		client.said(t, "connected")
		client.do(t, "send")
		if i == 0 && !speaksMPTCP(t, s) {
			testenv.Skip(t, "mptcp", "the connection fell back to TCP")
		}
		client.do(t, "hangup")
		client.leave(t)
		// The kernel's table of TCP shows subflows, which stay established.
		server.said(t, fmt.Sprint("ended ", i+1))
	})
	v.demand(t, "leaking", accusation{server.pid(), "eof_ignored", "in", n})
	if v.SocketsCloseWait != n {
		t.Errorf("%d in CLOSE_WAIT, want %d", v.SocketsCloseWait, n)
	}
	for when, r := range map[string]result{
		"watched": seen.interrupt(t), "now": run(t, "list", "-o", "json", "--netns", inode(s.ns)),
	} {
		sockets := decode[struct {
			Sockets []struct {
				socket
				Protocol string
			}
		}](t, r.want(t, exitClean).stdout).Sockets
		for _, x := range sockets {
			if x.Protocol != "mptcp" || x.Owner.Pid != server.pid() || x.Lport != server.port || x.Cause != "eof_ignored" {
				t.Errorf("%s: %+v", when, x)
			}
		}
		if len(sockets) != n {
			t.Errorf("%s: %d sockets, want %d", when, len(sockets), n)
		}
	}
	checkAgainstMPTCP(t, s, server.port)
}

// speaksMPTCP asks the kernel's counters of the scene.
func speaksMPTCP(t *testing.T, s *scene) bool {
	t.Helper()
	return netstat(t, s, "MPTcpExt", "MPCapableSYNRX") > 0 && netstat(t, s, "MPTcpExt", "MPCapableFallbackSYNACK") == 0
}

// checkAgainstMPTCP: ss has a table of its own for MPTCP sockets.
func checkAgainstMPTCP(t *testing.T, s *scene, port uint16) {
	t.Helper()
	var out []byte
	err := s.ns.Do(func() (err error) {
		out, err = exec.Command(tool(t, "ss"), "-HMan", "state", "close-wait", "sport", "=", fmt.Sprint(port)).Output()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if found := strings.Count(string(out), "\n"); found != n {
		t.Errorf("ss shows %d, want %d:\n%s", found, n, out)
	}
}
