package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// verdictOn is what list must say of every socket of a deed: whom it blames (0 nobody, else
// the first, second … pid the deed names) and for what.
type verdictOn struct {
	cause  string
	blamed int
}

// deeds are the ways of testdata/hard/doer.py to hand a descriptor about. Each was watched,
// and is looked at again by a tcpwaitd that has seen nothing of it.
var deeds = []struct {
	name string
	// sysctls of the scene, below net.ipv4.
	sysctls         map[string]string
	watched, unseen verdictOn
	// holders is how many descriptors each socket has, opener whether who accepted has one.
	holders int
	opener  bool
}{
	{"dup", nil, verdictOn{"eof_ignored", 1}, verdictOn{"eof_ignored", 1}, 2, true},
	{"fork_both", nil, verdictOn{"eof_ignored", 1}, verdictOn{"eof_ignored", 0}, 2, true},
	{"fork_serves", nil, verdictOn{"held_elsewhere", 1}, verdictOn{"unread_eof", 1}, 1, true},
	{"execs", nil, verdictOn{"unread_data", 1}, verdictOn{"unread_data", 1}, 1, true},
	{"private_table", nil, verdictOn{"eof_ignored", 1}, verdictOn{"eof_ignored", 1}, 1, true},
	{"getfd", nil, verdictOn{"held_elsewhere", 1}, verdictOn{"unread_data", 1}, 1, false},
	{"sockmap", nil, verdictOn{"eof_ignored", 1}, verdictOn{"eof_ignored", 1}, 1, true},
	// 0x207: client and server, no cookie asked for by either.
	{"fastopen", map[string]string{"tcp_fastopen": "519"}, verdictOn{"eof_ignored", 1}, verdictOn{"eof_ignored", 1}, 1, true},
}

func TestHardDescriptors(t *testing.T) {
	for _, d := range deeds {
		t.Run(d.name, func(t *testing.T) {
			s := newScene(t)
			for name, value := range d.sysctls {
				s.sysctl(t, name, value)
			}
			w := s.watchSockets(t)
			x := s.act(t, d.name)
			pid := x.pids(t, func() {
				s.hangUpAll(t, x, hangUp{fastopen: d.name == "fastopen", afterRead: d.name == "fork_serves"})
			})[0]
			s.awaitWaitsAt(t, n, x.port)

			for look, sockets := range map[string][]sceneSocket{"watched": s.seen(t, w), "unseen": s.list(t)} {
				want := map[string]verdictOn{"watched": d.watched, "unseen": d.unseen}[look]
				wanted := blame{[]int{0, pid}[want.blamed], want.cause}
				if len(sockets) != n {
					t.Errorf("%s: %d sockets, want %d", look, len(sockets), n)
				}
				for _, c := range sockets {
					if got := (blame{c.Owner.Pid, c.Cause}); got != wanted || len(c.Holders) != d.holders {
						t.Errorf("%s: %v by %s, %d holders; want %v, %d holders", look, got, c.Owner.Evidence, len(c.Holders), wanted, d.holders)
						break
					}
				}
				if look == "watched" && sees(t).accepts {
					checkOpeners(t, sockets, d.opener)
				}
			}
		})
	}
}

func checkOpeners(t *testing.T, sockets []sceneSocket, holds bool) {
	t.Helper()
	for _, c := range sockets {
		if c.Opener == nil || c.Opener.Holds == nil || *c.Opener.Holds != holds {
			t.Errorf("opener %+v, want one that holds: %v", c.Opener, holds)
			return
		}
	}
}

// The program that runs now has the name, not the one that accepted.
func TestHardExecHasItsNewName(t *testing.T) {
	s := newScene(t)
	x := s.act(t, "execs")
	pid := x.pids(t, func() { s.hangUpAll(t, x, hangUp{}) })[0]
	waitFor(t, func() string {
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(comm) != "sleep\n" {
			return fmt.Sprintf("pid %d is still %s", pid, comm)
		}
		return ""
	})
	for _, p := range s.diagnose(t).Processes {
		if p.Pid != pid || p.Comm != "sleep" {
			t.Errorf("pid %d %q, want pid %d sleep", p.Pid, p.Comm, pid)
		}
	}
}

