package lifecycle

import "github.com/tcpwaitd/tcpwaitd/internal/event"

// grave remembers the end of a finished wait.
type grave struct {
	// left is the moment of leaving; if guessed, the first moment it was known gone.
	left    event.KTime
	guessed bool
}

// graves is a bounded memory of finished waits: a ring of them in the order of finishing,
// under a map. A socket can come back into CLOSE_WAIT with the same
// cookie (connect(AF_UNSPEC) and a new connect), so times decide, not mere presence.
type graves struct {
	at   map[event.Cookie]int32
	ring []buried
	next int
	// horizon is the latest end that was forgotten to make room: of what is older,
	// nothing is known.
	horizon event.KTime
}

type buried struct {
	cookie event.Cookie
	grave
}

func newGraves(n int) graves {
	return graves{at: make(map[event.Cookie]int32), ring: make([]buried, 0, n)}
}

func (g *graves) find(c event.Cookie) (grave, bool) {
	i, ok := g.at[c]
	if !ok {
		return grave{}, false
	}
	return g.ring[i].grave, true
}

// bury remembers an end. A cookie already there keeps its place in the ring.
func (g *graves) bury(c event.Cookie, end grave) {
	if i, ok := g.at[c]; ok {
		end.left = max(end.left, g.ring[i].left)
		g.ring[i].grave = end
		return
	}
	i := len(g.ring)
	if i < cap(g.ring) {
		g.ring = append(g.ring, buried{c, end})
	} else {
		i = g.next
		g.horizon = max(g.horizon, g.ring[i].left)
		delete(g.at, g.ring[i].cookie)
		g.ring[i] = buried{c, end}
		g.next = (i + 1) % len(g.ring)
	}
	g.at[c] = int32(i)
}
