package testenv

import (
	"net/netip"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// churnStep is one transition in the life of a short connection.
type churnStep struct {
	server   bool
	old, new event.State
	// after is the time since the step before.
	after time.Duration
}

// churnSteps are what the kernel reports when both ends are on the host and the client
// closes first.
var churnSteps = [...]churnStep{
	{false, event.Close, event.SynSent, 14 * time.Microsecond},
	{false, event.SynSent, event.Established, 6753},
	{true, event.Listen, event.SynRecv, 1503},
	{true, event.SynRecv, event.Established, 1734},
	{false, event.Established, event.FinWait1, 15_599},
	{true, event.Established, event.CloseWait, 2024},
	{true, event.CloseWait, event.LastAck, 110_051},
	{false, event.FinWait1, event.FinWait2, 2291},
	{false, event.FinWait2, event.TimeWait, 1142},
	{false, event.FinWait2, event.Close, 0},
	{true, event.LastAck, event.Close, 2424},
}

// Churn returns the transitions of n short connections over loopback, in the order of
// time: the server closes a connection when some later ones have opened and ended
// already. Who the server is becomes known when it reads.
func Churn(n int) []event.Transition {
	const open, overlap = 6, 5
	all := make([]event.Transition, 0, n*len(churnSteps))
	at := event.KTime(time.Hour)
	for i := range n + overlap {
		if i < n {
			all, at = appendChurn(all, at, i, churnSteps[:open])
		}
		if i >= overlap {
			all, at = appendChurn(all, at, i-overlap, churnSteps[open:])
		}
	}
	return all
}

// appendChurn appends some steps of connection i, which begin at that moment.
func appendChurn(all []event.Transition, at event.KTime, i int, steps []churnStep) ([]event.Transition, event.KTime) {
	const firstPort, ports = 32_768, 28_231
	server := netip.MustParseAddrPort("127.0.0.1:42225")
	client := netip.AddrPortFrom(server.Addr(), uint16(firstPort+i%ports))
	for _, s := range steps {
		at = at.Add(s.after)
		tr := event.Transition{
			At: at, Cookie: event.Cookie(180_000 + 2*i), Old: s.old, New: s.new, Direction: event.Out,
			Flow:   event.Flow{Local: client, Remote: server, Netns: 4026532314, Protocol: event.TCP},
			Owner:  event.Task{Pid: 15_967, Tid: 15_967, Start: 1 << 40, Comm: event.MakeComm("leaker-peer")},
			Cgroup: 4711, Evidence: event.EvidenceConnect, Inferred: s.new == event.TimeWait,
		}
		if s.old != event.Close && s.old != event.Listen {
			tr.InState, tr.InBound = time.Duration(7000+i%1_000_000), event.Exact
		}
		if s.server {
			tr.Cookie, tr.Flow, tr.Direction = tr.Cookie+1, tr.Flow.Reverse(), event.In
			tr.Owner, tr.Evidence = event.Task{}, event.EvidenceNone
			if s.old == event.CloseWait || s.old == event.LastAck {
				tr.Owner = event.Task{Pid: 15_958, Tid: 15_958, Start: 1 << 40, Comm: event.MakeComm("leaker")}
				tr.Evidence = event.EvidenceRead
			}
		}
		all = append(all, tr)
	}
	return all, at
}
