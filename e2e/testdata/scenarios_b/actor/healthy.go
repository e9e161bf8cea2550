package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// web is a Go server as it should be: net/http with an idle timeout.
func web([]string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	say("port %d", l.Addr().(*net.TCPAddr).Port)
	s := &http.Server{
		IdleTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, "all is well\n")
		}),
	}
	return first(untilEnd, func() error { return s.Serve(l) })
}

// load is clients under way until the input ends, of the kinds and to the addresses given as
// KIND=ADDR. It then says how many connections were opened, of each kind.
//
//	short   one HTTP request a connection, closed by the server
//	hasty   one HTTP request a connection, closed by the client
//	pool    HTTP requests over connections kept alive, by workers that come and go
//	redis   PINGs over one connection, a new one every 7
//	echo    some bytes there and back, then the end from here
//	half    one request, the end of our side, then read to the end
func load(args []string) error {
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	workers := fs.Int("workers", 2, "of each kind")
	pause := fs.Duration("pause", time.Millisecond, "of each worker between two connections")
	if err := fs.Parse(args); err != nil {
		return err
	}
	kinds := map[string]func(addr string, opened *atomic.Int64) error{
		"short": short, "hasty": hasty, "pool": pool, "redis": redis, "echo": echo, "half": half,
	}
	var stop atomic.Bool
	var all sync.WaitGroup
	errs := make(chan error, 1)
	counts := make([]atomic.Int64, fs.NArg())
	for i, arg := range fs.Args() {
		kind, addr, _ := cut(arg)
		do := kinds[kind]
		if do == nil {
			return fmt.Errorf("no kind %s", kind)
		}
		for range *workers {
			all.Go(func() {
				for !stop.Load() {
					if err := do(addr, &counts[i]); err != nil && !stop.Load() {
						select {
						case errs <- fmt.Errorf("%s: %w", arg, err):
						default:
						}
						return
					}
					time.Sleep(*pause)
				}
			})
		}
	}
	say("running")
	err := first(untilEnd, func() error { return <-errs })
	stop.Store(true)
	all.Wait()
	total := int64(0)
	for i, arg := range fs.Args() {
		say("opened %s %d", arg, counts[i].Load())
		total += counts[i].Load()
	}
	say("total %d", total)
	return err
}

func cut(arg string) (kind, addr string, ok bool) {
	for i := range arg {
		if arg[i] == '=' {
			return arg[:i], arg[i+1:], true
		}
	}
	return arg, "", false
}

// dial counts what was opened.
func dial(addr string, opened *atomic.Int64) (net.Conn, error) {
	c, err := net.Dial("tcp", addr)
	if err == nil {
		opened.Add(1)
	}
	return c, err
}

func request(addr string, opened *atomic.Int64, header string, end func(net.Conn, *bufio.Reader) error) error {
	c, err := dial(addr, opened)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: test\r\n%s\r\n", header); err != nil {
		return err
	}
	return end(c, bufio.NewReader(c))
}

func body(in *bufio.Reader) error {
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", answer.Status)
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

func short(addr string, opened *atomic.Int64) error {
	return request(addr, opened, "Connection: close\r\n", func(_ net.Conn, in *bufio.Reader) error {
		if err := body(in); err != nil {
			return err
		}
		_, err := in.ReadByte()
		return noEOF(err)
	})
}

func hasty(addr string, opened *atomic.Int64) error {
	return request(addr, opened, "", func(_ net.Conn, in *bufio.Reader) error { return body(in) })
}

func half(addr string, opened *atomic.Int64) error {
	return request(addr, opened, "Connection: close\r\n", func(c net.Conn, in *bufio.Reader) error {
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		return body(in)
	})
}

// pool is 23 requests over up to 5 connections, then all are given up.
func pool(addr string, opened *atomic.Int64) error {
	transport := &http.Transport{
		MaxIdleConnsPerHost: 5, IdleConnTimeout: 300 * time.Millisecond,
		DialContext: func(_ context.Context, _, addr string) (net.Conn, error) { return dial(addr, opened) },
	}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport}
	var five sync.WaitGroup
	errs := make(chan error, 23)
	for range 5 {
		five.Go(func() {
			for range 5 {
				answer, err := c.Get("http://" + addr + "/")
				if err != nil {
					errs <- err
					return
				}
				_, _ = io.Copy(io.Discard, answer.Body)
				_ = answer.Body.Close()
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	five.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func redis(addr string, opened *atomic.Int64) error {
	c, err := dial(addr, opened)
	if err != nil {
		return err
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for range 7 {
		if _, err := io.WriteString(c, "PING\r\n"); err != nil {
			return err
		}
		line, err := in.ReadString('\n')
		if err != nil || line != "+PONG\r\n" {
			return fmt.Errorf("answer %q: %w", line, err)
		}
	}
	return nil
}

func echo(addr string, opened *atomic.Int64) error {
	c, err := dial(addr, opened)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "1234567"); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, make([]byte, 7)); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, c)
	return err
}

// stream answers a client that has ended its side for as long as that one listens: the
// legitimate half-close. It is both, -n clients and their server.
func stream(args []string) error {
	fs := flag.NewFlagSet("stream", flag.ContinueOnError)
	n := fs.Int("n", 5, "streams")
	every := fs.Duration("every", 100*time.Millisecond, "pace")
	if err := fs.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	for range *n {
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			return err
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		go func() { _, _ = io.Copy(io.Discard, c) }()
		s, err := l.Accept()
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, s); err != nil {
			return err
		}
		go func() {
			for {
				if _, err := s.Write([]byte("still here\n")); err != nil {
					return
				}
				time.Sleep(*every)
			}
		}()
	}
	say("port %d", l.Addr().(*net.TCPAddr).Port)
	return untilEnd()
}

// forkServer gives each connection to a child of its own, as inetd does, and closes its copy.
func forkServer([]string) error {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	say("port %d", l.Addr().(*net.TCPAddr).Port)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return first(untilEnd, func() error {
		for {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			f, err := c.(*net.TCPConn).File()
			if err != nil {
				return err
			}
			cmd := exec.Command(self, "fork-child", strconv.Itoa(3))
			cmd.ExtraFiles = []*os.File{f}
			if err := cmd.Start(); err != nil {
				return err
			}
			_ = f.Close()
			_ = c.Close()
			go func() { _ = cmd.Wait() }()
		}
	})
}

// forkChild echoes one connection and ends.
func forkChild([]string) error {
	c, err := net.FileConn(os.NewFile(3, "connection"))
	if err != nil {
		return err
	}
	_, err = io.Copy(c, c)
	return err
}
