package diagnosis

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// proof is what it takes to call waits of one cause a leak.
type proof struct {
	// ages: the entry times of the present waits can be enough. Not so where a bounded
	// pool leaves the same traces.
	ages bool
	// net is the least number of waits the window must add, at no fewer than
	// moments distinct times that span at least quarters fourths of it.
	net, moments, quarters int
	// alone: growth without a stuck wait is at least suspicious.
	alone bool
}

// proofOf: who was told of the EOF, or let data pile up, and keeps the socket has no
// excuse. Unread EOF is how every idle pool looks, so there it takes more.
func proofOf(c Cause) proof {
	told := proof{ages: true, net: minNet, moments: minMoments, quarters: 2}
	pool := proof{net: minNetPool, moments: minNetPool, quarters: 3}
	switch c {
	case EOFIgnored, UnreadData:
		told.alone = true
		return told
	case HeldElsewhere, ZombieFD:
		return told
	case UnreadEOF:
		pool.alone = true
		return pool
	case Unaccepted:
		told.ages = false
		return told
	default:
		return pool
	}
}

// stricter combines what two causes require.
func (p proof) stricter(o proof) proof {
	return proof{
		ages: p.ages && o.ages, alone: p.alone && o.alone,
		net: max(p.net, o.net), moments: max(p.moments, o.moments), quarters: max(p.quarters, o.quarters),
	}
}

// window is the time a judgement looks at.
type window struct {
	from, to  event.KTime
	threshold time.Duration
}

func (w window) length() time.Duration { return max(0, w.to.Sub(w.from)) }

// rounded is the length for people.
func (w window) rounded() time.Duration { return w.length().Round(100 * time.Millisecond) }

// stuck: the lower bound of the dwell has reached the threshold, and it is not a
// half-close in use.
func (w window) stuck(c *Case) bool {
	return c.Cause != HalfClose && c.Bound != event.BoundUnknown && c.Dwell() >= w.threshold
}

// entry is the interval in which a wait began: a point if it was watched, open to
// the left (lo 0) if nothing bounds it.
type entry struct{ lo, hi event.KTime }

func entryOf(c *Case) entry {
	switch c.Bound {
	case event.Exact:
		return entry{c.Since, c.Since}
	case event.AtLeast:
		return entry{min(c.Earliest, c.Since), c.Since}
	default:
		return entry{0, c.At}
	}
}

// moments is the least number of distinct moments that can explain all entries,
// and the time that is proven to lie between the first and the last of them.
type moments struct {
	n    int
	span time.Duration
}

// momentsOf counts greedily from the earliest right end: an entry that can have been at
// the last counted moment, or within merge after it, is no new one. So baseline
// sockets whose age is hardly known prove nothing, and a burst is one moment.
func momentsOf(entries []entry, merge time.Duration) moments {
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo))
	})
	var m moments
	var first, last event.KTime
	for _, e := range entries {
		switch {
		case m.n == 0:
			first = e.hi
		case e.lo <= last.Add(merge):
			continue
		default:
			m.span = e.lo.Sub(first)
		}
		m.n++
		last = e.hi
	}
	return m
}

// siteWaits are the waits of one process at one site, half-closes in use left out.
type siteWaits struct {
	site  Site
	waits []*Case
	// closed is what ended in the window and may have been the same work.
	closed Closed
}

// finding is what a site says.
type finding struct {
	verdict Verdict
	why     string
	// growing: growth was watched.
	growing bool
}

// assess applies the rules at the head of verdict.go to one site.
func (s *siteWaits) assess(w window) finding {
	stuck := 0
	for _, c := range s.waits {
		if w.stuck(c) {
			stuck++
		}
	}
	net, need, growing := s.watch(w)
	if stuck == 0 {
		if growing && need.alone && net >= minNetAlone && s.closed.N == 0 {
			why := fmt.Sprintf("%d more in %v and none closed, but none is older than %v yet", net, w.length(), w.threshold)
			return finding{Suspicious, why, growing}
		}
		return finding{verdict: Clean, growing: growing}
	}
	old := fmt.Sprintf("%d older than %v", stuck, w.threshold)
	switch {
	case s.queueFull(w):
		return finding{Leaking, old + ", and the accept queue is full: new connections are refused", growing}
	case s.slow(w):
		return finding{Suspicious, fmt.Sprintf("%s, but it does close: the longest took %v", old, s.closed.Longest.Round(time.Millisecond)), growing}
	case growing && stuck >= minStuck:
		return finding{Leaking, fmt.Sprintf("%s, and %d more in %v", old, net, w.rounded()), growing}
	case s.arriving(w, net):
		return finding{Leaking, old + ", and their ages show a steady stream that has not ended", growing}
	case w.length() > 0 && net <= 0:
		return finding{Suspicious, fmt.Sprintf("%s, but no growth in %v", old, w.rounded()), growing}
	default:
		return finding{Suspicious, old + ", growth not shown", growing}
	}
}

