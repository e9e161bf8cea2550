package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv/facts"
)

// Kernel state numbers (include/net/tcp_states.h).
const (
	stateClose     = 7
	stateCloseWait = 8
)

// patience bounds every wait for a kernel fact.
const patience = 20 * time.Second

// protocol is what a side's sockets speak, plain TCP by default.
type protocol struct{ mptcp, ktls bool }

// endpoint is one side's sockets, used by plain system calls: blocking, in the order
// they were made.
type endpoint struct {
	protocol
	listener int
	socks    []int
}

func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // cannot fail
	}
	return ts.Nano()
}

// poll asks until ready says so.
func poll(what string, ready func() (bool, error)) error {
	for end := monotonic() + int64(patience); ; time.Sleep(time.Millisecond) {
		ok, err := ready()
		if ok || err != nil {
			return err
		}
		if monotonic() > end {
			return fmt.Errorf("wait for %s: not within %v", what, patience)
		}
	}
}

// retry repeats a call that a signal interrupted: Go preempts threads by signals.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}

func (e *endpoint) socket(addr netip.Addr) (int, error) {
	family, proto := unix.AF_INET6, unix.IPPROTO_TCP
	if addr.Is4() {
		family = unix.AF_INET
	}
	if e.mptcp {
		proto = unix.IPPROTO_MPTCP
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	return fd, nil
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
}

func portOf(sa unix.Sockaddr) uint16 {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return uint16(sa.Port)
	case *unix.SockaddrInet6:
		return uint16(sa.Port)
	default:
		return 0
	}
}

// listen returns the port. The backlog has room for n connections that nobody accepts.
func (e *endpoint) listen(ap netip.AddrPort, n int) (uint16, error) {
	fd, err := e.socket(ap.Addr())
	if err != nil {
		return 0, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return 0, fmt.Errorf("set SO_REUSEADDR: %w", err)
	}
	if err := unix.Bind(fd, sockaddr(ap)); err != nil {
		return 0, fmt.Errorf("bind %v: %w", ap, err)
	}
	if err := unix.Listen(fd, n+16); err != nil {
		return 0, fmt.Errorf("listen: %w", err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return 0, fmt.Errorf("read listening port: %w", err)
	}
	e.listener = fd
	return portOf(sa), nil
}

func (e *endpoint) connect(ap netip.AddrPort, n int) error {
	for range n {
		fd, err := e.socket(ap.Addr())
		if err != nil {
			return err
		}
		e.socks = append(e.socks, fd)
		// An interrupted connect() goes on in the kernel; asking again waits for it.
		_, err = retry(func() (int, error) { return 0, unix.Connect(fd, sockaddr(ap)) })
		if err != nil && !errors.Is(err, unix.EISCONN) {
			return fmt.Errorf("connect to %v: %w", ap, err)
		}
		if err := e.establish(fd); err != nil {
			return err
		}
	}
	return nil
}

func (e *endpoint) accept(n int) error {
	for range n {
		fd, err := retry(func() (int, error) {
			fd, _, err := unix.Accept4(e.listener, unix.SOCK_CLOEXEC)
			return fd, err
		})
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		e.socks = append(e.socks, fd)
		if err := e.establish(fd); err != nil {
			return err
		}
	}
	return nil
}

// establish does what a protocol needs of a connection before its first byte.
func (e *endpoint) establish(fd int) error {
	if !e.ktls {
		return nil
	}
	return speakTLS(fd)
}

// send writes n bytes to each socket. With more, the kernel keeps them back, so that
// a FIN that follows travels in the same segment.
func (e *endpoint) send(n int, more bool) error {
	flags := unix.MSG_NOSIGNAL
	if more {
		flags |= unix.MSG_MORE
	}
	payload := make([]byte, n)
	for _, fd := range e.socks {
		sent, err := retry(func() (int, error) { return unix.SendmsgN(fd, payload, nil, nil, flags) })
		if err != nil || sent != n {
			return fmt.Errorf("send %d bytes: sent %d: %w", n, sent, err)
		}
	}
	return nil
}

// read expects exactly n bytes from each socket, in one call; 0 is the end.
func (e *endpoint) read(n int) error {
	buf := make([]byte, max(n, 1))
	for _, fd := range e.socks {
		got, err := retry(func() (int, error) { return unix.Read(fd, buf) })
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if got != n {
			return fmt.Errorf("read: got %d bytes, want %d", got, n)
		}
	}
	return nil
}

func (e *endpoint) shutdown(how int) ([]facts.Socket, error) {
	return e.mark(func(fd int) error { return unix.Shutdown(fd, how) })
}

// close closes every socket. After an error the descriptor is closed all the same.
func (e *endpoint) close() ([]facts.Socket, error) {
	marks, err := e.mark(unix.Close)
	e.socks = nil
	return marks, err
}

// mark does something to each socket and notes when, and the flow as the other side
// sees it.
func (e *endpoint) mark(do func(int) error) ([]facts.Socket, error) {
	marks := make([]facts.Socket, 0, len(e.socks))
	for _, fd := range e.socks {
		local, err := unix.Getsockname(fd)
		if err != nil {
			return nil, fmt.Errorf("read local port: %w", err)
		}
		remote, err := unix.Getpeername(fd)
		if err != nil {
			return nil, fmt.Errorf("read remote port: %w", err)
		}
		m := facts.Socket{FD: -1, Lport: portOf(remote), Rport: portOf(local)}
		m.Before = monotonic()
		if err := do(fd); err != nil {
			return nil, err
		}
		m.After = monotonic()
		marks = append(marks, m)
	}
	return marks, nil
}

// drain reads and forgets, for ever.
func (e *endpoint) drain() {
	buf := make([]byte, 4096)
	fds := make([]unix.PollFd, len(e.socks))
	for i, fd := range e.socks {
		fds[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		for i := range fds {
			if fds[i].Revents == 0 {
				continue
			}
			if n, _, err := unix.Recvfrom(int(fds[i].Fd), buf, unix.MSG_DONTWAIT); n == 0 && err == nil {
				fds[i].Fd = -1 // the end: poll() skips negative descriptors
			}
		}
	}
}
