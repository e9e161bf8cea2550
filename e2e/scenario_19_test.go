package e2e

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// Thousands of short connections to one address, closed by the client first, until there is
// no port left for the next one. TIME_WAIT is not the leak people take it for: it holds no
// descriptor. What ends is the budget of ports to that address.
func TestScenario19PortsRunOut(t *testing.T) {
	// The range is made small, so that thousands are enough for all of it; an even number, for
	// of an odd one connect() may leave out the last.
	const low, high = 30000, 32017
	s := newScene(t)
	server := s.serving(t, "server", "-do", "echo", "-listen", "127.0.0.1:20123")
	err := s.ns.Do(func() error {
		return errors.Join(
			sysctl("ip_local_port_range", fmt.Sprintf("%d %d", low, high)),
			// Between two ends on one host TIME_WAIT is reused after a second, unless told not to.
			sysctl("tcp_tw_reuse", "0"),
			// A late reset does not end TIME_WAIT.
			sysctl("tcp_rfc1337", "1"),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	w := startUntil(t, "fact=transitions", "timewait", "-o", "json", "--for", patience.String(), "--netns", inode(s.ns))
	client := s.play(t, "churn", server.addr())
	var made, failed int
	if _, err := fmt.Sscanf(client.said(t, "made "), "%d failed %d", &made, &failed); err != nil {
		t.Fatalf("%v: %s", err, client.output)
	}
	if made != high-low+1 || failed == 0 {
		t.Fatalf("%d connections made with %d ports, %d failed", made, high-low+1, failed)
	}
	s.await(t, made, "in TIME_WAIT", func(r testenv.TCPRow) bool { return r.State == event.TimeWait })

	v := decode[timewaits](t, w.interrupt(t).want(t, exitClean).stdout)
	if v.Kind != "timewait" || v.TimeWait != made {
		t.Errorf("%s: %d in TIME_WAIT, want %d", v.Kind, v.TimeWait, made)
	}
	if len(v.Closers) != 1 || v.Closers[0].Pid != client.pid() || v.Closers[0].ClosedFirst != made || v.Closers[0].PerS <= 0 {
		t.Errorf("active closers %+v, want %d alone, %d times", v.Closers, client.pid(), made)
	}
	// The server's end is a tuple as well, with a port for each: no budget of it is used up.
	found := 0
	for _, b := range v.Budgets {
		if b.Rport != server.port {
			if b.Ratio > 0.5 {
				t.Errorf("budget of nothing: %+v", b)
			}
			continue
		}
		found++
		if b.Netns != s.ns.Inode || b.Raddr != "127.0.0.1" || b.InUse != made || b.Range != high-low+1 {
			t.Errorf("budget %+v, want %d of %d in use", b, made, high-low+1)
		}
		if b.Ratio < 0.99 || b.Ratio > 1 {
			t.Errorf("ratio %v, want 1", b.Ratio)
		}
	}
	if found != 1 {
		t.Errorf("%d budgets to port %d, want 1: %+v", found, server.port, v.Budgets)
	}
	if len(v.Failures) != 1 || v.Failures[0].Pid != client.pid() || v.Failures[0].Rport != server.port || v.Failures[0].N != failed {
		t.Errorf("connect failures %+v, want %d of %d", v.Failures, failed, client.pid())
	}
	checkSysctl(t, v.Sysctls, "net.ipv4.ip_local_port_range", fmt.Sprintf("%d\t%d", low, high))
	checkSysctl(t, v.Sysctls, "net.ipv4.tcp_tw_reuse", "0")
	if len(v.Advice) == 0 {
		t.Error("no advice")
	}
	// TIME_WAIT is nobody's leak.
	s.diagnose(t).demand(t, "clean")
}

// timewaits is the record of timewait as a script reads it.
type timewaits struct {
	Schema, Kind string
	TimeWait     int `json:"time_wait"`
	Closers      []struct {
		Pid         int
		Comm        string
		ClosedFirst int     `json:"closed_first"`
		PerS        float64 `json:"per_s"`
	} `json:"active_closers"`
	Budgets []struct {
		Netns        uint32
		Laddr, Raddr string
		Rport        uint16
		InUse        int `json:"in_use"`
		Range        int
		Ratio        float64
	}
	Failures []struct {
		Pid   int
		Raddr string
		Rport uint16
		N     int
	} `json:"connect_failures"`
	Sysctls map[string]string
	Advice  []string
}

// sysctl sets one of net.ipv4 in the namespace of the calling thread.
func sysctl(name, value string) error {
	return os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0)
}

func checkSysctl(t *testing.T, all map[string]string, name, value string) {
	t.Helper()
	if all[name] != value {
		t.Errorf("%s is %q, want %q", name, all[name], value)
	}
}
