package lifecycle

import "github.com/tcpwaitd/tcpwaitd/internal/event"

// grave remembers the end of a finished wait.
type grave struct {
	// left is the moment of leaving; if guessed, the first moment it was known gone.
	left    event.KTime
	guessed bool
}

// graves is a bounded memory of finished waits: a ring of cookies in the order
// of finishing over a map. A socket can come back into CLOSE_WAIT with the same
// cookie (connect(AF_UNSPEC) and a new connect), so times decide, not mere presence.
type graves struct {
	at   map[event.Cookie]grave
	ring []event.Cookie
	next int
	// horizon is the latest end that was forgotten to make room: of what is older,
	// nothing is known.
	horizon event.KTime
}

func newGraves(n int) graves {
	return graves{at: make(map[event.Cookie]grave), ring: make([]event.Cookie, 0, n)}
}

func (g *graves) find(c event.Cookie) (grave, bool) {
	found, ok := g.at[c]
	return found, ok
}

// bury remembers an end. A cookie already there keeps its place in the ring.
func (g *graves) bury(c event.Cookie, end grave) {
	if old, ok := g.at[c]; ok {
		end.left = max(end.left, old.left)
		g.at[c] = end
		return
	}
	if len(g.ring) < cap(g.ring) {
		g.ring = append(g.ring, c)
	} else {
		old := g.ring[g.next]
		g.horizon = max(g.horizon, g.at[old].left)
		delete(g.at, old)
		g.ring[g.next] = c
		g.next = (g.next + 1) % len(g.ring)
	}
	g.at[c] = end
}
