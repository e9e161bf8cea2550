package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv/facts"
)

// payload is how many bytes a peer sends; streamEvery the pace of half_close.
const (
	payload     = 7
	streamEvery = 20 * time.Millisecond
)

// cause is one way to leak.
type cause struct {
	name string
	// expect is the word of tcpwaitd for it.
	expect string
	make   func(*leak) error
	// closable: the leader itself has the descriptors, so -close-after can apply.
	closable bool
}

func causes() []cause {
	return []cause{
		{"unaccepted", "unaccepted", unaccepted, false},
		{"unread_data", "unread_data", unreadData, true},
		// Some of what came is read. Kernel TLS decrypts whole records and keeps the rest itself.
		{"unread_rest", "unread_data", unreadRest, true},
		{"unread_eof", "unread_eof", unreadEOF, true},
		{"eof_ignored", "eof_ignored", eofIgnored, true},
		// Without having watched the reads this looks like eof_ignored.
		{"eof_unsaid", "unread_eof", eofUnsaid, true},
		{"half_close", "half_close", halfClose, false},
		{"half_close_stalled", "half_close", halfCloseStalled, true},
		{"zombie_fd", "zombie_fd", zombieFD, true},
		{"out_eof", "unread_eof", outEOF, true},
		{"out_eof_ignored", "eof_ignored", outEOFIgnored, true},
		{"held_elsewhere", "held_elsewhere", heldElsewhere, false},
		{"fd_passed", "held_elsewhere", fdPassed, false},
		{"in_flight", "in_flight", inFlight, false},
		{"healthy", "", healthy, false},
		{"grow", "eof_ignored", grow, false},
		{"grow_unread", "unread_eof", grow, false},
	}
}

// config is the command line.
type config struct {
	cause      cause
	n          int
	addr       netip.Addr
	listen     netip.Addr
	port       uint16
	mptcp      bool
	plainPeer  bool
	ktls       bool
	every      time.Duration
	closeAfter time.Duration
}

// leak is one leak in the making. own are the leading process's sockets.
type leak struct {
	config
	own    *endpoint
	peer   *helper
	holder *helper
	// inFlight keeps the unix sockets that descriptors are stuck in.
	inFlight [2]int
	// background starts after the ready line, nil for nothing.
	background func(tell func(facts.Line) error) error
	ready      facts.Ready
}

// listenAll opens the listening socket on our side.
func (l *leak) listenAll() (err error) {
	l.ready.Lport, err = l.own.listen(netip.AddrPortFrom(l.listen, l.port), l.n)
	return err
}

func (l *leak) target() netip.AddrPort { return netip.AddrPortFrom(l.addr, l.ready.Lport) }

// establish makes n accepted connections, some at a time: the accept queue is limited by
// net.core.somaxconn.
func (l *leak) establish() error {
	if err := l.listenAll(); err != nil {
		return err
	}
	const chunk = 256
	for left := l.n; left > 0; left -= chunk {
		if _, err := l.peer.do(request{Op: "connect", Addr: l.target(), N: min(left, chunk)}); err != nil {
			return err
		}
		if err := l.own.accept(min(left, chunk)); err != nil {
			return err
		}
	}
	return nil
}

// end lets the peer end its side and notes when.
func (l *leak) end(r request) error {
	answer, err := l.peer.do(r)
	l.ready.Entered = answer.Marks
	return err
}

// confirm adds what was seen from this side to what the peer noted; both are in the
// order of the connections.
func (l *leak) confirm(seen []facts.Socket, err error) error {
	if err != nil {
		return err
	}
	if len(seen) != len(l.ready.Entered) {
		return fmt.Errorf("%d sockets here, %d at the peer", len(seen), len(l.ready.Entered))
	}
	for i := range seen {
		s := &l.ready.Entered[i]
		s.FD, s.Cookie, s.Seen = seen[i].FD, seen[i].Cookie, seen[i].Seen
	}
	return nil
}

