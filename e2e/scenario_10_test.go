package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A client shuts down its side and is streamed to for long (envoy#2066): legitimate, and
// never flagged while bytes flow. It is flagged when the stream has stalled.
func TestScenario10HalfClose(t *testing.T) {
	t.Parallel()
	t.Run("python", func(t *testing.T) {
		t.Parallel()
		s := newScene(t)
		x := s.serve(t, python(t), source(t, program("stream.py")), "PORT")
		stall := func() {
			if err := unix.Kill(x.pid(), unix.SIGUSR1); err != nil {
				t.Fatal(err)
			}
		}
		s.halfClosed(t, x, "hi\n", stall, "eof_ignored", 0)
	})
	// Through a proxy, from a server that answers for ever. When haproxy has the request, it
	// looks at its client no more.
	t.Run("haproxy", func(t *testing.T) {
		t.Parallel()
		s := newScene(t)
		var dry atomic.Bool
		listener, port := s.listen(t)
		go serveStream(listener, &dry)
		x := s.startHaproxy(t, "", "", fmt.Sprintf("server upstream 127.0.0.1:%d", port))
		request := "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
		s.halfClosed(t, x, request, func() { dry.Store(true) }, "unread_eof", 1)
	})
}

// serveStream answers every request with a stream, until it is dry.
func serveStream(l net.Listener, dry *atomic.Bool) {
	_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			time.Sleep(50 * time.Millisecond)
			if dry.Load() {
				continue
			}
			fmt.Fprintln(w, "tick")
			w.(http.Flusher).Flush()
		}
	}))
}

// flowThreshold: a loaded machine may well hold up a stream of 20 lines a second for one
// second, not for that long.
const flowThreshold = 5 * time.Second

// halfClosed: n streams flow and are clean, then stall and wait for a cause.
func (s *scene) halfClosed(t *testing.T, x *target, request string, stall func(), cause string, recvQ uint32) {
	t.Helper()
	var streams [n]counter
	for i := range streams {
		c := s.dialSaying(t, x.port, request)
		if err := c.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		c.say(t, "") // the stream has begun
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(&streams[i], c) }()
	}
	s.awaitWaits(t, n, x.port, recvQ)
	// Each brings more than it has brought until now.
	flowing := func() {
		t.Helper()
		var had [n]int64
		for i := range streams {
			had[i] = streams[i].Load()
		}
		for i := range streams {
			waitFor(t, func() string {
				if streams[i].Load() > had[i] {
					return ""
				}
				return "a stream does not flow"
			})
		}
	}
	flowing()
	began := time.Now()
	for looked := 0; looked < 5 || time.Since(began) < 2*flowThreshold; looked++ {
		for _, watch := range []string{"0", "1s"} {
			v := s.diagnose(t, "--for", watch, "--threshold", flowThreshold.String())
			v.demand(t, "clean", accusation{x.pid(), "half_close", "in", n})
			flowing()
		}
	}
	s.checkList(t, n)
	stall()
	var v *judged
	waitFor(t, func() string {
		v = s.diagnose(t)
		if v.Verdict != "clean" && v.of(t, x.pid()).Stuck == n {
			return ""
		}
		return fmt.Sprintf("stalled and not flagged: %v", v)
	})
	v.demand(t, "suspicious", accusation{x.pid(), cause, "in", n})
	s.checkList(t, n)
}

// counter counts the bytes of a stream.
type counter struct{ atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.Add(int64(len(p)))
	return len(p), nil
}
