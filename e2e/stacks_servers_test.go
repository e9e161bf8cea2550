package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func (l *lab) servers(t *testing.T) {
	t.Helper()
	t.Run("nginx", func(t *testing.T) {
		t.Parallel()
		l.nginx(t)
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		l.redis(t)
	})
	t.Run("openssl", func(t *testing.T) {
		t.Parallel()
		l.openssl(t)
	})
}

// nginxConfig: one worker, nothing of the distribution's.
const nginxConfig = `
user root;
daemon off;
master_process on;
worker_processes 1;
pid %[1]s/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen 127.0.0.1:%[2]d;
		location / { return 200 "hi\n"; }
		location /proxy { proxy_pass http://127.0.0.1:%[3]d; }
	}
}
`

func (l *lab) startNginx(t *testing.T) *target {
	t.Helper()
	return l.startProxy(t, firstPort) // nobody listens there
}

// startProxy is nginx that proxies /proxy to a port.
func (l *lab) startProxy(t *testing.T, upstream uint16) *target {
	t.Helper()
	program := tool(t, "nginx")
	dir := t.TempDir()
	port := l.port()
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, nginxConfig, dir, port, upstream), 0o644); err != nil {
		t.Fatal(err)
	}
	return l.serveCommand(t, exec.Command(program, "-p", dir, "-c", file, "-e", "stderr"), port)
}

func (l *lab) nginx(t *testing.T) {
	t.Helper()
	upstream, came := l.answering(t, "HTTP/1.0 200 OK\r\n\r\nup\n")
	x := l.startProxy(t, upstream)
	accepts := want{slot: "open", frames: []string{
		"accept4", "ngx_event_accept", anything, "ngx_process_events_and_timers", anything, "ngx_master_process_cycle", "main",
	}}
	t.Run("close after the answer", func(t *testing.T) {
		t.Parallel()
		eventually(t, l.talks(t, x, "GET / HTTP/1.0\r\n\r\n"), accepts, want{slot: "close", frames: []string{
			"close", "ngx_close_connection", "ngx_http_close_connection", anything, "ngx_http_core_run_phases",
		}})
	})
	t.Run("client goes first", func(t *testing.T) {
		t.Parallel()
		eventually(t, l.talks(t, x, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"), accepts,
			want{slot: "eof", frames: []string{"recv", "ngx_unix_recv"}},
			want{slot: "close", frames: []string{"close", "ngx_close_connection", "ngx_http_close_connection"}})
	})
	t.Run("proxy connects", func(t *testing.T) {
		t.Parallel()
		eventually(t, func() stacks {
			c := l.dial(t, x.port)
			if answer := c.say(t, "GET /proxy HTTP/1.0\r\n\r\n"); !strings.Contains(answer, "200 OK") {
				t.Fatalf("no answer through the proxy: %q", answer)
			}
			return l.caller(t, came)
		}, want{slot: "open", frames: []string{"connect", "ngx_event_connect_peer"}})
	})
}

func (l *lab) startRedis(t *testing.T) *target {
	t.Helper()
	return l.serve(t, tool(t, "redis-server"),
		"--bind", "127.0.0.1", "--port", "PORT", "--save", "", "--daemonize", "no", "--dir", t.TempDir())
}

func (l *lab) redis(t *testing.T) {
	t.Helper()
	x := l.startRedis(t)
	eventually(t, l.talks(t, x, "PING\r\n"),
		want{slot: "open", frames: []string{"accept4", "anetTcpAccept", "acceptTcpHandler", anything, "aeMain", "main"}},
		want{slot: "eof", frames: []string{"read", anything, "readQueryFromClient", anything, "aeMain", "main"}})
}

func (l *lab) openssl(t *testing.T) {
	t.Helper()
	program := tool(t, "openssl")
	dir := t.TempDir()
	key, cert := filepath.Join(dir, "key"), filepath.Join(dir, "cert")
	err := command(program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
		"-subj", "/CN=x", "-keyout", key, "-out", cert)
	if err != nil {
		t.Fatal(err)
	}
	// -rev answers each line.
	x := l.serve(t, program, "s_server", "-accept", "127.0.0.1:PORT", "-cert", cert, "-key", key, "-rev", "-quiet")
	eventually(t, func() stacks {
		c := l.dial(t, x.port)
		secure := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		if _, err := io.WriteString(secure, "abc\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := secure.Read(make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		// No goodbye of TLS: the end comes as the socket's.
		c.hangUp(t)
		return l.await(t, c.ports, (*change).closing)
		// It says goodbye by shutdown(); when it closes, the wait is over. Its own functions have no
		// names.
	}, want{slot: "close", frames: []string{"shutdown", "openssl+0x"}},
		want{slot: "eof", frames: []string{"read", anything, "BIO_read"}})
}
