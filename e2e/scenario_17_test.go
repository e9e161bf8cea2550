package e2e

import (
	"fmt"
	"os/exec"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// A leak in another network namespace and control group is found from the host, which is told
// both. Nothing names the namespace to tcpwaitd.
func TestScenario17OtherNamespace(t *testing.T) {
	s := newScene(t)
	s.innocents(t)
	// By the tool people use, which moves the program into the namespace itself.
	ip := tool(t, "ip")
	server := playBy(t, []string{"server", "-do", "forget"}, func(t *testing.T, cmd *exec.Cmd) *target {
		t.Helper()
		cmd.Path, cmd.Args = ip, append([]string{ip, "netns", "exec", s.ns.Name}, append([]string{cmd.Path}, cmd.Args[1:]...)...)
		return s.start(t, cmd)
	})
	server.readPort(t)
	client := s.play(t, "client", "-n", fmt.Sprint(n), server.addr())
	client.said(t, "connected")
	client.do(t, "send")
	client.do(t, "hangup")
	s.awaitWaits(t, n, server.port, 0)

	for name, filter := range map[string][]string{
		"pid":    {"-p", fmt.Sprint(server.pid())},
		"cgroup": {"--cgroup", s.cgroup.Path, "--comm", "actor"},
		"name":   {"--netns", s.ns.Name},
	} {
		r := run(t, append([]string{"list", "-o", "json"}, filter...)...).want(t, exitClean)
		sockets := decode[struct {
			Sockets []struct {
				sceneSocket
				NetnsName string `json:"netns_name"`
			}
		}](t, r.stdout).Sockets
		for i := range sockets {
			x := &sockets[i]
			if x.Netns != s.ns.Inode || x.NetnsName != s.ns.Name || x.Cgroup != s.cgroup.Path ||
				x.Owner.Pid != server.pid() || x.Cause != "eof_ignored" {
				t.Errorf("by %s: netns %d (%s), cgroup %s, %s of pid %d; want netns %d (%s), cgroup %s, pid %d",
					name, x.Netns, x.NetnsName, x.Cgroup, x.Cause, x.Owner.Pid, s.ns.Inode, s.ns.Name, s.cgroup.Path, server.pid())
				break
			}
		}
		if len(sockets) != n {
			t.Errorf("by %s: %d sockets, want %d", name, len(sockets), n)
		}
	}
	r := run(t, "diagnose", "-o", "json", "--for", "0", "--threshold", "1ms", fmt.Sprint(server.pid()))
	judgement(t, r).demand(t, "suspicious", accusation{server.pid(), "eof_ignored", "in", n})
	s.checkList(t, n)
	if rows := testenv.SS(t, s.ns.Path); len(rows) != n {
		t.Errorf("ss shows %d, want %d", len(rows), n)
	}
}
