package e2e

import (
	"fmt"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

const scrape = "GET /metrics HTTP/1.0\r\n\r\n"

// A server that has stopped accepting, and clients that give up (jmx_exporter#352,
// cyrus-imapd#2824).
func TestScenario04AcceptQueue(t *testing.T) {
	t.Parallel()
	// haproxy does not accept beyond its maxconn, and one client stays.
	t.Run("haproxy", func(t *testing.T) {
		t.Parallel()
		const queue = 128
		s := newScene(t)
		server := s.startHaproxy(t, "maxconn 1", fmt.Sprint("backlog ", queue), "http-request return status 200 if { path /metrics }")
		s.hold(t, server)
		v := s.grow(t, func(i int) { s.giveUp(t, server, i+1) })
		v.demand(t, "leaking", accusation{server.pid(), "unaccepted", "in", n})
		s.checkBacklog(t, server, n, queue)
		// Without growth, and with room left in the queue, it is suspicious only.
		s.diagnose(t, "--for", "2s").demand(t, "suspicious", accusation{server.pid(), "unaccepted", "in", n})
	})
	// The JDK's server runs handlers in the thread that accepts, and one hangs. The queue is
	// full: the kernel takes one more than asked for.
	t.Run("java", func(t *testing.T) {
		t.Parallel()
		const queue = n - 1
		s := newScene(t)
		server := s.jvm(t, "Exporter", "PORT", fmt.Sprint(queue))
		s.dialSaying(t, server.port, scrape)
		server.awaitOutput(t, "collecting")
		for i := range n {
			s.giveUp(t, server, i+1)
		}
		waitStuck()
		v := s.diagnose(t)
		v.demand(t, "leaking", accusation{server.pid(), "unaccepted", "in", n})
		s.checkBacklog(t, server, n, queue)
		if !v.of(t, server.pid()).stands("Exporter.collect") {
			t.Errorf("no thread stands in Exporter.collect: %+v", v.of(t, server.pid()).Threads)
		}
	})
}

// dialSaying connects and writes, and waits for nothing.
func (s *scene) dialSaying(t *testing.T, port uint16, text string) *client {
	t.Helper()
	c := s.dial(t, port)
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return c
}

// hold makes the one connection that is accepted.
func (s *scene) hold(t *testing.T, x *target) {
	t.Helper()
	s.dialSaying(t, x.port, "GET /metr")
	s.await(t, 1, "accepted and read", func(r testenv.TCPRow) bool {
		return r.Lport == x.port && r.State == event.Established && r.Inode != 0 && r.RecvQ == 0
	})
}

// giveUp is the count-th client that asks and goes away.
func (s *scene) giveUp(t *testing.T, x *target, count int) {
	t.Helper()
	s.dialSaying(t, x.port, scrape).Close()
	s.awaitWaits(t, count, x.port, uint32(len(scrape)+1))
}

// checkBacklog: every socket names the listener and its queue.
func (s *scene) checkBacklog(t *testing.T, x *target, length, limit int) {
	t.Helper()
	s.checkList(t, n)
	for _, socket := range s.list(t) {
		l := socket.Listener
		switch {
		case socket.Cause != "unaccepted" || socket.RecvQ != uint32(len(scrape)+1) || l == nil || l.Pid != x.pid():
			t.Errorf("%d to %d: cause %s, Recv-Q %d, listener %+v, want unaccepted, %d, pid %d",
				socket.Lport, socket.Rport, socket.Cause, socket.RecvQ, l, len(scrape)+1, x.pid())
		case l.QueueLen == nil || *l.QueueLen != length || l.QueueMax == nil || *l.QueueMax != limit:
			t.Errorf("%d to %d: the queue is not said to hold %d of %d: %+v", socket.Lport, socket.Rport, length, limit, l)
		}
	}
}

// stands: at least one thread of the process stands in a function.
func (p *suspect) stands(function string) bool { return p.threadsIn(function) > 0 }

// threadsIn counts the threads that stand in a function.
func (p *suspect) threadsIn(function string) (count int) {
	for _, threads := range p.Threads {
		if matches(threads.Frames, []string{anything, function}) {
			count += threads.N
		}
	}
	return count
}
