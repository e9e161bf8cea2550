package owner

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

const (
	here  = 4026531840
	there = 4026532000
)

// end makes one end of a connection; seq 0 is not known.
func end(state event.State, netns uint32, local, remote string, snd, rcv uint32) event.Socket {
	return event.Socket{
		State: state, QueuesKnown: true, SeqKnown: snd != 0, SndNxt: snd, RcvNxt: rcv,
		Flow: event.Flow{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Netns: netns, Protocol: event.TCP},
	}
}

// numbered gives the sockets cookies: 1 + their position.
func numbered(all ...event.Socket) []event.Socket {
	for i := range all {
		all[i].Cookie = event.Cookie(i + 1)
	}
	return all
}

func changed(s event.Socket, change func(*event.Socket)) event.Socket {
	change(&s)
	return s
}

// What is the other end of the first socket of each list, by position; 0 is none.
func TestPairs(t *testing.T) {
	const a, b, c = "10.0.0.1:8080", "10.0.0.2:40000", "192.168.7.7:80"
	lo, lc := "127.0.0.1:8080", "127.0.0.1:40000"
	ours := end(event.CloseWait, here, a, b, 100, 200)
	blind := end(event.CloseWait, here, a, b, 0, 0)
	theirs := end(event.FinWait2, here, b, a, 200, 100)
	in := func(s event.Socket, netns uint32) event.Socket {
		s.Flow.Netns = netns
		return s
	}
	loop := end(event.CloseWait, here, lo, lc, 100, 200)
	for name, test := range map[string]struct {
		all  []event.Socket
		want int
		by   Match
		gone bool
	}{
		"same namespace":            {numbered(ours, theirs), 1, MatchBoth, false},
		"numbers not known":         {numbered(blind, theirs), 1, MatchFlow, false},
		"its numbers not known":     {numbered(ours, end(event.FinWait2, here, b, a, 0, 0)), 1, MatchFlow, false},
		"numbers contradict":        {numbered(ours, end(event.FinWait2, here, b, a, 201, 100)), 0, "", false},
		"data on the way":           {numbered(ours, end(event.FinWait2, here, b, a, 200, 90)), 1, MatchBoth, false},
		"the FIN not acknowledged":  {numbered(ours, end(event.FinWait1, here, b, a, 200, 100)), 1, MatchBoth, false},
		"a mini-socket":             {numbered(ours, changed(theirs, func(s *event.Socket) { s.QueuesKnown = false })), 1, MatchBoth, false},
		"not closed":                {numbered(ours, end(event.Established, here, b, a, 200, 100)), 0, "", false},
		"another connection's":      {numbered(ours, end(event.SynSent, here, b, a, 0, 0)), 0, "", false},
		"another remote port":       {numbered(ours, end(event.FinWait2, here, "10.0.0.2:40001", a, 0, 0)), 0, "", false},
		"another namespace":         {numbered(ours, in(theirs, there)), 1, MatchBoth, false},
		"another, numbers unknown":  {numbered(blind, in(theirs, there)), 1, MatchFlow, false},
		"another, two fit":          {numbered(blind, in(theirs, there), in(theirs, there+1)), 0, "", false},
		"another, numbers decide":   {numbered(ours, in(end(event.FinWait2, here, b, a, 7, 8), there), in(theirs, there+1)), 2, MatchBoth, false},
		"another, they contradict":  {numbered(ours, in(end(event.FinWait2, here, b, a, 7, 8), there)), 0, "", false},
		"here goes before there":    {numbered(blind, in(theirs, there), theirs), 2, MatchFlow, false},
		"claimed by two":            {numbered(in(blind, there), in(blind, there+1), theirs), 0, "", false},
		"claimed, ours is here":     {numbered(blind, in(blind, there), theirs), 2, MatchFlow, false},
		"claimed, another is here":  {numbered(in(blind, there), blind, theirs), 0, "", false},
		"behind NAT":                {numbered(ours, end(event.FinWait2, there, b, c, 200, 100)), 1, MatchSequence, false},
		"behind NAT, same space":    {numbered(ours, end(event.FinWait2, here, b, c, 200, 100)), 1, MatchSequence, false},
		"behind NAT, on the way":    {numbered(ours, end(event.FinWait2, there, b, c, 200, 99)), 0, "", false},
		"behind NAT, two fit":       {numbered(ours, end(event.FinWait2, there, b, c, 200, 100), end(event.FinWait2, there, c, b, 200, 100)), 0, "", false},
		"behind NAT, wrong state":   {numbered(ours, end(event.Established, there, b, c, 200, 100)), 0, "", false},
		"loopback stays in its own": {numbered(changed(loop, func(s *event.Socket) { s.SeqKnown = false }), in(end(event.FinWait2, here, lc, lo, 200, 100), there)), 0, "", false},
		"loopback, gone":            {numbered(loop), 0, "", true},
		"loopback, not all sent":    {numbered(changed(loop, func(s *event.Socket) { s.SendQ = 1 })), 0, "", false},
		"loopback, elsewhere":       {numbered(loop, in(end(event.FinWait2, here, lc, lo, 8, 9), there)), 0, "", true},
		"loopback, in a state":      {numbered(loop, end(event.TimeWait, here, lc, lo, 200, 100)), 0, "", false},
		"loopback, redirected":      {numbered(loop, end(event.FinWait2, here, lc, "127.0.0.1:80", 200, 100)), 1, MatchSequence, false},
		"far away":                  {numbered(ours), 0, "", false},
		"itself":                    {numbered(end(event.Established, here, lo, lo, 5, 5)), 0, "", false},
		"established":               {numbered(end(event.Established, here, a, b, 5, 6), end(event.Established, here, b, a, 6, 5)), 1, MatchBoth, false},
		"listening":                 {numbered(end(event.Listen, here, lo, "0.0.0.0:0", 0, 0), end(event.Listen, here, lo, "0.0.0.0:0", 0, 0)), 0, "", false},
		"a subflow": {numbered(ours, changed(theirs, func(s *event.Socket) {
			s.Subflow, s.Flow.Protocol = true, event.TCP
		})), 0, "", false},
		"MPTCP": {numbered(changed(blind, msk), changed(theirs, func(s *event.Socket) {
			s.Subflow = true
		}), changed(end(event.FinWait2, here, b, a, 0, 0), msk)), 2, MatchFlow, false},
		"MPTCP, closed and in no table": {numbered(changed(end(event.CloseWait, here, lo, lc, 0, 0), msk)), 0, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			got := Pairs(event.SocketList(test.all), []int{0})[0]
			if got.By != test.by || test.by != "" && got.Other != test.want || got.Gone != test.gone {
				t.Errorf("got %+v, want %d by %q, gone %v", got, test.want, test.by, test.gone)
			}
		})
	}
}

