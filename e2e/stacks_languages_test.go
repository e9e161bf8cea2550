package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

func (l *lab) golang(t *testing.T) {
	t.Helper()
	for name, flags := range map[string][]string{"plain": nil, "stripped": {"-ldflags=-s -w"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := l.gobuild(t, "goserver", "goserver-"+name, flags...)
			web := l.port()
			x := l.serve(t, path, "127.0.0.1:PORT", fmt.Sprint("127.0.0.1:", web))
			eventually(t, l.talks(t, x, "hi\n"),
				want{slot: "open", frames: []string{
					anything, "syscall.accept4", "syscall.Accept4", "internal/poll.accept", "internal/poll.(*FD).Accept",
					"net.(*netFD).accept", anything, "main.acceptLoop", anything, "runtime.goexit",
				}, user: "main.acceptLoop"},
				want{slot: "eof", frames: []string{
					anything, "syscall.read", anything, "internal/poll.(*FD).Read", "net.(*netFD).Read", "net.(*conn).Read", "main.leakHandler",
				}, user: "main.leakHandler"})
			l.awaitListener(t, &target{cmd: x.cmd, port: web, ended: x.ended, output: x.output})
			eventually(t, func() stacks { return l.talk(t, web, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") },
				want{slot: "close", frames: []string{
					anything, "net.(*conn).Close", "net/http.(*conn).close", anything, "net/http.(*conn).serve",
				}})
		})
	}
	t.Run("cgo", func(t *testing.T) {
		t.Parallel()
		tool(t, "gcc")
		upstream, came := l.answering(t, "")
		cmd := exec.Command(l.gobuild(t, "cgodial", "cgodial"))
		orders, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		l.start(t, cmd)
		eventually(t, func() stacks {
			if _, err := fmt.Fprintln(orders, upstream); err != nil {
				t.Fatal(err)
			}
			return l.caller(t, came)
		}, want{slot: "open", frames: []string{
			"connect", "c_inner", "c_dial", anything, "runtime.asmcgocall", "runtime.cgocall", anything,
			"main.dialViaC", "main.worker", anything, "runtime.goexit",
		}, user: "c_inner"})
	})
}

func (l *lab) startRust(t *testing.T) *target {
	t.Helper()
	compiler := tool(t, "rustc")
	from := source(t, "rsrv.rs")
	path := l.once(t, "rsrv", func(path string) error {
		// The name of the crate is in the names of its functions.
		return command(compiler, "-O", "--crate-name", "rsrv", "-o", path, from)
	})
	return l.serve(t, path, "127.0.0.1:PORT")
}

func (l *lab) rust(t *testing.T) {
	t.Helper()
	x := l.startRust(t)
	// std's names differ between versions.
	eventually(t, l.talks(t, x, "hi\n"),
		want{slot: "open", frames: []string{
			"accept4",
			"<std::net::tcp::TcpListener>::accept|std::net::tcp::TcpListener::accept|std::sys_common::net::TcpListener::accept",
			anything, "rsrv::accept_loop", "rsrv::main",
		}, user: "rsrv::accept_loop"},
		// Which of std's readers is named is the linker's choice: their code is the same.
		want{slot: "eof", frames: []string{
			"recv", anything, "rsrv::read_some|rsrv::read_some::<std::net::tcp::TcpStream>",
			"<rsrv::Pool>::handle_conn|rsrv::Pool::handle_conn", "rsrv::accept_loop",
		}})
}

// pythonOf finds an interpreter: in $PATH, which may hold a shim that does not work, or
// among pyenv's.
func pythonOf(t *testing.T, version string) string {
	t.Helper()
	name := "python" + version
	candidates := []string{"/usr/bin/" + name, name}
	if home, err := os.UserHomeDir(); err == nil {
		installed, _ := filepath.Glob(filepath.Join(home, ".pyenv/versions", version+".*/bin", name)) // no bad pattern
		candidates = append(candidates, installed...)
	}
	for _, candidate := range candidates {
		out, err := exec.Command(candidate, "-c", "import sys; print(sys.executable)").Output()
		if err == nil {
			return strings.TrimSpace(string(out))
		}
	}
	testenv.Skip(t, name, "not installed")
	return ""
}

// startPython starts Debian 12's.
func (l *lab) startPython(t *testing.T) *target {
	t.Helper()
	return l.serve(t, pythonOf(t, "3.11"), source(t, "server.py"), "PORT")
}

// python looks at Python's own frames only; those of the interpreter are between them.
func (l *lab) python(t *testing.T) {
	t.Helper()
	at := func(function, text string) string { return function + "@" + lineOf(t, "server.py", text) }
	serve, module := at("serve", "accept_one(listener)\n"), at("<module>", "serve(socket.create_server")
	only := []string{"python"}
	for _, version := range []string{"3.11", "3.12", "3.13"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			accept := "socket.accept"
			if version == "3.11" {
				accept += "@socket.py:294"
			}
			x := l.serve(t, pythonOf(t, version), source(t, "server.py"), "PORT")
			eventually(t, l.talks(t, x, "hi\n"),
				want{slot: "open", user: "accept_one", kinds: only, frames: []string{
					accept, at("accept_one", "return listener.accept()"), serve, module,
				}},
				want{slot: "eof", user: "read_req", kinds: only, frames: []string{
					at("read_req", "return conn.recv"), at("handle", "while read_req(conn)"),
					at("serve", "handle(conn)\n\n\nserve"), module,
				}},
				want{slot: "open", frames: []string{"accept4"}},
				want{slot: "close", user: "handle", kinds: only, frames: []string{anything, at("handle", "conn.close()")}})
		})
	}
	t.Run("http.server", func(t *testing.T) {
		t.Parallel()
		x := l.serve(t, pythonOf(t, "3.11"), "-m", "http.server", "PORT", "--bind", "127.0.0.1", "--directory", t.TempDir())
		eventually(t, l.talks(t, x, ""), want{slot: "eof", kinds: only, frames: []string{
			"SocketIO.readinto", "BaseHTTPRequestHandler.handle_one_request", "BaseHTTPRequestHandler.handle",
			"BaseRequestHandler.__init__", anything, "ThreadingMixIn.process_request_thread", "Thread.run",
		}})
	})
	t.Run("perf trampoline", func(t *testing.T) {
		t.Parallel()
		x := l.serve(t, pythonOf(t, "3.12"), "-X", "perf", source(t, "server.py"), "PORT")
		t.Cleanup(func() { removePerfMap(t, x) })
		eventually(t, l.talks(t, x, "hi\n"), want{slot: "eof", frames: []string{
			"recv", anything, "_PyEval_EvalFrameDefault", "py::read_req", anything, "_PyEval_EvalFrameDefault", "py::handle",
			anything, "_PyEval_EvalFrameDefault", "py::serve", anything, "_PyEval_EvalFrameDefault", "py::<module>",
		}, user: "py::read_req"})
	})
}

