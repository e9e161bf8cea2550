package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// A two-way proxy with a copy loop for each direction hands the end of one side on to the
// other side, and keeps both sockets until that one ends too (kubernetes#14641,
// linkerd2#5180). Where it never does, each connection leaves FIN_WAIT2 at one end and
// CLOSE_WAIT at the other, twice: between client and proxy and between proxy and server. Of
// each pair one end waits and one is waited for.
func TestScenario11TwoWayProxy(t *testing.T) {
	for _, name := range []string{"go", "socat"} {
		t.Run(name, func(t *testing.T) { twoWayProxy(t, name) })
	}
}

func twoWayProxy(t *testing.T, name string) {
	t.Helper()
	s := newScene(t)
	s.innocents(t)
	server := s.serving(t, "server", "-do", "forget")
	var port uint16
	if name == "socat" {
		// A process for each connection.
		port = s.serve(t, tool(t, "socat"), "-t", "3600", "TCP4-LISTEN:PORT,fork,reuseaddr", "TCP4:"+server.addr()).port
	} else {
		port = s.serving(t, "proxy", server.addr()).port
	}
	w := s.watchSockets(t)
	v := s.watch(t)
	client := s.play(t, "client", "-n", fmt.Sprint(n), fmt.Sprint("127.0.0.1:", port))
	client.said(t, "connected")
	client.do(t, "send")
	client.do(t, "shutwr")
	s.awaitWaits(t, n, port, 0)
	s.awaitWaits(t, n, server.port, 0)

	// Whoever holds the proxy's ends according to ss.
	proxies := map[int]bool{}
	for _, row := range testenv.SS(t, s.ns.Path) {
		if row.Local.Port() == port {
			for _, u := range row.Users {
				proxies[int(u.Pid)] = true
			}
		}
	}
	if want := map[string]int{"go": 1, "socat": n}[name]; len(proxies) != want {
		t.Fatalf("%d processes hold the proxy's ends, want %d", len(proxies), want)
	}
	time.Sleep(sceneThreshold)
	judged := s.judge(t, v)
	want := []accusation{{server.pid(), "eof_ignored", "in", n}}
	for pid := range proxies {
		want = append(want, accusation{pid, "eof_ignored", "in", n / len(proxies)})
	}
	judged.demand(t, "suspicious", want...)
	if judged.SocketsCloseWait != 2*n {
		t.Errorf("%d in CLOSE_WAIT, want %d", judged.SocketsCloseWait, 2*n)
	}

	// Both ends as one story: the end that waits knows the one that is waited for, and that
	// one is no wait of its own.
	for when, sockets := range map[string][]sceneSocket{"watched": s.seen(t, w), "now": s.list(t)} {
		at := map[uint16]int{}
		for _, x := range sockets {
			at[x.Lport]++
			switch {
			case x.Peer == nil || x.Peer.State != event.FinWait2.String():
				t.Errorf("%s: peer %+v of port %d, want it in FIN_WAIT2", when, x.Peer, x.Lport)
			case x.Lport == port && x.Peer.Pid != client.pid():
				t.Errorf("%s: peer %+v of the proxy, want the client %d", when, x.Peer, client.pid())
			case x.Lport == server.port && !proxies[x.Peer.Pid]:
				t.Errorf("%s: peer %+v of the server, want a proxy of %v", when, x.Peer, proxies)
			}
		}
		if at[port] != n || at[server.port] != n || len(sockets) != 2*n {
			t.Errorf("%s: %v waits by port, want %d at the proxy and %d at the server", when, at, n, n)
		}
	}
	s.checkList(t, 2*n)
	if slices.ContainsFunc(judged.Processes, func(p suspect) bool { return p.Pid == client.pid() }) {
		t.Errorf("the client is accused, which ended its side: %s", judged.stdout)
	}
}
