package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// The pictures in docs/states.md are made of testenv.Machine. Here each of its arrows is made
// to happen while tail watches, and tail sees no other.
func TestStateMachine(t *testing.T) {
	w := newNarrow(t)
	tail := start(t, "tail", "-o", "json", "--netns", inode(w.Netns))
	seen := watchArrows(tail)

	w.openAndClose()
	w.closeTogether()
	w.reset()
	want := map[string]bool{}
	for _, a := range testenv.Machine() {
		if !a.Unseen {
			want[arrow(a.Old.String(), a.New.String())] = true
		}
	}
	waitFor(t, func() string {
		for a := range want {
			if !seen.has(a) {
				return a + " was not seen"
			}
		}
		return ""
	})
	w.must(tail.cmd.Process.Signal(unix.SIGINT))
	got := seen.all() // before wait, which reads from there as well
	tail.wait(t).want(t, 0)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), got); diff != "" {
		t.Errorf("the machine and what was seen differ:\n%s", diff)
	}
}

func arrow(from, to string) string { return from + " -> " + to }

// arrows are what tail has told.
type arrows struct {
	mu   sync.Mutex
	told map[string]bool
	done chan struct{}
}

func watchArrows(tail *running) *arrows {
	s := &arrows{told: map[string]bool{}, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		waits := map[string]bool{} // in TIME_WAIT, by cookie
		for dec := json.NewDecoder(tail.stdout); ; {
			var tr struct {
				transition
				Cookie json.Number
			}
			if err := dec.Decode(&tr); err != nil {
				return
			}
			// Where a mini-socket takes over, the end of the full one is no change of the
			// connection.
			takenOver := waits[tr.Cookie.String()] && tr.NewState == "CLOSE"
			waits[tr.Cookie.String()] = tr.NewState == "TIME_WAIT"
			if tr.NewState != "" && !takenOver {
				s.mu.Lock()
				s.told[arrow(tr.OldState, tr.NewState)] = true
				s.mu.Unlock()
			}
		}
	}()
	return s
}

func (s *arrows) has(a string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told[a]
}

// all waits for the end of the output.
func (s *arrows) all() []string {
	<-s.done
	return slices.Sorted(maps.Keys(s.told))
}

// openAndClose: each end closes first once, and a connect() that is refused.
func (w *narrow) openAndClose() {
	first, last := w.serve(loopback, closesFirst), w.serve(loopback, closesSecond)
	w.churn(1, from{}, first, hangUpSecond)
	w.churn(1, from{}, last, hangUpFirst)
	// The client's FIN_WAIT2 is no mini-socket here, for it reads on.
	w.churn(1, from{}, last, func(fd int) error {
		return errors.Join(unix.Shutdown(fd, unix.SHUT_WR), awaitEOF(fd), unix.Close(fd))
	})
	w.awaitClients(last, event.TimeWait, 2)
	w.must(w.Do(func() error {
		l, err := net.Listen("tcp4", "127.0.0.1:7999")
		if err == nil {
			err = l.Close()
		}
		if _, refused := connect(from{}, netip.AddrPortFrom(loopback, 7999)); !errors.Is(refused, unix.ECONNREFUSED) {
			err = errors.Join(err, fmt.Errorf("connect to nobody: %w", refused))
		}
		return err
	}))
}

// closeTogether: a socket that is its own peer opens and closes at the same time as its peer.
func (w *narrow) closeTogether() {
	w.must(w.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		// Out of the range that connect() chooses from.
		self := &unix.SockaddrInet4{Addr: loopback.As4(), Port: 7998}
		return errors.Join(unix.Bind(fd, self), unix.Connect(fd, self), unix.Close(fd))
	}))
}

// reset cuts a connection off in each state that a reset is drawn from.
func (w *narrow) reset() {
	cut := func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() }
	// Not before connect() has returned: it would fail.
	s := w.serve(loopback, func(_ *server, c net.Conn) { _, _ = c.Read(make([]byte, 1)); cut(c) })
	w.churn(1, from{}, s, func(fd int) error {
		_, sent := unix.Write(fd, make([]byte, 1))
		_, err := unix.Read(fd, make([]byte, 1))
		return errors.Join(sent, wantReset(err), unix.Close(fd))
	})
	begin := make(chan bool)
	late := func(_ *server, c net.Conn) { go func() { <-begin; cut(c) }() }
	// FIN_WAIT2 and its peer, CLOSE_WAIT.
	s = w.serve(loopback, late)
	var fd int
	w.churn(1, from{}, s, func(got int) error { fd = got; return unix.Shutdown(fd, unix.SHUT_WR) })
	w.awaitClients(s, event.FinWait2, 1)
	begin <- true
	_, err := unix.Read(fd, make([]byte, 1))
	w.must(errors.Join(wantReset(err), unix.Close(fd)))
	// FIN_WAIT1: the FIN waits behind data that the peer does not read.
	s = w.serve(loopback, late)
	w.churn(1, from{}, s, func(fd int) error {
		_, err := stuff(fd)
		return errors.Join(err, unix.Close(fd))
	})
	w.awaitClients(s, event.FinWait1, 1)
	begin <- true
	w.awaitClients(s, event.FinWait1, 0)
}

func wantReset(err error) error {
	if errors.Is(err, unix.ECONNRESET) {
		return nil
	}
	return fmt.Errorf("want a reset: %w", err)
}
