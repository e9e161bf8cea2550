package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv/facts"
)

// verify waits until every socket is in the state, with inq bytes unread, and returns
// what it saw of each.
func (e *endpoint) verify(state uint8, inq int) ([]facts.Socket, error) {
	seen := make([]facts.Socket, 0, len(e.socks))
	for _, fd := range e.socks {
		what := fmt.Sprintf("state %d with %d bytes on descriptor %d", state, inq, fd)
		err := poll(what, func() (bool, error) { return is(fd, state, inq) })
		if err != nil {
			return nil, err
		}
		s := facts.Socket{FD: fd, Seen: monotonic()}
		if s.Cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
			return nil, fmt.Errorf("read cookie: %w", err)
		}
		seen = append(seen, s)
	}
	return seen, nil
}

func is(fd int, state uint8, inq int) (bool, error) {
	queued, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if err != nil {
		return false, fmt.Errorf("ask for bytes unread: %w", err)
	}
	// Not by what we asked for: with a peer that speaks plain TCP an MPTCP listener gives
	// plain TCP sockets.
	proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return false, fmt.Errorf("ask for protocol: %w", err)
	}
	if proto == unix.IPPROTO_MPTCP {
		ok, err := mptcpIs(fd, state)
		// At the end of the data MPTCP counts one more (mptcp_inq_hint in net/mptcp/protocol.c).
		return ok && (queued == inq || queued == inq+1), err
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		return false, fmt.Errorf("ask for TCP_INFO: %w", err)
	}
	return info.State == state && queued == inq, nil
}

// mptcpIs tells the state of an MPTCP socket by poll(): TCP_INFO speaks of its first
// subflow, which stays ESTABLISHED after the end of the data.
func mptcpIs(fd int, state uint8) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	if _, err := retry(func() (int, error) { return unix.Poll(fds, 0) }); err != nil {
		return false, fmt.Errorf("poll: %w", err)
	}
	want := int16(unix.POLLRDHUP)
	if state == stateClose {
		want = unix.POLLHUP
	}
	return fds[0].Revents&want != 0, nil
}

// verifyTable waits until the kernel's table of this namespace has n sockets in
// CLOSE_WAIT on the port, each with recvq in the receive queue (the FIN counts one). It
// also sees sockets that no descriptor leads to.
func verifyTable(lport uint16, n, recvq int) error {
	want := fmt.Sprintf("%d sockets in CLOSE_WAIT on port %d", n, lport)
	return poll(want, func() (bool, error) {
		found := 0
		for _, name := range []string{"tcp", "tcp6"} {
			table, err := os.ReadFile("/proc/thread-self/net/" + name)
			if os.IsNotExist(err) && name == "tcp6" {
				continue // no IPv6 here
			}
			if err != nil {
				return false, fmt.Errorf("read socket table: %w", err)
			}
			found += countRows(table, lport, recvq)
		}
		return found == n, nil
	})
}

// countRows reads "sl local remote st tx:rx ..." in hex.
func countRows(table []byte, lport uint16, recvq int) int {
	n := 0
	for line := range bytes.Lines(table) {
		f := bytes.Fields(line)
		if len(f) < 5 || string(f[3]) != "08" {
			continue
		}
		_, port, _ := bytes.Cut(f[1], []byte(":"))
		_, rx, _ := bytes.Cut(f[4], []byte(":"))
		if hex(port) == int64(lport) && hex(rx) == int64(recvq) {
			n++
		}
	}
	return n
}

// hex returns -1 for what is no number.
func hex(b []byte) int64 {
	v, err := strconv.ParseInt(string(b), 16, 64)
	if err != nil {
		return -1
	}
	return v
}
