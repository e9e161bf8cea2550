package ports

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Destination is what connect() needs a port of its own for. Without Raddr and Rport it
// stands for all destinations of a local address: what bind(addr, 0) needs a port of its own
// for.
type Destination struct {
	Netns        uint32
	Laddr, Raddr netip.Addr
	Rport        uint16
}

// Every reports whether all destinations of a local address are meant.
func (d Destination) Every() bool { return !d.Raddr.IsValid() }

// every is the destination that stands for all of the same local address.
func (d Destination) every() Destination { return Destination{Netns: d.Netns, Laddr: d.Laddr} }

// DestinationOf is where the socket goes.
func DestinationOf(f *event.Flow) Destination {
	return Destination{f.Netns, f.Local.Addr(), f.Remote.Addr(), f.Remote.Port()}
}

// Budget is the use of the ephemeral range for one destination, by sockets that connected.
// Accepted ones use nothing up.
type Budget struct {
	Destination
	// InUse are the ports of the range that have a socket there, in whatever state. Of these,
	// TimeWait are in TIME_WAIT, Orphaned are mini-sockets in FIN_WAIT2, Reusable are those that
	// connect() may take over now, and ByBind were taken by bind().
	InUse, TimeWait, Orphaned, Reusable, ByBind int
	// Stamped are those of TimeWait whose connection had TCP timestamps. CloseWait are ports with
	// a connection that the other end has closed.
	Stamped, CloseWait int
	// Elsewhere are further ports of the range that cannot be had because bind() or listen()
	// has taken them for another socket.
	Elsewhere int
	// Range is how many ports there are.
	Range int
	// PerSecond is how many ports more are taken in a second, without those that come back.
	PerSecond float64
	Forecast  Forecast
}

// Ratio is the share of the range that is in use.
func (b *Budget) Ratio() float64 { return share(b.InUse, b.Range) }

// Unavailable is how many ports the next socket cannot have.
func (b *Budget) Unavailable() int { return b.InUse - b.Reusable + b.Elsewhere }

// UnavailableRatio is their share of the range.
func (b *Budget) UnavailableRatio() float64 { return share(b.Unavailable(), b.Range) }

func share(n, of int) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// Input is what budgets are made of.
type Input struct {
	// Sockets are all of the namespaces concerned, of every state, listening ones too; without
	// some of them budgets are too low.
	Sockets []event.Socket
	// At is when they were read.
	At event.KTime
	// Settings by namespace. Where there are none, there are no budgets.
	Settings map[uint32]Settings
	// Held is what Held gave at an earlier moment, HeldAt; nil if nobody looked.
	Held   map[Destination]int
	HeldAt event.KTime
	// Recent is how far back sockets count for the rate at which ports are taken.
	Recent time.Duration
}

// Budgets are the budgets in use, the one with the fewest ports left first.
func Budgets(in *Input) []Budget {
	t := newTable(in.Sockets, in.Settings)
	uses := map[Destination]*use{}
	for i := range in.Sockets {
		if s := &in.Sockets[i]; t.uses(s) {
			t.add(uses, s, in.At)
		}
	}
	all := make([]Budget, 0, len(uses))
	for d, u := range uses {
		u.Elsewhere = t.taken[d.Netns] - u.ByBind
		u.foresee(in, t.settings[d.Netns].reuse(d))
		all = append(all, u.Budget)
	}
	all = append(all, t.addresses(in, uses)...)
	slices.SortFunc(all, worstFirst)
	return all
}

func worstFirst(a, b Budget) int {
	return cmp.Or(
		cmp.Compare(b.UnavailableRatio(), a.UnavailableRatio()), cmp.Compare(b.InUse, a.InUse),
		cmp.Compare(a.Netns, b.Netns), a.Laddr.Compare(b.Laddr), a.Raddr.Compare(b.Raddr), cmp.Compare(a.Rport, b.Rport),
	)
}

// Held counts by destination the ports of the range that have a socket which keeps them for as
// long as it likes: no mini-socket.
func Held(sockets []event.Socket, settings map[uint32]Settings) map[Destination]int {
	t := newTable(sockets, settings)
	held := map[Destination]int{}
	for i := range sockets {
		if s := &sockets[i]; t.uses(s) && !isMini(s) {
			held[DestinationOf(&s.Flow)]++
		}
	}
	return held
}

// isMini: only mini-sockets have an end of their own.
func isMini(s *event.Socket) bool { return s.Ends != 0 }

// place is a local port of a namespace.
type place struct {
	netns uint32
	port  uint16
}

func placeOf(s *event.Socket) place { return place{s.Flow.Netns, s.Flow.Local.Port()} }

// table knows the ports that are not connect()'s to choose.
type table struct {
	settings map[uint32]*Settings
	// listened are the ports that are listened on; true: on all addresses.
	listened map[place]bool
	// taken counts by namespace the ports of the range that bind() or listen() has taken.
	taken map[uint32]int
}

