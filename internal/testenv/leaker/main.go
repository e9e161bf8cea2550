// Leaker makes a known number of TCP sockets in CLOSE_WAIT, in a known way, and says
// what truly happened. It is a test tool: plain system calls, loopback only.
//
// It prints one JSON line when the kernel agrees that the sockets are there (package
// facts), then holds them until its input ends or SIGTERM.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv/facts"
)

// maxSockets keeps a mistyped -n from eating the machine; one listener's ports do not
// reach further anyhow.
const maxSockets = 28_000

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "leaker:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	fs := flag.NewFlagSet("leaker", flag.ContinueOnError)
	name := fs.String("cause", "eof_ignored", "one of "+causeNames())
	n := fs.Int("n", 23, "number of sockets")
	path := fs.String("netns", "", "network namespace to live in")
	addr := fs.String("addr", "127.0.0.1", "address to connect to")
	listen := fs.String("listen", "", "address to listen on (default: -addr)")
	port := fs.Uint("port", 0, "port to listen on, 0 any")
	mptcp := fs.Bool("mptcp", false, "MPTCP at both ends")
	plainPeer := fs.Bool("plain-peer", false, "with -mptcp: the peer speaks plain TCP")
	ktls := fs.Bool("ktls", false, "kernel TLS at both ends")
	every := fs.Duration("every", 50*time.Millisecond, "pace of grow")
	closeAfter := fs.Duration("close-after", 0, "close each socket this long after its peer did, 0 never")
	nofile := fs.Uint64("nofile", 0, "RLIMIT_NOFILE to leak under, 0 as it is")
	role := fs.String("role", "", "internal: peer or holder")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *role != "" {
		return serve(*role, protocol{*mptcp, *ktls}, in, out)
	}
	if *path != "" {
		return moveTo(*path, args)
	}
	if *nofile > 0 {
		limit := unix.Rlimit{Cur: *nofile, Max: *nofile}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return fmt.Errorf("limit descriptors: %w", err)
		}
	}
	c := config{
		n: *n, port: uint16(*port), mptcp: *mptcp, plainPeer: *plainPeer, ktls: *ktls,
		every: *every, closeAfter: *closeAfter,
	}
	if err := errors.Join(c.setCause(*name), c.setAddrs(*addr, *listen)); err != nil {
		return err
	}
	return hold(c, in, out)
}

func (c *config) bothMPTCP() bool { return c.mptcp && !c.plainPeer }

func causeNames() string {
	var names []string
	for _, c := range causes() {
		names = append(names, c.name)
	}
	return strings.Join(names, " ")
}

func (c *config) setCause(name string) error {
	if c.n < 1 || c.n > maxSockets {
		return fmt.Errorf("-n %d: want 1 to %d", c.n, maxSockets)
	}
	for _, known := range causes() {
		if known.name != name {
			continue
		}
		if c.closeAfter > 0 && !known.closable {
			return fmt.Errorf("-close-after: not for %s", name)
		}
		if c.bothMPTCP() && known.name == "unaccepted" {
			return errors.New("-mptcp: only with -plain-peer for unaccepted: no table shows that they are there")
		}
		if err := c.checkTLS(name); err != nil {
			return err
		}
		c.cause = known
		return nil
	}
	return fmt.Errorf("-cause %q: want one of %s", name, causeNames())
}

func (c *config) checkTLS(name string) error {
	switch {
	case !c.ktls:
		return nil
	case c.mptcp:
		return errors.New("-ktls: not with -mptcp, which has no TLS in the kernel")
	case name == "eof_unsaid":
		return errors.New("-ktls: not for eof_unsaid: the kernel drops a record that close() leaves open")
	}
	return nil
}

func (c *config) setAddrs(addr, listen string) (err error) {
	if c.addr, err = netip.ParseAddr(addr); err != nil {
		return fmt.Errorf("-addr: %w", err)
	}
	if !c.addr.Unmap().IsLoopback() {
		return fmt.Errorf("-addr %s: loopback only", addr)
	}
	c.listen = c.addr
	if listen == "" {
		return nil
	}
	if c.listen, err = netip.ParseAddr(listen); err != nil {
		return fmt.Errorf("-listen: %w", err)
	}
	if !c.listen.Unmap().IsLoopback() && !c.listen.IsUnspecified() {
		return fmt.Errorf("-listen %s: loopback or the wildcard only", listen)
	}
	return nil
}

// moveTo starts this program anew inside the namespace: Go has several threads already,
// and setns() moves one only.
func moveTo(path string, args []string) error {
	runtime.LockOSThread()
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	argv := append(append([]string{self}, args...), "-netns=")
	if err := unix.Exec(self, argv, os.Environ()); err != nil {
		return fmt.Errorf("start anew: %w", err)
	}
	return nil
}

// hold makes the leak, reports it and keeps it.
func hold(c config, in io.Reader, out io.Writer) (err error) {
	l := &leak{config: c, own: &endpoint{protocol: protocol{c.mptcp, c.ktls}}}
	l.ready = facts.Ready{
		Cause: c.cause.name, Expect: c.cause.expect, Pid: os.Getpid(),
		Leader: os.Getpid(), N: c.n, Mptcp: c.bothMPTCP(),
	}
	if l.ready.Netns, err = ownNetns(); err != nil {
		return err
	}
	if l.peer, err = startHelper("peer", protocol{c.bothMPTCP(), c.ktls}, nil); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	l.ready.Peer = l.peer.pid()

	// A call that blocks for ever must not hang the test that waits for us. Taking the
	// process down takes the helpers too.
	guard := time.AfterFunc(2*patience, func() {
		fmt.Fprintln(os.Stderr, "leaker: not ready in time")
		os.Exit(1)
	})
	if err := c.cause.make(l); err != nil {
		return fmt.Errorf("make %s: %w", c.cause.name, err)
	}
	guard.Stop()
	if c.closeAfter > 0 {
		l.background = closeEach(l)
	}
	return l.report(in, out)
}

// report prints the ready line and waits for the end, running what goes on meanwhile.
func (l *leak) report(in io.Reader, out io.Writer) error {
	var mu sync.Mutex
	enc := json.NewEncoder(out)
	tell := func(line facts.Line) error {
		mu.Lock()
		defer mu.Unlock()
		return enc.Encode(line)
	}
	if err := tell(facts.Line{Event: facts.EventReady, Ready: &l.ready}); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	ended := make(chan error, 2)
	go func() {
		_, err := io.Copy(io.Discard, in)
		ended <- err
	}()
	if l.background != nil {
		go func() {
			if err := l.background(tell); err != nil {
				ended <- err
			}
		}()
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	select {
	case err := <-ended:
		return err
	case <-signals:
		return nil
	}
}

func (l *leak) stop() error {
	var err error
	if l.holder != nil {
		err = l.holder.stop()
	}
	return errors.Join(err, l.peer.stop())
}

func ownNetns() (uint32, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("read own network namespace: %w", err)
	}
	return uint32(st.Ino), nil
}
