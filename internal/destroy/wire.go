package destroy

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// id names a socket as struct inet_diag_sockid does, with the family beside it.
type id struct {
	family        uint8
	local, remote netip.AddrPort
	device        uint32
	cookie        event.Cookie
}

// request is struct inet_diag_req_v2 for TCP.
type request struct {
	id
	states event.StateSet
}

// Sizes and places in include/uapi/linux/inet_diag.h.
const (
	idSize      = 48
	requestSize = 8 + idSize
	// messageSize is struct inet_diag_msg: family, state and two bytes before the id, five
	// words after it.
	idAt        = 4
	messageSize = idAt + idSize + 20
)

// connected are the states in which a socket has a peer of its own.
var connected = event.SetOf(event.Established, event.SynSent, event.SynRecv, event.FinWait1, event.FinWait2,
	event.CloseWait, event.LastAck, event.Closing)

// idOf asks for IPv4 where the flow is IPv4 on the wire: that finds IPv6 sockets that
// speak it as well.
func idOf(cookie event.Cookie, flow event.Flow) id {
	i := id{family: unix.AF_INET6, local: unmap(flow.Local), remote: unmap(flow.Remote), cookie: cookie}
	if i.local.Addr().Is4() {
		i.family = unix.AF_INET
	}
	return i
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

func (r *request) append(dst []byte) []byte {
	const noAttributes, padding = 0, 0
	dst = append(dst, r.family, unix.IPPROTO_TCP, noAttributes, padding)
	dst = binary.NativeEndian.AppendUint32(dst, uint32(r.states))
	dst = binary.BigEndian.AppendUint16(dst, r.local.Port())
	dst = binary.BigEndian.AppendUint16(dst, r.remote.Port())
	dst = r.appendAddr(dst, r.local.Addr())
	dst = r.appendAddr(dst, r.remote.Addr())
	dst = binary.NativeEndian.AppendUint32(dst, r.device)
	// The low half comes first, whatever the byte order.
	dst = binary.NativeEndian.AppendUint32(dst, uint32(r.cookie))
	return binary.NativeEndian.AppendUint32(dst, uint32(r.cookie>>32))
}

// appendAddr fills the 16 bytes as the family wants them; no address is all zeros.
func (r *request) appendAddr(dst []byte, a netip.Addr) []byte {
	var b [16]byte
	switch {
	case !a.IsValid():
	case r.family == unix.AF_INET:
		four := a.Unmap()
		if four.Is4() {
			*(*[4]byte)(b[:]) = four.As4()
		}
	default:
		b = a.As16()
	}
	return append(dst, b[:]...)
}

// parse reads a struct inet_diag_msg; attributes behind it are left alone.
func parse(message []byte) (Socket, error) {
	if len(message) < messageSize {
		return Socket{}, fmt.Errorf("parse socket: %d bytes, want %d", len(message), messageSize)
	}
	family, state, b := message[0], message[1], message[idAt:]
	s := Socket{State: event.State(state), id: id{
		family: family,
		device: binary.NativeEndian.Uint32(b[36:]),
		cookie: event.Cookie(binary.NativeEndian.Uint32(b[40:])) | event.Cookie(binary.NativeEndian.Uint32(b[44:]))<<32,
	}}
	addr := func(at int) netip.Addr {
		if family == unix.AF_INET {
			return netip.AddrFrom4([4]byte(b[at : at+4]))
		}
		return netip.AddrFrom16([16]byte(b[at : at+16]))
	}
	s.id.local = netip.AddrPortFrom(addr(4), binary.BigEndian.Uint16(b))
	s.id.remote = netip.AddrPortFrom(addr(20), binary.BigEndian.Uint16(b[2:]))
	return s, nil
}
