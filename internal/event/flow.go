package event

import "net/netip"

// Cookie is the kernel's socket cookie: unique for the life of the host. 0 is
// unknown.
type Cookie uint64

// Protocol is the socket's IP protocol number.
type Protocol uint16

// MPTCP sockets (msk) are a protocol of their own above TCP subflows.
const (
	TCP   Protocol = 6
	MPTCP Protocol = 262
)

// String returns "tcp" or "mptcp".
func (p Protocol) String() string {
	if p == MPTCP {
		return "mptcp"
	}
	return "tcp"
}

// Direction says which side opened the connection.
type Direction uint8

// In is an accepted (or to be accepted) connection, Out a connected one.
const (
	DirectionUnknown Direction = iota
	In
	Out
)

// String returns "in", "out" or "" for unknown.
func (d Direction) String() string {
	switch d {
	case In:
		return "in"
	case Out:
		return "out"
	default:
		return ""
	}
}

// Flow is the addressing of one socket. IPv4 on an IPv6 socket (::ffff:a.b.c.d)
// is IPv4 here, as on the wire. A zero port is unknown (or any, for LISTEN).
type Flow struct {
	Local  netip.AddrPort
	Remote netip.AddrPort
	// Netns is the inode number of the network namespace.
	Netns    uint32
	Protocol Protocol
}

// Family returns "ipv4" or "ipv6" as seen on the wire, "" where no address is known.
func (f Flow) Family() string {
	switch a := f.Local.Addr(); {
	case a.Is4():
		return "ipv4"
	case a.Is6():
		return "ipv6"
	default:
		return ""
	}
}

// Reverse returns the flow as the peer sees it, if the peer is in the same
// namespace.
func (f Flow) Reverse() Flow {
	f.Local, f.Remote = f.Remote, f.Local
	return f
}
