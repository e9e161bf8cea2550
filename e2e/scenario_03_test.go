package e2e

import (
	"fmt"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// A pool of idle connections whose server goes first (go-redis#2447, and much written
// about HttpClient): bounded, so suspicious and never leaking.
func TestScenario03IdlePool(t *testing.T) {
	t.Parallel()
	// nginx's keepalive_timeout ends them, before anybody looks.
	t.Run("http.client", func(t *testing.T) {
		t.Parallel()
		s := newScene(t)
		server := s.startNginx(t, "keepalive_timeout 1s;")
		pool := s.start(t, exec.Command(python(t), source(t, program("pool.py")), fmt.Sprint(server.port), fmt.Sprint(n)))
		s.plateau(t, pool, server.port, "0", "3s")
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		s := newScene(t)
		server := s.serve(t, tool(t, "redis-server"), "--bind", "127.0.0.1", "--port", "PORT", "--save", "",
			"--daemonize", "no", "--dir", t.TempDir(), "--timeout", "1")
		pool := s.start(t, exec.Command(python(t), source(t, program("redispool.py")), fmt.Sprint(server.port), fmt.Sprint(n)))
		s.plateau(t, pool, server.port, "0", "3s")
	})
	// Node's agent notices unless its loop is blocked. The server is reloaded while we watch:
	// all connections end at once.
	t.Run("node", func(t *testing.T) {
		t.Parallel()
		s := newScene(t)
		server := s.startNginx(t, "keepalive_timeout 1h;")
		pool := s.start(t, exec.Command(tool(t, "node"), source(t, program("pool.js")), fmt.Sprint(server.port), fmt.Sprint(n)))
		pool.awaitOutput(t, "idle")
		w := s.watch(t)
		if err := unix.Kill(server.pid(), unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		s.awaitWaits(t, n, server.port, 1)
		waitStuck()
		v := s.judge(t, w)
		v.demand(t, "suspicious", accusation{pool.pid(), "unread_eof", "out", n})
		// Its agent has TCP keepalive on, and each probe hides the age from who has not watched.
		s.plateau(t, pool, server.port, "3s")
	})
}

// plateau: the pool's connections are n, and no more come.
func (s *scene) plateau(t *testing.T, pool *target, port uint16, watches ...string) {
	t.Helper()
	pool.awaitOutput(t, "idle")
	s.awaitWaits(t, n, port, 1)
	waitStuck()
	for _, watch := range watches {
		v := s.diagnose(t, "--for", watch)
		v.demand(t, "suspicious", accusation{pool.pid(), "unread_eof", "out", n})
		if stuck := v.of(t, pool.pid()).Stuck; stuck != n {
			t.Errorf("--for %s: %d stuck, want %d", watch, stuck, n)
		}
	}
	s.checkList(t, n)
}