// removePerfMap ends a target and removes what it, or a test for it, left in /tmp.
func removePerfMap(t *testing.T, x *target) {
	t.Helper()
	x.stop()
	if err := os.RemoveAll(fmt.Sprintf("/tmp/perf-%d.map", x.cmd.Process.Pid)); err != nil {
		t.Error(err)
	}
}

func (l *lab) node(t *testing.T) {
	t.Helper()
	x := l.serve(t, tool(t, "node"), source(t, "server.js"), "PORT")
	t.Run("close", func(t *testing.T) {
		t.Parallel()
		eventually(t, l.talks(t, x, "hi\n"), want{slot: "close", frames: []string{
			anything, "closeSocketHandle", "Socket._destroy", anything, "dropAll", "onEnd", "endCb",
			anything, "uv_run", anything, "node::Start",
		}, user: "dropAll"})
	})
	t.Run("connect", func(t *testing.T) {
		t.Parallel()
		upstream, came := l.answering(t, "")
		eventually(t, func() stacks {
			c := l.dial(t, x.port)
			c.say(t, fmt.Sprint(upstream))
			return l.caller(t, came)
		}, want{slot: "open", frames: []string{"connect", anything, "node::TCPWrap::Connect", anything, "internalConnect"}})
	})
}

func (l *lab) java(t *testing.T) {
	t.Helper()
	tool(t, "javac")
	from := source(t, "JSrv.java")
	class := l.once(t, "JSrv.class", func(path string) error { return command("javac", "-d", filepath.Dir(path), from) })
	x := l.serve(t, tool(t, "java"), "-cp", filepath.Dir(class), "JSrv", "PORT")
	eventually(t, l.talks(t, x, "hi\n"),
		want{slot: "eof", frames: []string{
			"read", "Java_sun_nio_ch_SocketDispatcher_read0", "sun.nio.ch.SocketDispatcher.read0", anything, "java.io.InputStream.read",
			"JSrv.readReq", "JSrv.handle", "JSrv.serve", "JSrv.main", anything, "start_thread",
		}, user: "JSrv.readReq"})
	// By then its compiler has worked on what the server does.
	l.burst(t, x, 5000, func(c *client) {
		c.say(t, "hi\n")
		c.hangUp(t)
	}, func(stacks) {})
	// The wait ends with the shutdown() that its close() begins with.
	eventually(t, l.talks(t, x, "hi\n"), want{slot: "close", frames: []string{
		"shutdown", anything, "sun.nio.ch.NioSocketImpl.close", anything, "java.net.Socket.close",
		"JSrv.drop", "JSrv.handle", "JSrv.serve", "JSrv.main",
	}, user: "JSrv.drop"})
}
