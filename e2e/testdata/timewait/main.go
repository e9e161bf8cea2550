// Timewait plays both ends of connections whose end is known beforehand: each connection
// begins with a byte that says who closes it.
//
//	c  the client closes first      r  the client resets it (SO_LINGER 0)
//	s  the server closes first      R  the server resets it
//	b  both close when they are told to
//
// serve prints "port N". dial prints "made N failed M" once its plan is done; failed are
// those that found no port. Both print "kept N" as connections of kind b come in, close these
// on the order "close", say "done close", and end when their input does.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	roles := map[string]func(args []string) error{"serve": serve, "dial": dial}
	if len(os.Args) < 2 || roles[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "timewait: no such role")
		os.Exit(2)
	}
	if err := roles[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "timewait %s: %v\n", strings.Join(os.Args[1:], " "), err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// kept are connections of kind b.
type kept struct {
	mu  sync.Mutex
	fds []int
}

func (k *kept) add(fd int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fds = append(k.fds, fd)
	say("kept %d", len(k.fds))
}

// orders closes what is kept when told to, until the input ends.
func (k *kept) orders() error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if lines.Text() != "close" {
			return fmt.Errorf("no order %q", lines.Text())
		}
		k.mu.Lock()
		for _, fd := range k.fds {
			hangUp(fd)
		}
		k.fds = nil
		k.mu.Unlock()
		say("done close")
	}
	return lines.Err()
}

// hangUp is the place in the code that closes.
//
//go:noinline
func hangUp(fd int) {
	if err := unix.Close(fd); err != nil {
		panic(err)
	}
}

//go:noinline
func reset(fd int) {
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		panic(err)
	}
	hangUp(fd)
}

// untilEnd reads to the end of the stream, or to a reset.
func untilEnd(fd int) {
	var buf [64]byte
	for {
		n, err := unix.Read(fd, buf[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 {
			return
		}
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// protocol is that of all sockets.
var protocol = unix.IPPROTO_TCP

func socket(a netip.Addr) (int, error) {
	family := unix.AF_INET
	if !a.Is4() {
		family = unix.AF_INET6
	}
	return unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
}

func mptcpFlag(fs *flag.FlagSet) {
	fs.BoolFunc("mptcp", "instead of TCP", func(string) error {
		protocol = unix.IPPROTO_MPTCP
		return nil
	})
}

func serve(args []string) error {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	listen := fs.String("listen", "127.0.0.1:0", "address")
	mptcpFlag(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	at, err := netip.ParseAddrPort(*listen)
	if err != nil {
		return err
	}
	l, err := socket(at.Addr())
	if err != nil {
		return err
	}
	if err := errors.Join(
		unix.SetsockoptInt(l, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(l, sockaddr(at)), unix.Listen(l, 4096),
	); err != nil {
		return err
	}
	say("port %d", at.Port())
	var k kept
	go func() {
		for {
			fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
				continue
			}
			if err != nil {
				panic(err)
			}
			go answer(fd, &k)
		}
	}()
	return k.orders()
}

func answer(fd int, k *kept) {
	var how [1]byte
	for {
		if _, err := unix.Read(fd, how[:]); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch how[0] {
	case 's':
		hangUp(fd)
	case 'R':
		reset(fd)
	case 'b':
		k.add(fd)
	default:
		untilEnd(fd)
		hangUp(fd)
	}
}

// dialer makes connections by a plan.
type dialer struct {
	to           []netip.AddrPort
	bind         netip.Addr
	late         bool
	made, failed atomic.Int64
	exhausted    sync.Once
	kept         kept
}

func dial(args []string) error {
	fs := flag.NewFlagSet("dial", flag.ContinueOnError)
	to := fs.String("to", "", "addresses, with commas: each connection goes to the next")
	plan := fs.String("plan", "c=1", "how many of each kind, in random order")
	workers := fs.Int("workers", 1, "at the same time")
	rate := fs.Float64("rate", 0, "connections a second, 0: as fast as it goes")
	bind := fs.String("bind", "", "local address to bind() to, with port 0, before connect()")
	late := fs.Bool("late", false, "with IP_BIND_ADDRESS_NO_PORT")
	mptcpFlag(fs)
	full := fs.Int("full", 0, "end after so many connects in a row found no port; 0: never")
	if err := fs.Parse(args); err != nil {
		return err
	}
	d := &dialer{late: *late}
	for text := range strings.SplitSeq(*to, ",") {
		a, err := netip.ParseAddrPort(text)
		if err != nil {
			return err
		}
		d.to = append(d.to, a)
	}
	if *bind != "" {
		var err error
		if d.bind, err = netip.ParseAddr(*bind); err != nil {
			return err
		}
	}
	kinds, err := parsePlan(*plan)
	if err != nil {
		return err
	}
	if err := d.run(kinds, *workers, *rate, *full); err != nil {
		return err
	}
	say("made %d failed %d", d.made.Load(), d.failed.Load())
	return d.kept.orders()
}

// parsePlan shuffles the connections.
func parsePlan(text string) ([]byte, error) {
	var kinds []byte
	for part := range strings.SplitSeq(text, ",") {
		kind, count, _ := strings.Cut(part, "=")
		n, err := strconv.Atoi(count)
		if err != nil || len(kind) != 1 {
			return nil, fmt.Errorf("no plan: %q", part)
		}
		for range n {
			kinds = append(kinds, kind[0])
		}
	}
	rand.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	return kinds, nil
}

func (d *dialer) run(kinds []byte, workers int, rate float64, full int) error {
	var next, inRow atomic.Int64
	var all sync.WaitGroup
	errs := make(chan error, workers)
	pace := pace{perSecond: rate}
	for range workers {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(kinds) || full > 0 && inRow.Load() >= int64(full) {
					return
				}
				pace.wait()
				err := d.one(d.to[i%len(d.to)], kinds[i])
				switch {
				case errors.Is(err, unix.EADDRNOTAVAIL):
					d.failed.Add(1)
					inRow.Add(1)
					d.exhausted.Do(func() { say("exhausted %d", time.Now().UnixNano()) })
				case err != nil:
					errs <- err
					return
				default:
					inRow.Store(0)
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// pace lets one pass at a time. What comes late is not made up for, so that the rate is never
// higher.
type pace struct {
	perSecond float64 // 0: as fast as it goes
	mu        sync.Mutex
	next      time.Time
}

func (p *pace) wait() {
	if p.perSecond == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	time.Sleep(p.next.Sub(now))
	p.next = p.next.Add(time.Duration(float64(time.Second) / p.perSecond))
}

func (d *dialer) one(to netip.AddrPort, kind byte) error {
	fd, err := d.connect(to)
	if err != nil {
		return err
	}
	d.made.Add(1)
	if _, err := unix.Write(fd, []byte{kind}); err != nil {
		return err
	}
	switch kind {
	case 'c':
		hangUp(fd)
	case 'r':
		reset(fd)
	case 'b':
		d.kept.add(fd)
	default:
		untilEnd(fd)
		hangUp(fd)
	}
	return nil
}

func (d *dialer) connect(to netip.AddrPort) (int, error) {
	fd, err := socket(to.Addr())
	if err != nil {
		return -1, err
	}
	if d.bind.IsValid() {
		if d.late {
			err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		}
		if err == nil {
			err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(d.bind, 0)))
		}
		if err != nil {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("bind: %w", err)
		}
	}
	for {
		err = unix.Connect(fd, sockaddr(to))
		switch {
		case err == nil, errors.Is(err, unix.EISCONN):
			return fd, nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EALREADY):
		default:
			_ = unix.Close(fd)
			return -1, err
		}
	}
}