// Of five listeners that share a port only the one in whose queue the kernel put the
// connection is blamed.
func TestHardReuseport(t *testing.T) {
	s := newScene(t)
	x := s.act(t, "reuseport")
	pid := x.pids(t, nil)[0]
	const clients = 97 // of 97 hashes none falls on one of five once in 2.5e9 runs
	for range clients {
		if err := s.dial(t, x.port).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	// The four good ones have closed theirs when all that waits is in one queue, the bad one's,
	// and nothing is on its way to another.
	waiting := 0
	waitFor(t, func() string {
		waits, queued, queues, others := 0, 0, 0, 0
		for _, r := range testenv.TCPTable(t, s.ns.Path) {
			switch {
			case r.Lport != x.port:
			case r.State == event.CloseWait:
				waits++
			case r.State == event.Established || r.State == event.SynRecv:
				others++
			case r.State == event.Listen && r.RecvQ > 0:
				queues++
				queued += int(r.RecvQ)
			}
		}
		if waiting = waits; waits == queued && queues == 1 && others == 0 && waits < clients {
			return ""
		}
		return fmt.Sprintf("%d in CLOSE_WAIT, %d in %d accept queues, %d on the way", waits, queued, queues, others)
	})
	s.checkUnaccepted(t, x.port, pid, waiting)
}

// A listener that ends leaves its accept queue to another one, if the host is set so.
func TestHardMigration(t *testing.T) {
	s := newScene(t)
	s.sysctl(t, "tcp_migrate_req", "1")
	x := s.act(t, "migrate")
	x.awaitOutput(t, "go")
	for range n {
		if err := s.dial(t, x.port).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	s.awaitWaitsAt(t, n, x.port)
	pid := x.pids(t, func() {
		if _, err := io.WriteString(x.stdin, "\n"); err != nil {
			t.Fatal(err)
		}
	})[0]
	s.awaitWaitsAt(t, n, x.port)
	s.checkUnaccepted(t, x.port, pid, n)
}

func (s *scene) checkUnaccepted(t *testing.T, port uint16, pid, count int) {
	t.Helper()
	sockets := s.list(t, "-L", fmt.Sprint(port))
	if len(sockets) != count {
		t.Errorf("%d sockets, want %d", len(sockets), count)
	}
	for _, c := range sockets {
		if c.Owner.Pid != pid || c.Cause != "unaccepted" || c.Listener == nil || c.Listener.QueueLen == nil || *c.Listener.QueueLen != count {
			t.Errorf("pid %d %s, listener %+v; want pid %d with %d in its queue", c.Owner.Pid, c.Cause, c.Listener, pid, count)
			break
		}
	}
}

// doer is a running testdata/hard/doer.py.
type doer struct {
	*target
	stdin io.Writer
}

func (s *scene) act(t *testing.T, deed string) *doer {
	t.Helper()
	// The doer listens no more when it has accepted all, and where nobody does, kernels before 6.17
	// leave out a bucket of their table.
	s.listen(t)
	port := s.port()
	cmd := exec.Command(tool(t, "python3"), source(t, filepath.Join("..", "hard", "doer.py")), deed, fmt.Sprint(port), fmt.Sprint(n))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	x := s.start(t, cmd)
	x.port = port
	if deed != "migrate" && deed != "reuseport" {
		s.awaitListener(t, x)
	}
	x.awaitOutput(t, "ready")
	return &doer{x, stdin}
}

// pids lets the deed be done: before is what the clients do for it.
func (x *doer) pids(t *testing.T, before func()) []int {
	t.Helper()
	if before != nil {
		before()
	}
	x.awaitOutput(t, "done ")
	line := ""
	waitFor(t, func() string {
		_, after, _ := strings.Cut(x.output.String(), "done ")
		whole := false
		if line, _, whole = strings.Cut(after, "\n"); whole {
			return ""
		}
		return "no pids: " + x.output.String()
	})
	var pids []int
	for _, word := range strings.Fields(line) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// hangUp is how clients end. afterRead: only when all they sent was read, or else whoever reads
// late takes the FIN with it.
type hangUp struct{ fastopen, afterRead bool }

// hangUpAll makes n connections with two bytes of data and shuts them down on our side, once
// all were accepted and the doer lets us.
func (s *scene) hangUpAll(t *testing.T, x *doer, how hangUp) {
	t.Helper()
	port := x.port
	var conns []interface{ CloseWrite() error }
	for range n {
		if how.fastopen {
			conns = append(conns, s.dialFast(t, port))
			continue
		}
		c := s.dial(t, port)
		if _, err := io.WriteString(c, "hi"); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	s.await(t, 2*n, "are connected and accepted", func(r testenv.TCPRow) bool {
		return (r.Lport == port || r.Rport == port) && (r.State == event.Established || r.State == event.CloseWait) && r.Inode != 0 &&
			(!how.afterRead || r.SendQ == 0)
	})
	if how.afterRead {
		// All has arrived, for it is acknowledged; before, Recv-Q would be empty, too.
		s.await(t, 2*n, "have nothing unread", func(r testenv.TCPRow) bool {
			return (r.Lport == port || r.Rport == port) && r.Inode != 0 && r.RecvQ == 0
		})
	}
	x.awaitOutput(t, "go\n")
	for _, c := range conns {
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitWaitsAt is awaitWaits with whatever Recv-Q.
func (s *scene) awaitWaitsAt(t *testing.T, count int, port uint16) {
	t.Helper()
	s.await(t, count, fmt.Sprintf("in CLOSE_WAIT at port %d", port), func(r testenv.TCPRow) bool {
		return r.State == event.CloseWait && r.Lport == port
	})
}

// fast is a connection whose first data went with the SYN.
type fast int

func (f fast) CloseWrite() error { return unix.Shutdown(int(f), unix.SHUT_WR) }

func (s *scene) dialFast(t *testing.T, port uint16) fast {
	t.Helper()
	fd := -1
	err := s.ns.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		to := &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}}
		return unix.Sendto(fd, []byte("hi"), unix.MSG_FASTOPEN, to)
	})
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err != nil {
		t.Fatalf("connect with data: %v", err)
	}
	return fast(fd)
}

// sysctl sets one of net.ipv4 in the scene.
func (s *scene) sysctl(t *testing.T, name, value string) {
	t.Helper()
	err := s.ns.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o644)
	})
	if err != nil {
		t.Fatalf("set %s: %v", name, err)
	}
}