func newTable(sockets []event.Socket, settings map[uint32]Settings) *table {
	t := &table{settings: map[uint32]*Settings{}, listened: map[place]bool{}, taken: map[uint32]int{}}
	for netns, s := range settings {
		t.settings[netns] = &s
	}
	bound := map[place]bool{}
	for i := range sockets {
		s := &sockets[i]
		at := placeOf(s)
		if s.State == event.Listen {
			t.listened[at] = t.listened[at] || s.Flow.Local.Addr().IsUnspecified()
		} else if s.Port != event.PortByBind {
			continue
		}
		if !bound[at] && t.chosen(s) {
			bound[at] = true
			t.taken[at.netns]++
		}
	}
	return t
}

// chosen reports whether the local port is one that the kernel chooses.
func (t *table) chosen(s *event.Socket) bool {
	set := t.settings[s.Flow.Netns]
	return set != nil && s.Flow.Protocol == event.TCP && set.Has(s.Flow.Local.Port())
}

// uses reports whether the socket connected, with a port of the range. On a port that is
// listened on it is the server's end.
func (t *table) uses(s *event.Socket) bool {
	switch s.State {
	case event.Listen, event.NewSynRecv, event.SynRecv, event.Close, event.BoundInactive, event.StateUnknown:
		return false
	default:
	}
	if s.Direction == event.In || !t.chosen(s) {
		return false
	}
	_, listened := t.listened[placeOf(s)]
	return !listened
}

// AcceptedTimeWait counts the TIME_WAIT at the end that accepted: on a port that is listened on.
func AcceptedTimeWait(sockets []event.Socket) int {
	t := newTable(sockets, nil)
	n := 0
	for i := range sockets {
		s := &sockets[i]
		if _, listened := t.listened[placeOf(s)]; listened && s.State == event.TimeWait && s.Flow.Protocol == event.TCP {
			n++
		}
	}
	return n
}

// use is a budget in the making.
type use struct {
	Budget
	minis []mini
}

func (t *table) add(uses map[Destination]*use, s *event.Socket, now event.KTime) {
	d := DestinationOf(&s.Flow)
	u := uses[d]
	if u == nil {
		u = &use{Budget: Budget{Destination: d, Range: t.settings[d.Netns].Size()}}
		uses[d] = u
	}
	u.InUse++
	u.note(s)
	if !isMini(s) {
		return
	}
	m := t.mini(s)
	// A port that bind() has taken is not taken over.
	if after, ok := t.settings[d.Netns].Reusable(s); ok && s.Port != event.PortByBind {
		m.free = min(m.free, m.since.Add(after))
	}
	u.count(m, now)
}

// note counts what is to be told of the port besides.
func (u *use) note(s *event.Socket) {
	if s.Port == event.PortByBind {
		u.ByBind++
	}
	switch {
	case s.State == event.CloseWait:
		u.CloseWait++
	case s.State == event.TimeWait && s.Stamped:
		u.Stamped++
	default:
	}
}

func (u *use) count(m mini, now event.KTime) {
	if m.state == event.TimeWait {
		u.TimeWait++
	} else {
		u.Orphaned++
	}
	if m.free <= now && m.ends > now {
		u.Reusable++
	}
	u.minis = append(u.minis, m)
}

// reuse is how long a new TIME_WAIT would keep its port.
func (s *Settings) reuse(d Destination) time.Duration {
	after, ok := s.Reusable(&event.Socket{
		State: event.TimeWait, Stamped: !s.NoTimestamps, Flow: event.Flow{
			Local: netip.AddrPortFrom(d.Laddr, 0), Remote: netip.AddrPortFrom(d.Raddr, d.Rport),
		},
	})
	if !ok {
		return TimeWaitLasts
	}
	return min(after, TimeWaitLasts)
}

// addresses are the budgets of bind(addr, 0): of each local address that has sockets which
// were bound before they connected.
func (t *table) addresses(in *Input, uses map[Destination]*use) []Budget {
	// The last socket of each port to go.
	last := map[Destination]map[uint16]*event.Socket{}
	for d, u := range uses {
		if u.ByBind > 0 {
			last[d.every()] = map[uint16]*event.Socket{}
		}
	}
	for i := range in.Sockets {
		s := &in.Sockets[i]
		d := DestinationOf(&s.Flow)
		ports := last[d.every()]
		if ports == nil || s.State == event.Close || !t.chosen(s) {
			continue
		}
		if before := ports[s.Flow.Local.Port()]; before == nil || outlives(s, before) {
			ports[s.Flow.Local.Port()] = s
		}
	}
	all := make([]Budget, 0, len(last))
	for d, ports := range last {
		all = append(all, t.address(in, d, ports))
	}
	return all
}

func outlives(a, b *event.Socket) bool { return isMini(b) && (!isMini(a) || a.Ends > b.Ends) }

func (t *table) address(in *Input, d Destination, ports map[uint16]*event.Socket) Budget {
	set := t.settings[d.Netns]
	u := &use{Budget: Budget{Destination: d, InUse: len(ports), Range: set.Size()}}
	for _, s := range ports {
		u.note(s)
		if isMini(s) {
			u.count(t.mini(s), in.At)
		}
	}
	for at, everywhere := range t.listened {
		if everywhere && at.netns == d.Netns && set.Has(at.port) && ports[at.port] == nil {
			u.Elsewhere++
		}
	}
	// With autobind_reuse sockets with SO_REUSEADDR find a port all the same.
	if !set.AutobindReuse {
		u.foresee(in, TimeWaitLasts)
	}
	return u.Budget
}
