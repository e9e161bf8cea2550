package owner

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Index finds the descriptors of a socket. It shares memory with the holders it was made
// of, which must not change any more. Not for use from several goroutines.
type Index struct {
	holders []event.Holder
	cookies event.CookieIndex

	// passed are sorted by cookie, as a snapshot has them.
	passed []event.Passed

	listeners map[port][]event.Holder
	// waiting remembers the answers of Listeners: a full accept queue asks the same
	// question thousands of times.
	waiting map[queue][]event.Holder
}

type port struct {
	netns  uint32
	number uint16
}

type queue struct {
	netns uint32
	local netip.AddrPort
	proto event.Protocol
}

// NewIndex indexes holders, normally sorted as a snapshot has them; otherwise it sorts
// a copy.
func NewIndex(holders []event.Holder) *Index {
	if !sorted(holders) {
		holders = slices.Clone(holders)
		slices.SortFunc(holders, compareHolders)
	}
	x := &Index{
		holders:   holders,
		listeners: map[port][]event.Holder{},
		waiting:   map[queue][]event.Holder{},
	}
	x.build()
	return x
}

// Again returns the same index for another goroutine.
func (x *Index) Again() *Index {
	again := *x
	again.waiting = map[queue][]event.Holder{}
	return &again
}

// NewSnapshotIndex indexes the holders of a snapshot, and the messages.
func NewSnapshotIndex(snap *event.Snapshot) *Index {
	x := NewIndex(snap.Holders)
	x.passed = snap.Passed
	return x
}

// sorted looks at cookies only, by reference: Holder is large.
func sorted(holders []event.Holder) bool {
	for i := 1; i < len(holders); i++ {
		if holders[i].Cookie < holders[i-1].Cookie {
			return false
		}
	}
	return true
}

func compareHolders(a, b event.Holder) int {
	if a.Cookie != b.Cookie {
		return cmp.Compare(a.Cookie, b.Cookie)
	}
	return cmp.Or(cmp.Compare(a.Pid, b.Pid), cmp.Compare(a.FD, b.FD))
}

func (x *Index) build() {
	x.cookies = event.NewCookieIndex(len(x.holders), func(i int) event.Cookie { return x.holders[i].Cookie })
	for i := range x.holders {
		if h := &x.holders[i]; h.State == event.Listen {
			f := h.Accepts().Flow
			key := port{f.Netns, f.Local.Port()}
			x.listeners[key] = append(x.listeners[key], *h)
		}
	}
}

// ByCookie returns the descriptors of a socket, by pid and number; nil if there are none.
func (x *Index) ByCookie(c event.Cookie) []event.Holder { return x.from(x.First(c)) }

// First is the number of a socket's first descriptor, negative if it has none.
func (x *Index) First(c event.Cookie) int { return x.cookies.First(c) }

// from returns the descriptors of the socket whose first one has this number.
func (x *Index) from(first int) []event.Holder {
	if first < 0 {
		return nil
	}
	end := first + 1
	for end < len(x.holders) && x.holders[end].Cookie == x.holders[first].Cookie {
		end++
	}
	return x.holders[first:end:end]
}

// Passed returns the messages that refer to a socket.
func (x *Index) Passed(c event.Cookie) []event.Passed {
	first, _ := slices.BinarySearchFunc(x.passed, c, func(p event.Passed, c event.Cookie) int { return cmp.Compare(p.Cookie, c) })
	end := first
	for end < len(x.passed) && x.passed[end].Cookie == c {
		end++
	}
	return x.passed[first:end:end]
}

// Listeners returns the descriptors of the listening socket in whose accept queue a
// connection with this flow may wait: for connections that were found in no queue. More
// than one socket is returned where SO_REUSEPORT leaves it open which one it is.
func (x *Index) Listeners(f event.Flow) []event.Holder {
	key := queue{f.Netns, netip.AddrPortFrom(f.Local.Addr().Unmap(), f.Local.Port()), f.Protocol}
	found, ok := x.waiting[key]
	if !ok {
		found = pick(x.listeners[port{f.Netns, f.Local.Port()}], key)
		x.waiting[key] = found
	}
	return found
}