func msk(s *event.Socket) { s.Flow.Protocol = event.MPTCP }

// What is a pair from one side is one from the other, whatever the sockets are.
func FuzzPairs(f *testing.F) {
	f.Add([]byte{8, 0, 1, 2, 3, 4, 5, 0, 2, 1, 4, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		var all []event.Socket
		for ; len(b) >= 6; b = b[6:] {
			addr := func(b byte) netip.AddrPort {
				return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10 + 117*(b>>7), 0, 0, b & 1}), uint16(b>>1&3))
			}
			all = append(all, event.Socket{
				State: event.State(b[0] & 15), SeqKnown: b[0]&16 != 0, Subflow: b[0]&96 == 96, QueuesKnown: true, SendQ: uint32(b[0] >> 7),
				Flow:   event.Flow{Netns: uint32(b[1] & 1), Local: addr(b[2]), Remote: addr(b[3]), Protocol: event.TCP},
				SndNxt: uint32(b[4] & 3), RcvNxt: uint32(b[5] & 3),
			})
		}
		numbered(all...)
		ours := make([]int, len(all))
		for i := range ours {
			ours[i] = i
		}
		for i, p := range Pairs(event.SocketList(all), ours) {
			if p.By == "" {
				continue
			}
			if p.Gone || p.Other == i {
				t.Fatalf("%d: %+v", i, p)
			}
			if back := Pairs(event.SocketList(all), []int{p.Other})[0]; back.Other != i || back.By != p.By {
				t.Fatalf("%d is the end of %d, but back: %+v", p.Other, i, back)
			}
		}
	})
}

// Half of a host's sockets are in CLOSE_WAIT, and each has its other end.
func BenchmarkPairs(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, 2))
			all := make([]event.Socket, 0, n)
			var ours []int
			for i := range n / 2 {
				var ip [4]byte
				binary.BigEndian.PutUint32(ip[:], 10<<24|uint32(i/50_000))
				near, far := netip.AddrPortFrom(netip.AddrFrom4(ip), 80), netip.AddrPortFrom(netip.AddrFrom4(ip), uint16(10_000+i%50_000))
				snd, rcv := r.Uint32(), r.Uint32()
				ours = append(ours, len(all))
				all = append(all,
					event.Socket{State: event.CloseWait, SeqKnown: true, SndNxt: snd, RcvNxt: rcv, Flow: event.Flow{Netns: here, Local: near, Remote: far, Protocol: event.TCP}},
					event.Socket{State: event.FinWait2, SeqKnown: true, SndNxt: rcv, RcvNxt: snd, Flow: event.Flow{Netns: here, Local: far, Remote: near, Protocol: event.TCP}})
			}
			for b.Loop() {
				if p := Pairs(event.SocketList(all), ours); p[len(p)-1].By != MatchBoth {
					b.Fatal(p[len(p)-1])
				}
			}
		})
	}
}