// watch judges the window: how many more waits it left, what their causes require, and
// whether that is met. Zombies are left out, for nobody reports their end.
func (s *siteWaits) watch(w window) (net int, need proof, growing bool) {
	var arrived, overdue []entry
	need = proof{ages: true, alone: true}
	for _, c := range s.waits {
		e := entryOf(c)
		if c.Cause == ZombieFD || e.lo == 0 || e.lo < w.from {
			continue
		}
		arrived = append(arrived, e)
		need = need.stricter(proofOf(c.Cause))
		if w.to.Sub(e.hi) > s.closed.Longest {
			overdue = append(overdue, e)
		}
	}
	gone := s.closed.N - s.closed.Opened
	net = len(arrived) - gone
	if w.length() == 0 || net <= 0 {
		return net, need, false
	}
	if s.closed.N >= minSample {
		// Enough ended to know how long it takes at most: those that took longer already
		// stand out of the coming and going.
		growing = need.steady(overdue, w)
	}
	if gone == 0 || net*net >= noise*(len(arrived)+gone) {
		growing = growing || net >= need.net && need.steady(arrived, w)
	}
	return net, need, growing
}

// steady: entries enough, at enough moments, over enough of the window.
func (p proof) steady(entries []entry, w window) bool {
	if len(entries) < max(1, p.net) {
		return false
	}
	m := momentsOf(entries, w.length()/windowMoments)
	return m.n >= p.moments && 4*m.span >= time.Duration(p.quarters)*w.length()
}

// slow: the site closes waits past the threshold and keeps none much older than those.
func (s *siteWaits) slow(w window) bool {
	if s.closed.Longest < w.threshold || s.closed.N == 0 {
		return false
	}
	var oldest time.Duration
	for _, c := range s.waits {
		oldest = max(oldest, c.Dwell())
	}
	return oldest <= s.closed.Longest+s.closed.Longest/slowSlack
}

// queueFull: the kernel refuses from one more than the limit on. The queue is first
// in, first out: one stuck wait in it proves that nobody accepted since.
func (s *siteWaits) queueFull(w window) bool {
	for _, c := range s.waits {
		if c.Cause != Unaccepted || !w.stuck(c) {
			continue
		}
		for i := range c.Listeners {
			if c.Listeners[i].QueueLen > c.Listeners[i].QueueMax {
				return true
			}
		}
	}
	return false
}

// arriving judges by ages alone: the stuck waits came in a stream, the stream reaches up
// to the threshold, and beyond it to the present. Young waits prove nothing by
// themselves: a healthy site has some at any time.
func (s *siteWaits) arriving(w window, net int) bool {
	var stuck []entry
	var youngestStuck, youngest event.KTime
	var oldest time.Duration
	for _, c := range s.waits {
		if !proofOf(c.Cause).ages {
			continue
		}
		e := entryOf(c)
		youngest = max(youngest, e.lo)
		if w.stuck(c) {
			stuck = append(stuck, e)
			youngestStuck, oldest = max(youngestStuck, e.lo), max(oldest, c.Dwell())
		}
	}
	if len(stuck) < minAged || oldest < minAge*w.threshold || s.thinsOut(stuck, w) {
		return false
	}
	if s.closed.N > 0 && s.closed.Longest >= w.threshold/patience {
		// Waits of this site do end, and take their time: some will pass any threshold.
		return false
	}
	m := momentsOf(stuck, w.threshold/ageMoments)
	if m.n < minAged {
		return false
	}
	quiet := stillArriving * m.span / time.Duration(m.n-1)
	if w.length() >= quiet && net <= 0 {
		// We watched long enough to see the stream, and saw none.
		return false
	}
	return w.to.Sub(youngestStuck) <= w.threshold+quiet && w.to.Sub(youngest) <= quiet
}

// thinsOut: where waits end late, at random, the old are few. A leak at a steady rate
// leaves as many old ones as young. Compared are the halves of the stuck ones, and the
// rate of the stuck ones with that of the second half of the threshold before.
func (s *siteWaits) thinsOut(stuck []entry, w window) bool {
	edge := w.to.Add(-w.threshold)
	oldest := edge
	for _, e := range stuck {
		oldest = min(oldest, e.hi)
	}
	old, middle := 0, oldest+(edge-oldest)/2
	for _, e := range stuck {
		if e.hi <= middle {
			old++
		}
	}
	next := 0
	for _, c := range s.waits {
		if e := entryOf(c); proofOf(c.Cause).ages && e.hi > edge && e.hi <= edge.Add(w.threshold/2) {
			next++
		}
	}
	perSec := float64(len(stuck)) / max(edge.Sub(oldest), 1).Seconds()
	expected := perSec * w.threshold.Seconds() / 2
	return oldShare*old < len(stuck) || float64(next) > minAged+thinning*expected
}
