package e2e

import (
	"strings"
	"testing"
)

// The handler sees the end and forgets the socket. The same server without the bug runs
// beside it under the same load.
func TestScenario01EOFForgotten(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]struct {
		start func(t *testing.T, s *scene) *target
		eof   []string
	}{
		"c": {func(t *testing.T, s *scene) *target {
			t.Helper()
			return s.serve(t, s.compile(t, "gcc", program("forgetful.c"), "forgetful"), "PORT")
		}, []string{"read", "read_line", "handle_session", "main"}},
		"python": {func(t *testing.T, s *scene) *target {
			t.Helper()
			return s.serve(t, python(t), source(t, program("forgetful.py")), "PORT")
		}, []string{"recv", anything, "handle_session", anything, "<module>"}},
		"go": {func(t *testing.T, s *scene) *target {
			t.Helper()
			return s.serve(t, s.gobuild(t, "goserver", "goserver"), "127.0.0.1:PORT")
		}, []string{anything, "net.(*conn).Read", "main.leakHandler", "main.acceptLoop"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			good := s.serve(t, s.compile(t, "gcc", program("forgetful.c"), "forgetful"), "PORT", "close")
			x := bad.start(t, s)
			v := s.grow(t, func(i int) {
				c := s.dial(t, x.port)
				c.say(t, "hi\n")
				c.Close()
				s.awaitWaits(t, i+1, x.port, 0) // it was told of the end
				c = s.dial(t, good.port)
				c.say(t, "hi\n")
				c.hangUp(t)
				s.awaitWaits(t, 0, good.port, 0)
			})
			v.demand(t, "leaking", accusation{x.pid(), "eof_ignored", "in", n})
			v.of(t, x.pid()).shows(t, n, want{slot: "eof", frames: bad.eof})
			s.checkList(t, n)
		})
	}
}

// python is the distribution's, which is there whatever else is installed.
func python(t *testing.T) string {
	t.Helper()
	return tool(t, "/usr/bin/python3")
}

// jvm runs a class of testdata/scenarios.
func (s *scene) jvm(t *testing.T, class string, args ...string) *target {
	t.Helper()
	tool(t, "javac")
	s.once(t, class+".class", func(string) error {
		return command("javac", "-d", s.dir, source(t, program(class+".java")))
	})
	return s.serve(t, tool(t, "java"), append(strings.Fields("-Xshare:auto -XX:TieredStopAtLevel=1 -cp "+s.dir+" "+class), args...)...)
}