// pick first leaves out the listeners with an empty queue, as long as others remain:
// one may have been opened on a better address after the connection came. Then it
// keeps the best address.
func pick(candidates []event.Holder, q queue) []event.Holder {
	best, queued := 0, false
	var found []event.Holder
	for _, h := range candidates {
		a := h.Accepts()
		rank := match(a.Flow, q)
		if rank == 0 {
			continue
		}
		// The queue of an MPTCP listener belongs to its subflow and may read as 0.
		waits := a.QueueLen > 0 || a.Flow.Protocol == event.MPTCP
		switch {
		case waits && !queued, waits == queued && rank > best:
			best, queued, found = rank, waits, append(found[:0], h)
		case waits == queued && rank == best:
			found = append(found, h)
		}
	}
	return slices.Clip(found)
}

// match ranks a listener for a connection as the kernel's inet_lookup_listener does:
// 0 none, 1 an IPv6 wildcard for IPv4, 2 the wildcard, 3 the very address. Whether
// :: is for IPv6 only is not known here; if it were, nothing could wait in it.
func match(listener event.Flow, q queue) int {
	// A TCP connection may wait at an MPTCP listener, its client not speaking MPTCP;
	// never the other way.
	if q.proto == event.MPTCP && listener.Protocol != event.MPTCP {
		return 0
	}
	addr := listener.Local.Addr().Unmap()
	switch {
	case !addr.IsValid():
		return 0
	case addr.WithZone("") == q.local.Addr().WithZone(""):
		return 3
	case !addr.IsUnspecified():
		return 0
	case addr.Is4() == q.local.Addr().Is4():
		return 2
	case addr.Is6():
		return 1
	default:
		return 0
	}
}

// Case joins one socket with its descriptors, or with those of the listener that should
// accept it. known: the descriptors were looked for, so none means there are none.
// An MPTCP subflow has the descriptors of the connection it belongs to.
func (x *Index) Case(s *event.Socket, known bool) diagnosis.Case {
	c := diagnosis.Case{Socket: *s, HoldersKnown: known}
	x.Join(&c, x.First(c.Cookie))
	return c
}

// Join adds what Case does to a case that has its socket, whose first descriptor is First.
func (x *Index) Join(c *diagnosis.Case, first int) {
	c.Holders = x.from(first)
	if c.Holders == nil && c.Subflow {
		if c.Parent == 0 {
			return // it cannot be told whether its connection was accepted
		}
		c.Holders = x.ByCookie(c.Parent)
	}
	switch {
	case c.Holders != nil:
	case !inAcceptQueue(&c.Socket):
		c.Passed = x.Passed(c.Cookie)
	case c.Listener != 0:
		c.Listeners = x.ByCookie(c.Listener)
	default:
		c.Listeners = x.Listeners(c.Flow)
	}
}

// inAcceptQueue: a socket without inode has not been accepted, or its last descriptor is
// closed. The second kind is never in these states: close() has left them. CLOSE is a
// connection reset while it waited.
func inAcceptQueue(s *event.Socket) bool {
	if s.Inode != 0 || s.Direction == event.Out {
		return false
	}
	switch s.State {
	case event.Established, event.CloseWait, event.SynRecv:
		return true
	case event.Close:
		return s.WasConnected
	default:
		return false
	}
}

// Cases joins sockets of a snapshot, in their order. The cases share the snapshot's holders.
func Cases(snap *event.Snapshot, sockets iter.Seq[*event.Socket]) []diagnosis.Case {
	x := NewSnapshotIndex(snap)
	// Counted before: a case is large, and there can be a million.
	n := 0
	for range sockets {
		n++
	}
	cases := make([]diagnosis.Case, 0, n)
	for s := range sockets {
		cases = append(cases, diagnosis.Case{Socket: *s, HoldersKnown: snap.HoldersKnown})
		x.Join(&cases[len(cases)-1], x.First(s.Cookie))
	}
	return cases
}
