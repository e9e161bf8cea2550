package owner

import (
	"net/netip"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Match says by what two sockets are known to be the ends of one connection.
type Match string

// The ways to know, spelled as in records.
const (
	// MatchFlow: one's local address is the other's remote one and the reverse.
	MatchFlow Match = "flow"
	// MatchBoth: so are the addresses, and what one has sent the other has received.
	MatchBoth Match = "flow_and_sequence"
	// MatchSequence: the addresses differ, as they do behind NAT, but the sequence numbers of
	// both directions agree. By chance they do once in 2^64 times.
	MatchSequence Match = "sequence"
)

// Pair is the other end of a connection as the position of its socket, valid if By is set.
type Pair struct {
	Other int
	By    Match
	// Gone: the other end could only be in the same namespace, and no socket there has its
	// addresses any more. Valid if By is not set and every socket of the namespace is known.
	Gone bool
}

// Pairs finds the other ends of some sockets on this host, all being the sockets of all
// states; ours and the result's are positions in it. A socket is the other end only if it is
// the one that fits best, and the reverse: of several equals it is none.
func Pairs(all event.Rows, ours []int) []Pair {
	found := findEnds(all, ours)
	others := make([]int, 0, len(ours))
	for i := range found {
		if found[i].By != "" {
			others = append(others, found[i].Other)
		}
	}
	back := findEnds(all, others)
	next := 0
	for i := range found {
		if found[i].By == "" {
			continue
		}
		if b := back[next]; b.By == "" || b.Other != ours[i] {
			found[i] = Pair{}
		}
		next++
	}
	return found
}

// ends is a flow without its namespace, for packets cross from one to the other.
type ends struct {
	local, remote netip.AddrPort
	mptcp         bool
}

func endsOf(f *event.Flow) ends {
	return ends{f.Local, f.Remote, f.Protocol == event.MPTCP}
}

// search goes once through all sockets and keeps the best for each of ours.
type search struct {
	all  event.Rows
	ours []int
	// our and other are read to be compared.
	our, other event.Socket
	// byFlow and bySequence lead from what the other end must be to the first of ours that
	// awaits it, 1 + its position; further ones are chained by next.
	byFlow           map[ends]int32
	bySequence       map[uint64]int32
	nextFlow, nextSq []int32
	best             []candidates
}

// candidates of one of ours: how many there are of each kind, and one of each.
type candidates struct {
	n, at [fits]int32
	// reverse counts the sockets of the same namespace with the reverse flow.
	reverse int32
}

// fit says how well a candidate fits; the smaller the better.
type fit uint8

const (
	// fitSequence: addresses and sequence numbers, or both directions' sequence numbers alone.
	fitSequence fit = iota
	// fitHere: the addresses, in the same namespace; the numbers are not known.
	fitHere
	// fitElsewhere: the same in another namespace.
	fitElsewhere

	fits
	fitNot = fits
)

func findEnds(all event.Rows, ours []int) []Pair {
	s := search{
		all: all, ours: ours,
		byFlow: make(map[ends]int32, len(ours)), bySequence: make(map[uint64]int32, len(ours)),
		nextFlow: make([]int32, len(ours)), nextSq: make([]int32, len(ours)),
		best: make([]candidates, len(ours)),
	}
	for i, at := range ours {
		all.Socket(at, &s.our)
		s.await(int32(i), &s.our)
	}
	for at := range all.Len() {
		all.Socket(at, &s.other)
		s.offer(int32(at))
	}
	pairs := make([]Pair, len(ours))
	for i := range pairs {
		pairs[i] = s.choose(i)
	}
	return pairs
}

// connected: it has two addresses, and stands for the whole connection.
func connected(s *event.Socket) bool {
	return !s.Subflow && s.Flow.Local.Port() != 0 && s.Flow.Remote.Port() != 0
}

// await notes what the other end of one of ours looks like.
func (s *search) await(i int32, our *event.Socket) {
	if !connected(our) {
		return
	}
	reverse := our.Flow.Reverse()
	key := endsOf(&reverse)
	s.nextFlow[i] = s.byFlow[key]
	s.byFlow[key] = i + 1
	if our.SeqKnown {
		numbers := uint64(our.RcvNxt)<<32 | uint64(our.SndNxt)
		s.nextSq[i] = s.bySequence[numbers]
		s.bySequence[numbers] = i + 1
	}
}

// offer shows a socket, which is s.other, to those of ours that it may be the other end of.
func (s *search) offer(at int32) {
	other := &s.other
	if !connected(other) {
		return
	}
	for i := s.byFlow[endsOf(&other.Flow)]; i != 0; i = s.nextFlow[i-1] {
		s.consider(i-1, at, true)
	}
	if !other.SeqKnown {
		return
	}
	for i := s.bySequence[uint64(other.SndNxt)<<32|uint64(other.RcvNxt)]; i != 0; i = s.nextSq[i-1] {
		s.consider(i-1, at, false)
	}
}

func (s *search) consider(i, at int32, byFlow bool) {
	s.all.Socket(s.ours[i], &s.our)
	our, other, c := &s.our, &s.other, &s.best[i]
	if int(at) == s.ours[i] || our.Cookie != 0 && our.Cookie == other.Cookie {
		return
	}
	if byFlow && our.Flow.Netns == other.Flow.Netns {
		c.reverse++
	}
	how := rate(our, other, byFlow)
	if how == fitNot || how == fitSequence && c.n[how] > 0 && c.at[how] == at {
		return // does not fit, or is known by the other way already
	}
	c.n[how]++
	c.at[how] = at
}

// rate says how well the other fits.
func rate(our, other *event.Socket, byFlow bool) fit {
	if !opposite(our.State).Has(other.State) || (our.Flow.Protocol == event.MPTCP) != (other.Flow.Protocol == event.MPTCP) {
		return fitNot
	}
	numbers := compare(our, other)
	switch {
	case numbers == differ:
		return fitNot
	case numbers == agree, numbers == ended && byFlow:
		return fitSequence
	case !byFlow:
		return fitNot
	case our.Flow.Netns == other.Flow.Netns:
		return fitHere
	case local(&our.Flow):
		return fitNot
	default:
		return fitElsewhere
	}
}

// local: packets of this flow never leave their namespace.
func local(f *event.Flow) bool {
	return f.Local.Addr() == f.Remote.Addr() || f.Local.Addr().IsLoopback() || f.Remote.Addr().IsLoopback()
}

// opposite are the states in which the other end can be. What was read at different
// moments and does not go together is no pair.
func opposite(s event.State) event.StateSet {
	switch s {
	case event.Established:
		return event.SetOf(event.Established, event.SynRecv, event.NewSynRecv, event.FinWait1)
	case event.SynRecv, event.NewSynRecv:
		return event.SetOf(event.Established, event.SynSent, event.FinWait1)
	case event.SynSent:
		return event.SetOf(event.SynRecv, event.NewSynRecv)
	case event.FinWait1:
		return event.SetOf(event.Established, event.SynRecv, event.NewSynRecv, event.FinWait1, event.CloseWait, event.Closing, event.LastAck)
	case event.FinWait2:
		return event.SetOf(event.CloseWait, event.LastAck)
	case event.CloseWait:
		return event.SetOf(event.FinWait1, event.FinWait2)
	case event.LastAck:
		return event.SetOf(event.FinWait1, event.FinWait2, event.TimeWait)
	case event.Closing:
		return event.SetOf(event.FinWait1, event.Closing, event.TimeWait)
	case event.TimeWait:
		return event.SetOf(event.LastAck, event.Closing, event.TimeWait)
	default:
		// A closed socket has let go of its address: another connection can have it.
		return 0
	}
}

// numbers is what sequence numbers say of two sockets.
type numbers uint8

const (
	unknown numbers = iota
	// differ: they are not the ends of one connection.
	differ
	// ended: what one has sent up to its FIN the other has received. The other direction may
	// have data on the way.
	ended
	// agree: in both directions all that was sent is received.
	agree
)

func compare(a, b *event.Socket) numbers {
	if !a.SeqKnown || !b.SeqKnown {
		return unknown
	}
	there, back := a.SndNxt == b.RcvNxt, b.SndNxt == a.RcvNxt
	switch {
	case there && back:
		return agree
	case a.State == event.CloseWait:
		return fin(back)
	case b.State == event.CloseWait:
		return fin(there)
	case a.SendQ == 0 && b.SendQ == 0:
		return differ
	default:
		return unknown
	}
}

// fin: behind a FIN that was received nothing more is sent, so the numbers of that
// direction are final on both sides.
func fin(same bool) numbers {
	if same {
		return ended
	}
	return differ
}

// choose takes the best candidate, if it is the only one of its kind.
func (s *search) choose(i int) Pair {
	s.all.Socket(s.ours[i], &s.our)
	c, our := &s.best[i], &s.our
	for how := range fits {
		if c.n[how] == 0 {
			continue
		}
		if c.n[how] > 1 {
			return Pair{}
		}
		p := Pair{Other: int(c.at[how]), By: MatchFlow}
		s.all.Socket(p.Other, &s.other)
		reverse := s.other.Flow.Reverse()
		switch {
		case how != fitSequence:
		case endsOf(&reverse) == endsOf(&our.Flow):
			p.By = MatchBoth
		default:
			p.By = MatchSequence
		}
		return p
	}
	// Behind a redirection of packets the other end has other addresses, and is known by its
	// numbers when nothing is on the way. An MPTCP socket that was closed stands in no table.
	gone := our.State == event.CloseWait && our.SeqKnown && our.QueuesKnown && our.SendQ == 0 &&
		connected(our) && our.Flow.Protocol == event.TCP && local(&our.Flow) && c.reverse == 0
	return Pair{Gone: gone}
}
