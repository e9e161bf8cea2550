package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// server accepts, and does with each connection what -do says:
//
//	forget  read to the end, say "ended N", and keep the connection
//	deaf    never read
//	echo    copy back, close after the end
//	slow    read to the end, close -after later
//	greet   say something, end our side, and close when the other side has ended too
//
// It prints the port, and "full" with the time when it first has no descriptors left. The
// connections of forget and deaf obey the commands of keeper.
func server(args []string) error {
	fs := flag.NewFlagSet("server", flag.ContinueOnError)
	do := fs.String("do", "forget", "forget, deaf, echo, slow or greet")
	listen := fs.String("listen", "127.0.0.1:0", "where to listen")
	after := fs.Duration("after", 0, "how long slow waits after the end")
	nofile := fs.Uint64("nofile", 0, "RLIMIT_NOFILE, 0 as it is")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *nofile > 0 {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: *nofile, Max: *nofile}); err != nil {
			return fmt.Errorf("limit descriptors: %w", err)
		}
	}
	// The default of Go: an MPTCP socket where the kernel has it.
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	say("port %d", l.Addr().(*net.TCPAddr).Port)
	var k keeper
	var ended atomic.Int64
	handle := map[string]func(net.Conn){
		"forget": func(c net.Conn) {
			_, _ = io.Copy(io.Discard, c)
			say("ended %d", ended.Add(1))
		},
		"deaf": func(net.Conn) {},
		"echo": func(c net.Conn) { _, _ = io.Copy(c, c); _ = c.Close() },
		"greet": func(c net.Conn) {
			_, _ = c.Write([]byte("1234567"))
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		},
		"slow": func(c net.Conn) {
			_, _ = io.Copy(io.Discard, c)
			time.Sleep(*after)
			_ = c.Close()
		},
	}[*do]
	if handle == nil {
		return fmt.Errorf("-do %s", *do)
	}
	keep := *do == "forget" || *do == "deaf"
	return first(func() error { return acceptAll(l, &k, keep, handle) }, func() error { return commands(k.do) })
}

// acceptAll does what net/http does about a lack of descriptors: it waits and tries again.
func acceptAll(l net.Listener, k *keeper, keep bool, handle func(net.Conn)) error {
	full := false
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, syscall.EMFILE):
			if !full {
				full = true
				say("full %d", time.Now().UnixNano())
			}
			time.Sleep(5 * time.Millisecond)
			continue
		case err != nil:
			return err
		}
		if keep {
			k.add(c)
		}
		go handle(c)
	}
}

// keeper keeps connections from being closed by the garbage collector.
type keeper struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (k *keeper) add(c net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conns = append(k.conns, c)
}

// do is a command: hangup closes, shutwr ends our side only, send writes 7 bytes, drain
// reads and forgets in the background, answer reads what comes until something did.
func (k *keeper) do(line string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.conns {
		var err error
		switch line {
		case "hangup":
			err = c.Close()
		case "shutwr":
			err = c.(interface{ CloseWrite() error }).CloseWrite()
		case "send":
			_, err = c.Write([]byte("1234567"))
		case "answer":
			_, err = c.Read(make([]byte, 64))
			err = noEOF(err)
		case "drain":
			go func() { _, _ = io.Copy(io.Discard, c) }()
		default:
			err = errors.New("unknown")
		}
		if err != nil {
			return err
		}
	}
	if line == "hangup" {
		k.conns = nil
	}
	return nil
}

// client makes -n connections, one every -pace, and does the commands of keeper with them.
// With -close each is closed right after it sent something, with -after it is closed so long
// after the server has ended its side: a steady stream of them.
func client(args []string) error {
	fs := flag.NewFlagSet("client", flag.ContinueOnError)
	n := fs.Int("n", 23, "connections")
	pace := fs.Duration("pace", 0, "time between two")
	mptcp := fs.Bool("mptcp", false, "speak MPTCP")
	hang := fs.Bool("close", false, "close each at once")
	after := fs.Duration("after", 0, "close each this long after its end, 0 never")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var d net.Dialer
	d.SetMultipathTCP(*mptcp)
	var k keeper
	began := time.Now()
	for i := range *n {
		// A late one does not make the next ones late.
		time.Sleep(time.Until(began.Add(time.Duration(i) * *pace)))
		c, err := d.DialContext(context.Background(), "tcp", fs.Arg(0))
		if err != nil {
			return err
		}
		if *hang {
			// What became of it is not ours to know.
			_, _ = c.Write([]byte("1234567"))
			_ = c.Close()
			continue
		}
		if *after > 0 {
			go func() {
				_, _ = io.Copy(io.Discard, c)
				time.Sleep(*after)
				_ = c.Close()
			}()
			continue
		}
		k.add(c)
	}
	say("connected %d", *n)
	return commands(k.do)
}

// proxy copies both ways between its clients and the server given, as kube-proxy and others
// do: each direction ends its target's side when its source ended, and the connection is over
// when both have.
func proxy(args []string) error {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	say("port %d", l.Addr().(*net.TCPAddr).Port)
	return first(untilEnd, func() error {
		for {
			in, err := l.Accept()
			if err != nil {
				return err
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp4", args[0])
				if err != nil {
					return
				}
				defer out.Close()
				var both sync.WaitGroup
				both.Go(func() { copyHalf(out, in) })
				both.Go(func() { copyHalf(in, out) })
				both.Wait()
			}()
		}
	})
}

func copyHalf(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.(*net.TCPConn).CloseWrite()
}

// churn opens connections to one address, closing first each time, until the ports have run
// out or -n are done; then it says how many it made and why it ended.
func churn(args []string) error {
	fs := flag.NewFlagSet("churn", flag.ContinueOnError)
	n := fs.Int("n", 100_000, "most connections")
	if err := fs.Parse(args); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(fs.Arg(0))
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	to := &unix.SockaddrInet4{Port: number, Addr: [4]byte(net.ParseIP(host).To4())}
	made, failed := 0, 0
	for made < *n {
		err := connectOnce(to)
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			// The kernel's search starts anywhere, it does not miss a free port; a few more failures
			// are for who counts them.
			if failed++; failed == 23 {
				break
			}
			continue
		}
		if err != nil {
			return err
		}
		made++
	}
	say("made %d failed %d", made, failed)
	return untilEnd()
}

func connectOnce(to unix.Sockaddr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		err = unix.Connect(fd, to)
		if errors.Is(err, unix.EISCONN) {
			return nil
		}
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EALREADY) {
			return err
		}
	}
}
