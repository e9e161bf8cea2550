package pipeline

import (
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// zombies are the closed sockets that a descriptor referred to when the descriptors were
// looked through last. Nothing tells when one is closed at last: it is missed at the next
// look. One that came and went between two looks is never known.
type zombies struct {
	open map[event.Cookie]event.Socket
	at   event.KTime
}

// look compares with a snapshot that has all holders, and tallies those that are gone.
func (z *zombies) look(look *tracer.Look, tally *diagnosis.Tally) {
	now := make(map[event.Cookie]event.Socket)
	for s := range look.All() {
		if s.State == event.Close && s.WasConnected && s.Cookie != 0 {
			now[s.Cookie] = *s
		}
	}
	for cookie := range z.open {
		if _, open := now[cookie]; open {
			continue
		}
		s := z.open[cookie]
		earliest := s.Earliest
		if s.Bound == event.Exact {
			earliest = s.Since
		}
		var dwell time.Duration
		if s.Bound != event.BoundUnknown {
			dwell = max(0, z.at.Sub(s.Since))
		}
		tally.Add(s.Owner, diagnosis.SiteOf(s.Direction, s.Flow), earliest, dwell)
	}
	z.open, z.at = now, look.To
}
