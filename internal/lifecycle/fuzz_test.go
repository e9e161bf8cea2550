package lifecycle_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/lifecycle"
)

func flow(tb testing.TB, local, remote string) event.Flow {
	tb.Helper()
	return event.Flow{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote)}
}

// host is a naive model of the kernel and of the way its records reach the table:
// some are lost, repeated or late.
type host struct {
	t     *testing.T
	now   event.KTime
	table *lifecycle.Table
	// since are the sockets in CLOSE_WAIT; stays every stay that ended, per cookie.
	since map[event.Cookie]event.KTime
	stays map[event.Cookie][]time.Duration
	ended map[event.Cookie]int
	late  []event.Transition
	seen  []event.Transition
	// dirty: something was lost or is late, so the table may be wrong until the
	// next reconcile.
	dirty bool
}

// Ways of a record to the table.
const (
	arrives = iota
	twice
	lost
	delayed
)

func (h *host) send(tr event.Transition, way byte) {
	switch way % 6 {
	case lost:
		h.dirty = true
		return
	case delayed:
		h.dirty = true
		h.late = append(h.late, tr)
		return
	case twice:
		h.deliver(tr)
	}
	h.deliver(tr)
	h.seen = append(h.seen, tr)
}

func (h *host) deliver(tr event.Transition) {
	if f := h.table.Transition(&tr).Finished; f != nil {
		h.finished(f)
	}
	h.balance()
}

// toggle makes a socket enter or leave CLOSE_WAIT.
func (h *host) toggle(c event.Cookie, way byte) {
	h.now += 10
	tr := enter(h.now, c)
	if since, open := h.since[c]; open {
		tr = in(leave(h.now, c), h.now.Sub(since), event.Exact)
		h.stays[c] = append(h.stays[c], h.now.Sub(since))
		delete(h.since, c)
	} else {
		h.since[c] = h.now
	}
	h.send(tr, way)
}

// snapshot walks the sockets while one of them changes under it, drains the ring and
// reconciles.
func (h *host) snapshot(racer event.Cookie, way byte) {
	h.now += 10
	s := event.Snapshot{From: h.now}
	for c := event.Cookie(1); c <= cookies; c++ {
		if c == cookies/2 {
			h.toggle(racer, way)
		}
		h.now++
		if since, open := h.since[c]; open {
			s.Sockets = append(s.Sockets, row(h.now, c, since, event.Exact))
		}
	}
	s.To = h.now
	for _, tr := range h.late {
		h.deliver(tr)
	}
	h.late = nil
	gone := h.table.Reconcile(&s, s.All())
	for i := range gone {
		h.finished(&gone[i])
	}
	h.balance()
	// What was lost while the pass ran is found by the next one.
	h.dirty = way%6 == lost
}

func (h *host) finished(f *lifecycle.Finished) {
	h.ended[f.Cookie]++
	if f.Dwell < 0 {
		h.t.Fatalf("negative dwell: %+v", f)
	}
	if got, most := h.ended[f.Cookie], len(h.stays[f.Cookie]); got > most {
		h.t.Fatalf("cookie %d: %d waits finished, the socket left %d times: %+v", f.Cookie, got, most, f)
	}
	stays := h.stays[f.Cookie]
	if f.Bound == event.Exact && !slices.Contains(stays, f.Dwell) {
		h.t.Fatalf("cookie %d: exact dwell %v, true ones %v", f.Cookie, f.Dwell, stays)
	}
	if f.Dwell > slices.Max(stays) {
		h.t.Fatalf("cookie %d: dwell %v above all of %v", f.Cookie, f.Dwell, stays)
	}
}

func (h *host) balance() {
	s := h.table.Stats()
	if s.Opened-s.Finished-s.Evicted != uint64(h.table.Len()) {
		h.t.Fatalf("%d open, stats %+v", h.table.Len(), s)
	}
}

// equal compares the table with the kernel's.
func (h *host) equal() {
	h.t.Helper()
	n := 0
	for w := range h.table.All() {
		n++
		if since, open := h.since[w.Cookie]; !open || since != w.Since {
			h.t.Fatalf("wait %d since %d is open, the kernel has %v", w.Cookie, w.Since, h.since)
		}
	}
	if n != len(h.since) || n != h.table.Len() {
		h.t.Fatalf("%d waits, Len %d, the kernel has %v", n, h.table.Len(), h.since)
	}
}

const cookies = 8

// FuzzTable drives the table through a lossy channel. No wait closes twice, no dwell
// is negative or longer than the truth, the counts balance, and after a reconcile the
// table equals the kernel's.
func FuzzTable(f *testing.F) {
	f.Add([]byte{0x01, 0, 0x02, 0, 0x01, 0})                // two waits, one ends
	f.Add([]byte{0x01, lost, 0xf0, 0, 0x01, lost, 0xf3, 0}) // lost, found, lost, gone
	f.Add([]byte{0x01, delayed, 0x01, 0, 0xf1, 0, 0x01, delayed, 0xf1, lost, 0xe0, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		h := &host{
			t: t, table: lifecycle.New(lifecycle.Options{Tombstones: 1 << 10}),
			since: map[event.Cookie]event.KTime{}, stays: map[event.Cookie][]time.Duration{},
			ended: map[event.Cookie]int{},
		}
		for ; len(script) >= 2; script = script[2:] {
			op, way := script[0], script[1]
			c := event.Cookie(op%cookies) + 1
			switch op >> 4 {
			case 0xf:
				h.snapshot(c, way)
			case 0xe:
				if n := len(h.seen); n > 0 { // an old record once more
					h.deliver(h.seen[int(way)%n])
				}
			default:
				h.toggle(c, way)
			}
			if !h.dirty {
				h.equal()
			}
		}
		h.snapshot(1, arrives)
		h.equal()
	})
}

// FuzzTableRaw feeds any transitions at all to a small table: it must keep its counts
// and never report a negative dwell.
func FuzzTableRaw(f *testing.F) {
	f.Add([]byte{1, 10, 1, 8, 0, 1, 20, 8, 9, 5})
	f.Fuzz(func(t *testing.T, script []byte) {
		h := &host{t: t, table: lifecycle.New(lifecycle.Options{Max: 3, Tombstones: 2})}
		for ; len(script) >= 5; script = script[5:] {
			at, c := event.KTime(script[1]), event.Cookie(script[0]%8)
			if script[0] >= 0xf0 {
				s := snap(at, at+10, row(at+event.KTime(script[2]%10), c, event.KTime(script[3]), event.Bound(script[4]%3)))
				s.Sockets[0].State = event.State(script[2] % 14)
				for _, f := range h.table.Reconcile(&s, s.All()) {
					if f.Dwell < 0 {
						t.Fatalf("negative dwell: %+v", f)
					}
				}
				h.balance()
				continue
			}
			tr := event.Transition{
				At: at, Cookie: c, Old: event.State(script[2] % 14), New: event.State(script[3] % 14),
				InState: time.Duration(int8(script[4])), InBound: event.Bound(script[4] % 3),
			}
			if f := h.table.Transition(&tr).Finished; f != nil && f.Dwell < 0 {
				t.Fatalf("negative dwell: %+v", f)
			}
			h.balance()
		}
	})
}
