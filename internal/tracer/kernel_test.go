package tracer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// The MPTCP path manager listens on the port of an announced address by itself: a socket
// nobody opened.
func TestKernelsOwnSocket(t *testing.T) {
	ns := testenv.NewNetns(t)
	const port = 4243
	err := ns.Do(func() error { return announce(port) })
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP) {
		testenv.Skip(t, "mptcp", err.Error())
	} else if err != nil {
		t.Fatal(err)
	}
	tr := openIn(t, ns, Config{})
	l := listen(t, ns, "127.0.0.1:0")
	p := connect(t, ns, l, 1)[0]
	dialOnly(t, ns, l.Addr().String(), 1)
	waiting(t, ns)
	snap, err := tr.Snapshot(t.Context(), SnapshotOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var kernels int
	for i := range snap.Sockets {
		s := &snap.Sockets[i]
		own := s.State == event.Listen && s.Flow.Local.Port() == port
		if own {
			kernels++
		}
		if s.Kernel != own {
			t.Errorf("%v %v: the kernel's own %v", s.State, s.Flow, s.Kernel)
		}
	}
	if kernels != 1 {
		t.Errorf("%d sockets on port %d", kernels, port)
	}
	socketTo(t, snap, localPort(p.client))
}

// announce adds an address with a port to those that MPTCP offers its peers.
func announce(port uint16) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	name := attribute(unix.CTRL_ATTR_FAMILY_NAME, append([]byte("mptcp_pm"), 0))
	answer, err := ask(fd, unix.GENL_ID_CTRL, unix.CTRL_CMD_GETFAMILY, name)
	if err != nil {
		return err
	}
	var family uint16
	for len(answer) >= 4 {
		size := int(binary.NativeEndian.Uint16(answer))
		if binary.NativeEndian.Uint16(answer[2:]) == unix.CTRL_ATTR_FAMILY_ID {
			family = binary.NativeEndian.Uint16(answer[4:])
		}
		answer = answer[min(len(answer), (size+3)&^3):]
	}
	native := binary.NativeEndian
	// include/uapi/linux/mptcp.h: MPTCP_PM_ADDR_ATTR_{FAMILY,ADDR4,PORT,FLAGS}, all in
	// MPTCP_PM_ATTR_ADDR.
	const flagSignal = 1
	address := slices.Concat(
		attribute(1, native.AppendUint16(nil, unix.AF_INET)),
		attribute(3, []byte{127, 0, 0, 1}),
		attribute(5, native.AppendUint16(nil, port)),
		attribute(6, native.AppendUint32(nil, flagSignal)),
	)
	const cmdAddAddr = 1
	_, err = ask(fd, family, cmdAddAddr, attribute(1|unix.NLA_F_NESTED, address))
	return err
}

func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	return append(b, make([]byte, -len(b)&3)...)
}

// ask sends one generic netlink request and returns the attributes of the answer.
func ask(fd int, family uint16, command uint8, attributes []byte) ([]byte, error) {
	native := binary.NativeEndian
	b := native.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+unix.GENL_HDRLEN+len(attributes)))
	b = native.AppendUint16(b, family)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = append(b, make([]byte, 8)...) // sequence and port
	b = append(b, command, 1, 0, 0)
	if err := unix.Sendto(fd, append(b, attributes...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var answer []byte
	for {
		buf := make([]byte, 8192)
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return nil, err
		}
		if buf = buf[:n]; native.Uint16(buf[4:]) != unix.NLMSG_ERROR {
			answer = buf[unix.NLMSG_HDRLEN+unix.GENL_HDRLEN:]
			continue
		}
		if code := int32(native.Uint32(buf[unix.NLMSG_HDRLEN:])); code != 0 {
			return nil, unix.Errno(-code)
		}
		return answer, nil
	}
}

// Each end awaits what the other sends next: established, half closed, and when only a
// mini-socket is left.
func TestSequenceNumbers(t *testing.T) {
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{})
	l := listen(t, ns, "127.0.0.1:0")
	p := connect(t, ns, l, 1)[0]
	write(t, p.client, 7)
	write(t, p.server, 23)
	// What one has sent the other has to have, before their numbers are compared.
	for _, bytes := range []uint32{7, 23} {
		awaitTable(t, ns, fmt.Sprintf("have %d bytes unread", bytes), func(r testenv.TCPRow) bool {
			return r.State == event.Established && r.RecvQ == bytes
		}, 1)
	}
	checkEnds(t, tr, p, event.Established, event.Established)
	if err := p.client.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	checkEnds(t, tr, p, event.FinWait2, event.CloseWait)
	var b [23]byte
	if _, err := p.client.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	p.client.Close()
	// By now it is a mini-socket.
	server := checkEnds(t, tr, p, event.FinWait2, event.CloseWait)
	if _, err := p.server.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	p.server.Close()
	snap := snapshot(t, tr, event.TimeWait)
	for deadline := time.Now().Add(patience); len(snap.Sockets) < 1 && time.Now().Before(deadline); {
		snap = snapshot(t, tr, event.TimeWait)
	}
	left := socketTo(t, snap, portOf(l))
	// The server's FIN counts as one.
	if !left.SeqKnown || left.RcvNxt != server.SndNxt+1 || left.SndNxt != server.RcvNxt {
		t.Errorf("TIME_WAIT %d, %d (%v); the other end was at %d, %d", left.SndNxt, left.RcvNxt, left.SeqKnown, server.SndNxt, server.RcvNxt)
	}
	for _, s := range snapshot(t, tr, event.Listen).Sockets {
		if s.SeqKnown {
			t.Errorf("a listener with numbers: %+v", s)
		}
	}
}

func checkEnds(t *testing.T, tr *Tracer, p pair, client, server event.State) *event.Socket {
	t.Helper()
	snap := snapshot(t, tr, client, server)
	// An ACK may be late.
	for deadline := time.Now().Add(patience); len(snap.Sockets) < 2 && time.Now().Before(deadline); {
		snap = snapshot(t, tr, client, server)
	}
	c := socketTo(t, snap, uint16(p.client.RemoteAddr().(*net.TCPAddr).Port))
	s := socketTo(t, snap, localPort(p.client))
	if c.State != client || s.State != server || !c.SeqKnown || !s.SeqKnown {
		t.Errorf("%v (%v) and %v (%v), want %v and %v", c.State, c.SeqKnown, s.State, s.SeqKnown, client, server)
	}
	if c.SndNxt != s.RcvNxt || c.RcvNxt != s.SndNxt || c.SndNxt == 0 {
		t.Errorf("%v: client %d, %d, server %d, %d", client, c.SndNxt, c.RcvNxt, s.SndNxt, s.RcvNxt)
	}
	return s
}
