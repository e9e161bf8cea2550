package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// The servers of the distribution that play a part in several scenarios.

// page is more than any client of ours reads at once.
var page = bytes.Repeat([]byte("0123456789abcdef"), 4096)

// startNginx is nginx with one worker that serves page at /page, with more lines for its
// server block.
func (s *scene) startNginx(t *testing.T, lines string) *target {
	t.Helper()
	program := tool(t, "nginx")
	dir := t.TempDir()
	openDir(t, dir)
	port := s.port()
	config := fmt.Sprintf(`
user root;
daemon off;
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
		location = /page { root %[1]s; }
		location = /hi { return 200 "hi\n"; }
		%[3]s
	}
}
`, dir, port, lines)
	write(t, filepath.Join(dir, "nginx.conf"), config)
	write(t, filepath.Join(dir, "page"), string(page))
	return s.serveCommand(t, exec.Command(program, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", "stderr"), port)
}

// startHaproxy is haproxy with one thread, with lines for its global section, for its
// bind line and for its only proxy.
func (s *scene) startHaproxy(t *testing.T, global, bind, lines string) *target {
	t.Helper()
	program := tool(t, "haproxy")
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	port := s.port()
	write(t, file, fmt.Sprintf(`
global
	nbthread 1
	%s
defaults
	mode http
	timeout connect 1h
	timeout client 1h
	timeout server 1h
listen x
	bind 127.0.0.1:%d %s
	%s
`, global, port, bind, lines))
	return s.serveCommand(t, exec.Command(program, "-db", "-f", file), port)
}

// startPostgres is a new cluster that trusts everybody.
func (s *scene) startPostgres(t *testing.T) *target {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		testenv.Skip(t, "postgresql", "not installed")
	}
	slices.Sort(found)
	program := found[len(found)-1]
	who, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	openDir(t, dir)
	as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: number(t, who.Uid), Gid: number(t, who.Gid)}}
	if err := os.Chown(dir, int(as.Credential.Uid), int(as.Credential.Gid)); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(filepath.Join(filepath.Dir(program), "initdb"), "-D", data, "-A", "trust", "--no-sync", "--no-locale")
	initdb.SysProcAttr, initdb.Dir = as, dir
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	port := s.port()
	cmd := exec.Command(program, "-D", data, "-p", fmt.Sprint(port), "-k", dir, "-F", "-c", "listen_addresses=127.0.0.1")
	cmd.SysProcAttr, cmd.Dir = &syscall.SysProcAttr{Credential: as.Credential}, dir
	x := s.serveCommand(t, cmd, port)
	x.awaitOutput(t, "ready to accept connections")
	return x
}

func number(t *testing.T, text string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// awaitUnread waits until count sockets at port are in CLOSE_WAIT with data before the end.
func (s *scene) awaitUnread(t *testing.T, count int, port uint16) {
	t.Helper()
	s.await(t, count, fmt.Sprintf("in CLOSE_WAIT at port %d with unread data", port), func(r testenv.TCPRow) bool {
		return r.State == event.CloseWait && (r.Lport == port || r.Rport == port) && r.RecvQ > 1
	})
}

// pidSaid is the number after a word in what the program printed.
func (x *target) pidSaid(t *testing.T, word string) int {
	t.Helper()
	all := x.pidsSaid(t, word, 1)
	return all[0]
}

// pidsSaid waits until the program has printed "WORD NUMBER." count times.
func (x *target) pidsSaid(t *testing.T, word string, count int) (pids []int) {
	t.Helper()
	waitFor(t, func() string {
		pids = nil
		for line := range strings.Lines(x.output.String()) {
			if text, ok := strings.CutPrefix(strings.TrimSuffix(line, ".\n"), word+" "); ok && strings.HasSuffix(line, ".\n") {
				pids = append(pids, int(number(t, text)))
			}
		}
		if len(pids) == count {
			return ""
		}
		return fmt.Sprintf("%v has said %q %d times, want %d: %s", x.cmd.Args, word, len(pids), count, x.output)
	})
	return pids
}
