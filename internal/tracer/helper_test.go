package tracer

import (
	"context"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// n is prime, so that a lost or doubled socket shows.
const n = 23

// patience bounds waiting for a fact; slow emulated machines need most of it.
const patience = 60 * time.Second

// openIn opens a tracer that sees only ns.
func openIn(t *testing.T, ns *testenv.Netns, cfg Config) *Tracer {
	t.Helper()
	testenv.RequireRoot(t)
	inode := ns.Inode
	cfg.Filter.Netns = []uint32{inode}
	tr, err := Open(cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return tr
}

// collect runs the tracer until enough is true or patience ends.
func collect(t *testing.T, tr *Tracer, enough func([]event.Transition) bool) []event.Transition {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var got []event.Transition
	err := tr.Run(ctx, func(e *event.Transition) error {
		got = append(got, *e)
		return nil
	}, func() error {
		if enough(got) {
			cancel()
		}
		return nil
	})
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	if !enough(got) {
		t.Fatalf("after %v: not what was waited for in %d transitions", patience, len(got))
	}
	return got
}

// pair is one connection, both ends in this process.
type pair struct{ client, server net.Conn }

// listen makes a plain TCP listener inside ns.
func listen(t *testing.T, ns *testenv.Netns, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	err := ns.Do(func() (err error) {
		var lc net.ListenConfig
		// Since Go 1.24 the default is MPTCP.
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(t.Context(), "tcp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// connect makes count established connections to l.
func connect(t *testing.T, ns *testenv.Netns, l net.Listener, count int) []pair {
	t.Helper()
	var pairs []pair
	for range count {
		var p pair
		err := ns.Do(func() (err error) {
			p.client, err = net.Dial("tcp", l.Addr().String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if p.server, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.client.Close(); p.server.Close() })
		pairs = append(pairs, p)
	}
	return pairs
}

// churn makes and ends count connections; the client closes first.
func churn(t *testing.T, ns *testenv.Netns, l net.Listener, count int) {
	t.Helper()
	for _, p := range connect(t, ns, l, count) {
		p.client.Close()
		var b [1]byte
		if _, err := p.server.Read(b[:]); err == nil {
			t.Fatal("read: data from nowhere")
		}
		p.server.Close()
	}
}

// byCookie groups transitions by socket, in order.
func byCookie(all []event.Transition) map[event.Cookie][]event.Transition {
	m := map[event.Cookie][]event.Transition{}
	for _, e := range all {
		m[e.Cookie] = append(m[e.Cookie], e)
	}
	return m
}

// path lists the states a socket went through.
func path(of []event.Transition) []event.State {
	states := []event.State{of[0].Old}
	for _, e := range of {
		if e.New != event.TimeWait {
			states = append(states, e.New)
		}
	}
	return states
}

// awaitCloseWait waits until the peer of a client has its FIN, which ksoftirqd can deliver after the
// call that sent it.
func awaitCloseWait(t *testing.T, ns *testenv.Netns, client uint16) {
	t.Helper()
	awaitTable(t, ns, "are told of the end", func(r testenv.TCPRow) bool {
		return r.State == event.CloseWait && r.Rport == client
	}, 1)
}

func count[T any](list []T, ok func(*T) bool) int {
	var c int
	for i := range list {
		if ok(&list[i]) {
			c++
		}
	}
	return c
}

func entersCloseWait(e *event.Transition) bool { return e.New == event.CloseWait }
func leavesCloseWait(e *event.Transition) bool { return e.Old == event.CloseWait }

func attached(tr *Tracer, fact string) string {
	for _, h := range tr.Hooks() {
		if h.Fact == fact && h.Attached {
			return h.Kind
		}
	}
	return ""
}

// inVM: design demands every first choice of the hook table of these kernels.
func inVM() bool { return os.Getenv("TCPWAITD_VM") == "1" }

// seesReads: before 6.3 reads are seen by fexit only, which Debian's 6.1 for arm64 does not
// attach.
func seesReads() bool { return !inVM() || runtime.GOARCH == "amd64" }

func cookies(list []event.Socket) []event.Cookie {
	var c []event.Cookie
	for i := range list {
		c = append(c, list[i].Cookie)
	}
	slices.Sort(c)
	return c
}
