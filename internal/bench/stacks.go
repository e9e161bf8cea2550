package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// server is a program of a kind that hosts run, whose stacks are taken.
type server struct {
	name string
	port int
	argv []string
	// prepare makes what the server needs; nil: nothing.
	prepare func(ctx context.Context) error
}

// firstServer is the port of the first one.
const firstServer = 9001

// servers are of the languages that stacks know. root is the directory of the module.
func (s *stage) servers(root string) []server {
	conf := filepath.Join(s.dir, "nginx.conf")
	goServer := filepath.Join(s.dir, "goserver")
	const node = "require('net').createServer(s => s.on('data', d => s.end(d)).on('error', () => {})).listen(9004, '127.0.0.1')"
	all := []server{
		{name: "nginx", argv: []string{"nginx", "-c", conf}, prepare: func(context.Context) error {
			text := "daemon off; pid " + s.dir + "/nginx.pid; error_log stderr;\nevents {}\n" +
				"http { access_log off; server { listen 127.0.0.1:9001; location / { return 200; } } }\n"
			return os.WriteFile(conf, []byte(text), 0o600)
		}},
		{name: "redis", argv: []string{"redis-server", "--port", "9002", "--bind", "127.0.0.1", "--save", ""}},
		{name: "CPython", argv: []string{"python3", "-m", "http.server", "9003", "--bind", "127.0.0.1"}},
		{name: "Node", argv: []string{"node", "-e", node}},
		{name: "OpenJDK", argv: []string{"java", "-cp", s.dir, "JSrv", "9005"}, prepare: func(ctx context.Context) error {
			return quietly(exec.CommandContext(ctx, "javac", "-d", s.dir, filepath.Join(root, "e2e/testdata/targets/JSrv.java")))
		}},
		{name: "Go", argv: []string{goServer, "127.0.0.1:9006"}, prepare: func(ctx context.Context) error {
			cmd := exec.CommandContext(ctx, "go", "build", "-o", goServer, "./e2e/testdata/targets/goserver")
			cmd.Dir = root
			return quietly(cmd)
		}},
	}
	for i := range all {
		all[i].port = firstServer + i
	}
	return all
}

// quietly runs a command; what it says is part of its error.
func quietly(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, bytes.TrimSpace(out))
	}
	return nil
}

// unwindTables is what the agent says of them with -v.
var unwindTables = regexp.MustCompile(`msg="unwind tables".* bytes=([0-9]+)`)

// stacks measures the memory that stacks take, in the agent and in the kernel, on a host with
// typical servers, each of which is used.
func (s *stage) stacks(ctx context.Context) (err error) {
	home, err := s.child(ctx, "home", 0, 0, "")
	if err != nil {
		return err
	}
	started := []*process{home}
	defer func() {
		for i := range started {
			err = errors.Join(err, s.stop(started[len(started)-1-i]))
		}
	}()
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	in := fmt.Sprintf("/proc/%d/ns/net", home.pid())
	var names, without []string
	var clients []*process
	for _, one := range s.servers(root) {
		p, client, err := s.serve(ctx, one, in)
		if p != nil {
			started = append(started, p)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			without = append(without, one.name)
			s.report.say("stacks: measured without %s: %v", one.name, err)
			continue
		}
		names, clients, started = append(names, one.name), append(clients, client), append(started, client)
	}
	return s.stacksOf(ctx, names, without, clients)
}

// serve starts a server, and a client that has reached it.
func (s *stage) serve(ctx context.Context, one server, in string) (p, client *process, err error) {
	if one.prepare != nil {
		if err := one.prepare(ctx); err != nil {
			return nil, nil, err
		}
	}
	if one.argv[0], err = exec.LookPath(one.argv[0]); err != nil {
		return nil, nil, errors.New("not installed")
	}
	if p, err = s.start(command{argv: one.argv, netns: in}); err != nil {
		return nil, nil, err
	}
	client, err = s.child(ctx, "request", perCause, one.port, in)
	return p, client, err
}

func (s *stage) stacksOf(ctx context.Context, names, without []string, clients []*process) (err error) {
	t := s.tool(toolTailJSON)
	t.argv = append([]string{t.argv[0], "tail", "--stacks", "on"}, t.argv[2:]...)
	a, err := s.attach(ctx, t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.detach()) }()
	for _, c := range clients {
		if _, err := c.stdin.Write([]byte("go\n")); err != nil {
			return fmt.Errorf("begin requests: %w", err)
		}
		if _, err := c.line(ctx); err != nil {
			return fmt.Errorf("requests: %w", err)
		}
	}
	if err := a.quiet(ctx); err != nil {
		return err
	}
	m, err := memoryOf(a.pid())
	if err != nil {
		return err
	}
	words, err := os.ReadFile(a.err.Name())
	if err != nil {
		return fmt.Errorf("read messages: %w", err)
	}
	found := unwindTables.FindAllSubmatch(words, -1)
	if len(found) == 0 {
		return errors.New("it says nothing of unwind tables")
	}
	size, err := strconv.ParseFloat(string(found[len(found)-1][1]), 64)
	if err != nil {
		return fmt.Errorf("parse size of unwind tables: %w", err)
	}
	s.report.set("stacks/rss", float64(m.rss)/(1<<20))
	s.report.set("stacks/own", float64(m.rss-m.ring)/(1<<20))
	s.report.set("stacks/tables", size/(1<<20))
	s.stacksTable(names, without)
	return nil
}

func (s *stage) stacksTable(names, without []string) {
	with := strings.Join(names, ", ")
	if len(without) > 0 {
		with += " (not here: " + strings.Join(without, ", ") + ")"
	}
	s.report.add(&table{name: "stacks", head: []string{"stacks of " + with, "MiB"}, rows: [][]string{
		{"unwind tables in the kernel", number(s.report.values["stacks/tables"])},
		{"agent resident", number(s.report.values["stacks/rss"])},
		{"agent resident, without the ring", number(s.report.values["stacks/own"])},
	}})
}

// request is a client of the server at the port that is its index: it waits until that can be
// reached, then asks n times when it is told to.
func (c *child) request() error {
	for deadline := time.Now().Add(childPatience / 4); ; {
		err := c.ask()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := c.say(ready); err != nil {
		return err
	}
	if err := c.wait(); err != nil {
		return err
	}
	for range c.n {
		if err := c.ask(); err != nil {
			return err
		}
	}
	if err := c.say("end"); err != nil {
		return err
	}
	return c.wait()
}

// ask makes one connection, which whoever wants to closes.
func (c *child) ask() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}); err != nil {
		return fmt.Errorf("limit reading: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: c.index, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if _, err := unix.Write(fd, []byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	// Whatever the answer is, or none in time: the server has worked.
	_, _ = unix.Read(fd, make([]byte, 512))
	return nil
}