// steps runs one after the other until one fails.
func steps(all ...func() error) error {
	for _, step := range all {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// peerDoes is a step.
func (l *leak) peerDoes(r request) func() error {
	return func() error {
		_, err := l.peer.do(r)
		return err
	}
}

func (l *leak) peerEnds(r request) func() error { return func() error { return l.end(r) } }

// inCloseWait waits for it with so many bytes unread, as the peer sent them.
func (l *leak) inCloseWait(inq int) func() error {
	if l.ktls && inq > 0 {
		inq += recordOverhead
	}
	return func() error { return l.confirm(l.own.verify(stateCloseWait, inq)) }
}

func (l *leak) reads(n int) func() error { return func() error { return l.own.read(n) } }

func unaccepted(l *leak) error {
	return steps(l.listenAll,
		l.peerAtUs("connect", l.n),
		l.peerEnds(request{Op: "close"}),
		func() error { return verifyTable(l.ready.Lport, l.n, 1) },
	)
}

// peerAtUs addresses the listener, whose port is known only when the step runs.
func (l *leak) peerAtUs(op string, n int) func() error {
	return func() error {
		_, err := l.peer.do(request{Op: op, Addr: l.target(), N: n})
		return err
	}
}

func unreadData(l *leak) error {
	return steps(l.establish,
		l.peerDoes(request{Op: "send", N: payload}),
		l.peerEnds(request{Op: "close"}),
		l.inCloseWait(payload))
}

func unreadRest(l *leak) error {
	return steps(func() error { return unreadData(l) }, l.reads(payload-1))
}

func unreadEOF(l *leak) error {
	return steps(l.establish, l.peerEnds(request{Op: "close"}), l.inCloseWait(0))
}

func eofIgnored(l *leak) error {
	return steps(func() error { return unreadEOF(l) }, l.reads(0))
}

// eofUnsaid reads exactly the data after the FIN came in the same segment: the kernel
// then moves past the FIN without recv() ever having returned 0.
func eofUnsaid(l *leak) error {
	return steps(l.establish,
		l.peerDoes(request{Op: "send_more", N: payload}),
		l.peerEnds(request{Op: "close"}),
		l.inCloseWait(payload),
		l.reads(payload),
		l.inCloseWait(0))
}

func halfClose(l *leak) error {
	if err := halfCloseStalled(l); err != nil {
		return err
	}
	l.background = func(func(facts.Line) error) error {
		for {
			time.Sleep(streamEvery)
			if err := l.own.send(payload, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// halfCloseStalled sends once after the peer's FIN and then no more.
func halfCloseStalled(l *leak) error {
	return steps(l.establish,
		l.peerDoes(request{Op: "drain"}),
		l.peerEnds(request{Op: "shutdown", How: unix.SHUT_WR}),
		l.inCloseWait(0),
		l.reads(0),
		func() error { return l.own.send(payload, false) })
}

func zombieFD(l *leak) error {
	return steps(func() error { return unreadEOF(l) },
		func() error {
			_, err := l.own.shutdown(unix.SHUT_RDWR)
			return err
		},
		func() error {
			_, err := l.own.verify(stateClose, 0)
			return err
		})
}

// outEOF is the connecting side that does not notice the end: an idle pool.
func outEOF(l *leak) error {
	answer, err := l.peer.do(request{Op: "listen", Addr: netip.AddrPortFrom(l.listen, l.port), N: l.n})
	if err != nil {
		return err
	}
	l.ready.Lport = answer.Port
	const chunk = 256
	for left := l.n; left > 0; left -= chunk {
		n := min(left, chunk)
		if err := l.own.connect(l.target(), n); err != nil {
			return err
		}
		if _, err := l.peer.do(request{Op: "accept", N: n}); err != nil {
			return err
		}
	}
	return steps(l.peerEnds(request{Op: "close"}), l.inCloseWait(0))
}

func outEOFIgnored(l *leak) error {
	return steps(func() error { return outEOF(l) }, l.reads(0))
}

// heldElsewhere forks with the descriptors inherited; then the parent closes its own.
func heldElsewhere(l *leak) error {
	return steps(l.establish,
		func() (err error) {
			files := make([]*os.File, 0, l.n)
			for _, fd := range l.own.socks {
				files = append(files, os.NewFile(uintptr(fd), "socket"))
			}
			l.holder, err = startHelper("holder", l.own.protocol, files)
			for _, f := range files {
				_ = f.Close()
			}
			l.own.socks = nil
			return err
		},
		func() error { return l.handedOver("inherit") })
}

// fdPassed sends the descriptors to another process, which forgets them.
func fdPassed(l *leak) error {
	return steps(l.establish,
		func() error {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("make unix sockets: %w", err)
			}
			theirs := os.NewFile(uintptr(pair[1]), "unix")
			l.holder, err = startHelper("holder", l.own.protocol, []*os.File{theirs})
			_ = theirs.Close()
			if err != nil {
				return err
			}
			if err := l.own.pass(pair[0]); err != nil {
				return err
			}
			_, err = l.own.close()
			return err
		},
		func() error { return l.handedOver("receive") })
}

// handedOver lets the holder take the sockets and the peer end them.
func (l *leak) handedOver(op string) error {
	l.ready.Pid = l.holder.pid()
	return steps(
		func() error {
			_, err := l.holder.do(request{Op: op, N: l.n})
			return err
		},
		l.peerEnds(request{Op: "close"}),
		func() error {
			answer, err := l.holder.do(request{Op: "verify"})
			return l.confirm(answer.Marks, err)
		})
}

// inFlight leaves the only descriptors in a message that nobody receives.
func inFlight(l *leak) error {
	l.ready.Pid = 0
	return steps(func() error { return unreadEOF(l) },
		func() (err error) {
			l.inFlight, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("make unix sockets: %w", err)
			}
			if err := l.own.pass(l.inFlight[0]); err != nil {
				return err
			}
			_, err = l.own.close()
			for i := range l.ready.Entered {
				l.ready.Entered[i].FD = -1
			}
			return err
		},
		func() error {
			if l.bothMPTCP() {
				return nil // the table shows subflows only
			}
			return verifyTable(l.ready.Lport, l.n, 1)
		})
}

// healthy serves n short connections as it should be done.
func healthy(l *leak) error {
	l.ready.Pid = 0
	if err := l.listenAll(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- l.peerAtUs("churn", l.n)() }()
	for range l.n {
		err := steps(func() error { return l.own.accept(1) }, l.reads(1), l.reads(0))
		if err != nil {
			return err
		}
		if _, err := l.own.close(); err != nil {
			return err
		}
	}
	return <-done
}

// grow leaks one more socket every so often, up to n, after the ready line. Once it has
// no descriptors left (-nofile) it stops accepting while the clients keep coming.
// grow_unread does not read the end either, as an idle pool.
func grow(l *leak) error {
	if err := l.listenAll(); err != nil {
		return err
	}
	l.background = func(tell func(facts.Line) error) error {
		full := false
		for range l.n {
			socket, err := l.growByOne(full)
			line := facts.Line{Event: facts.EventSocket, Socket: socket}
			if errors.Is(err, unix.EMFILE) {
				full, line = true, facts.Line{Event: facts.EventFull, At: monotonic()}
				_, err = l.peer.do(request{Op: "close"})
			}
			if err == nil && (!full || line.Event == facts.EventFull) {
				err = tell(line)
			}
			if err != nil {
				return err
			}
			time.Sleep(l.every)
		}
		return nil
	}
	return nil
}

// growByOne makes one more connection, closed by the peer; full leaves it in the queue.
func (l *leak) growByOne(full bool) (*facts.Socket, error) {
	one := &leak{config: l.config, own: &endpoint{protocol: l.own.protocol, listener: l.own.listener}, peer: l.peer}
	one.ready.Lport = l.ready.Lport
	if full {
		return nil, steps(one.peerAtUs("connect", 1), one.peerEnds(request{Op: "close"}))
	}
	err := steps(one.peerAtUs("connect", 1),
		func() error { return one.own.accept(1) },
		one.peerEnds(request{Op: "close"}),
		one.inCloseWait(0))
	if err == nil && l.cause.expect == "eof_ignored" {
		err = one.own.read(0)
	}
	if err != nil {
		return nil, err
	}
	return &one.ready.Entered[0], nil
}

// closeEach is the background of a timed wait: each socket is closed some time after
// its peer ended it.
func closeEach(l *leak) func(func(facts.Line) error) error {
	return func(tell func(facts.Line) error) error {
		for i := range l.ready.Entered {
			s := l.ready.Entered[i]
			time.Sleep(time.Duration(s.After + int64(l.closeAfter) - monotonic()))
			line := facts.Line{Event: facts.EventClosed, Socket: &s, CloseBefore: monotonic()}
			if err := unix.Close(s.FD); err != nil {
				return fmt.Errorf("close: %w", err)
			}
			line.CloseAfter = monotonic()
			if err := tell(line); err != nil {
				return err
			}
		}
		return nil
	}
}
