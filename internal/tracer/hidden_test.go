package tracer

import (
	"os"
	"slices"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// Where nobody listens, before 6.17, the kernel's pass shows none of these connections.
func TestNobodyListens(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetnsOfOneBucket(t)
	c := hold(t, ns, n)
	if err := c.listener.Close(); err != nil {
		t.Fatal(err)
	}
	closeAll(t, c.servers)
	for _, conn := range c.clients {
		readEOF(t, conn)
	}
	// A socket with two descriptors is one socket.
	again, err := c.clients[0].File()
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for name, cfg := range map[string]Config{"once": {}, "live": {Live: true}} {
		t.Run(name, func(t *testing.T) {
			snap := waits(t, openIn(t, ns, cfg))
			if len(snap.Sockets) != n {
				t.Errorf("%d waits found, want %d", len(snap.Sockets), n)
			}
			found := cookies(snap.Sockets)
			// Holders are the host's.
			held := count(snap.Holders, func(h *event.Holder) bool {
				_, ours := slices.BinarySearch(found, h.Cookie)
				return ours && h.Pid == uint32(os.Getpid())
			})
			if held != n+1 {
				t.Errorf("%d descriptors found, want %d", held, n+1)
			}
			for i := range snap.Sockets {
				if s := &snap.Sockets[i]; s.State != event.CloseWait || s.Flow.Netns != ns.Inode || !s.Baseline {
					t.Errorf("%+v", s)
				}
			}
		})
	}
}
