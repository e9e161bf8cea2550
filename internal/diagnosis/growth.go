package diagnosis

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// proof is what waits of one cause can prove.
type proof struct {
	// pool: a bounded pool leaves the same traces, so growth alone proves nothing.
	pool bool
	// ages: the entry times of the present waits can be enough.
	ages bool
	// alone: growth without a stuck wait is at least suspicious.
	alone bool
}

// proofOf: who was told of the EOF, or let data pile up, and keeps the socket has no
// excuse. Unread EOF is how every idle pool looks.
func proofOf(c Cause) proof {
	switch c {
	case EOFIgnored, UnreadData:
		return proof{ages: true, alone: true}
	case HeldElsewhere, ZombieFD:
		return proof{ages: true}
	case Unaccepted:
		return proof{}
	case UnreadEOF:
		return proof{pool: true, alone: true}
	default:
		return proof{pool: true}
	}
}

// Which waits are counted.
func anyCause(Cause) bool       { return true }
func noPool(c Cause) bool       { return !proofOf(c).pool }
func tellsAlone(c Cause) bool   { return proofOf(c).alone }
func tellsByAge(c Cause) bool   { return proofOf(c).ages }
func isDescriptor(c Cause) bool { return c != Unaccepted && c != InFlight }

// window is the time a judgement looks at.
type window struct {
	from, to  event.KTime
	threshold time.Duration
}

func (w window) length() time.Duration { return max(0, w.to.Sub(w.from)) }

// text is the length for people.
func (w window) text() string { return short(w.length().Round(100 * time.Millisecond)) }

// stuck: the lower bound of the dwell has reached the threshold, and it is not a
// half-close in use.
func (w window) stuck(c *Case) bool {
	return c.Cause != HalfClose && c.Bound != event.BoundUnknown && c.Dwell() >= w.threshold
}

// cutoffs are the ages from which waits are counted: all, those that outlive quick work,
// those that outlive slow work, and the stuck.
func (w window) cutoffs() []time.Duration {
	all := [cutoffCount]time.Duration{0, w.length() / 10, w.length() / 2, w.threshold}
	slices.Sort(all[:])
	return slices.Compact(all[:])
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

// change is how the number of waits older than the cutoff changed in the window.
type change struct {
	cutoff time.Duration
	// came reached the cutoff in the window and are open, with of them fill a descriptor; gone
	// were older than it when the window began, and have ended. ended are all that have ended
	// at such an age, those that also came in the window included.
	came, with, gone, ended int
	moments
	// first is when the first of them came.
	first event.KTime
	// silence is the time since the last that came, or since any began, at most.
	silence    time.Duration
	dispersion float64
}

func (c change) net() int { return c.came - c.gone }

// change counts the waits whose cause counts. Of zombies it is known when they came; whether one
// went is seen at the next look only.
func (s *siteWaits) change(w window, cutoff time.Duration, counts func(Cause) bool) change {
	ch := change{cutoff: cutoff, gone: s.closed.goneFrom(cutoff), ended: s.closed.lasted.from(cutoff)}
	var entries []entry
	var last, youngest event.KTime
	for _, c := range s.waits {
		e := entryOf(c)
		if !counts(c.Cause) || e.lo == 0 {
			continue
		}
		youngest = max(youngest, e.lo)
		if e.lo.Add(cutoff) < w.from || e.hi.Add(cutoff) > w.to {
			continue
		}
		entries = append(entries, e)
		last = max(last, e.lo.Add(cutoff))
		if first := e.hi.Add(cutoff); ch.first == 0 || first < ch.first {
			ch.first = first
		}
		if isDescriptor(c.Cause) {
			ch.with++
		}
	}
	ch.came = len(entries)
	ch.dispersion = dispersion(entries, w, cutoff)
	ch.moments = momentsOf(entries, max(minApart, w.length()/windowMoments))
	ch.silence = w.to.Sub(min(last, youngest))
	return ch
}

// dispersion is the ratio of variance to mean of the numbers that came in equal parts of
// the window: 1 for a Poisson process, more for batches. Never below 1.
func dispersion(entries []entry, w window, cutoff time.Duration) float64 {
	part := w.length() / dispersionSlots
	if len(entries) == 0 || part == 0 {
		return 1
	}
	var counts [dispersionSlots]float64
	for _, e := range entries {
		counts[min(int(max(0, e.hi.Add(cutoff).Sub(w.from))/part), dispersionSlots-1)]++
	}
	mean, squares := float64(len(entries))/dispersionSlots, 0.0
	for _, n := range counts {
		squares += (n - mean) * (n - mean)
	}
	return max(1, squares/(dispersionSlots-1)/mean)
}

// chance is the probability of such a change or a larger one where the population is
// bounded. Those that came and those that are gone are then alike, and each of the events
// is one or the other with probability 1/2. Those that came and went count as gone as well:
// so a program that has only just begun to close is given its due.
func (c change) chance() float64 { return atLeast(c.n+c.ended, c.n, 0.5) }

// steady: it was no wave. The moments span the window and reach up to its end.
func (c change) steady(w window) bool {
	return minSpan*c.span >= w.length() && c.silence*time.Duration(c.n) <= quiet*w.length()
}

// reachesBack: those that count stand in one stream from the newcomers back to the stuck,
// with no hole in it. What comes and goes within less than the threshold is nobody's
// fault, however it swells meanwhile; and of what has stopped only the past grows older.
func (s *siteWaits) reachesBack(ch change, w window, counts func(Cause) bool) bool {
	hole := max(w.threshold/holes, 2*quiet*w.length()/time.Duration(ch.n))
	var ages []time.Duration
	for _, c := range s.waits {
		if counts(c.Cause) && c.Bound != event.BoundUnknown {
			ages = append(ages, c.Dwell())
		}
	}
	slices.Sort(ages)
	stuck := 0
	for i, age := range ages {
		if i > 0 && age-ages[i-1] > hole {
			return false
		}
		if age >= w.threshold {
			if stuck++; stuck == minStuck {
				return true
			}
		}
	}
	return false
}

// perMin is the growth in the window with its limits; of all, and of those that fill a
// descriptor.
func perMin(c change, w window) (all, with interval) {
	scale := 1 / w.length().Minutes()
	gone := poisson(c.gone, c.dispersion)
	return poisson(c.came, c.dispersion).minus(gone).times(scale), poisson(c.with, c.dispersion).minus(gone).times(scale)
}

// sinceItBegan is the part of the window since the first came, and the change in it, if
// before there was silence too long for a steady stream: the leak began while we watched.
func (c change) sinceItBegan(w window) (change, window) {
	lead := c.first.Sub(w.from)
	if c.ended > 0 || lead*time.Duration(c.n) <= quiet*w.length() {
		return c, w
	}
	// The first only says when it began.
	c.came, c.with = c.came-1, max(0, c.with-1)
	return c, window{c.first, w.to, w.threshold}
}

// grows tests the cutoffs and returns the change that is the least likely by chance, and
// whether growth is shown. If it is not, the change is that of all ages.
func (s *siteWaits) grows(w window, counts func(Cause) bool) (change, bool) {
	best, least, shown := change{}, 1.0, false
	for i, cutoff := range w.cutoffs() {
		c := s.change(w, cutoff, counts)
		if i == 0 {
			best = c
		}
		if w.length() == 0 {
			break
		}
		if p := c.chance(); p <= level/cutoffCount && p < least && c.steady(w) {
			best, least, shown = c, p, true
		}
	}
	return best, shown
}

// finding is what a site says.
type finding struct {
	verdict Verdict
	why     string
	// rate is the growth per minute where it is shown, fill that of open descriptors.
	rate, fill *interval
}

// grown adds the rates of a change that shows growth.
func (f finding) grown(c change, w window) finding {
	all, with := perMin(c.sinceItBegan(w))
	f.rate, f.fill = &all, &with
	return f
}

// assess applies the rules at the head of verdict.go to one site.
func (s *siteWaits) assess(w window) finding {
	stuck := 0
	for _, c := range s.waits {
		if w.stuck(c) {
			stuck++
		}
	}
	if stuck == 0 {
		return s.young(w)
	}
	old := fmt.Sprintf("%d older than %s", stuck, short(w.threshold))
	told, toldGrows := s.grows(w, noPool)
	all, allGrows := s.grows(w, anyCause)
	aged, agedGrows := s.arriving(w)
	switch {
	case s.queueFull(w):
		f := finding{verdict: Leaking, why: old + ", and the accept queue is full: new connections are refused"}
		if toldGrows {
			return f.grown(told, w)
		}
		return f
	case s.slow(w):
		return finding{verdict: Suspicious, why: fmt.Sprintf("%s, but it does close: the longest took %s", old, short(s.closed.Longest.Round(time.Millisecond)))}
	case toldGrows && s.reachesBack(told, w, noPool):
		return finding{verdict: Leaking, why: fmt.Sprintf("%s, and %d more in %s", old, told.net(), w.text())}.grown(told, w)
	case allGrows && len(s.waits) > maxPool && s.reachesBack(all, w, anyCause):
		return finding{verdict: Leaking, why: fmt.Sprintf("%s, and %d more in %s", old, all.net(), w.text())}.grown(all, w)
	case agedGrows:
		return finding{verdict: Leaking, why: old + ", and their ages show a steady stream that has not ended", rate: &aged, fill: &aged}
	default:
		return finding{verdict: Suspicious, why: old + s.doubt(w, all, toldGrows, allGrows)}
	}
}

// doubt says why stuck waits are not called a leak.
func (s *siteWaits) doubt(w window, all change, toldGrows, allGrows bool) string {
	switch {
	case toldGrows || allGrows && len(s.waits) > maxPool:
		return fmt.Sprintf(", and %d more in %s, but the two need not belong together", all.net(), w.text())
	case allGrows:
		return fmt.Sprintf(", and %d more in %s: a leak, or a pool that fills", all.net(), w.text())
	case w.length() == 0:
		return ", growth not shown"
	case all.net() <= 0:
		return fmt.Sprintf(", but no growth in %s", w.text())
	default:
		return fmt.Sprintf(", growth not shown: %d more in %s can be chance", all.net(), w.text())
	}
}

// young judges a site where nothing is stuck yet.
func (s *siteWaits) young(w window) finding {
	c, grows := s.grows(w, tellsAlone)
	if !grows || s.closed.N > 0 {
		return finding{verdict: Clean}
	}
	why := fmt.Sprintf("%d more in %s and none closed, but none is older than %s yet", c.net(), w.text(), short(w.threshold))
	return finding{verdict: Suspicious, why: why}.grown(c, w)
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
			if l := c.Listeners[i].Accepts(); l.QueueLen > l.QueueMax {
				return true
			}
		}
	}
	return false
}

// arriving judges by ages alone: too many of the waits are stuck for a program that closes
// late, they came in a stream, and the stream reaches up to the threshold and beyond it to
// the present. Returned is the rate per minute.
func (s *siteWaits) arriving(w window) (interval, bool) {
	var stuck, young []entry
	var youngestStuck, youngest event.KTime
	var oldest time.Duration
	net := -len(s.closed.Gone) // what the window added
	for _, c := range s.waits {
		if !tellsByAge(c.Cause) {
			continue
		}
		e := entryOf(c)
		youngest = max(youngest, e.lo)
		if e.lo >= w.from {
			net++
		}
		if !w.stuck(c) {
			young = append(young, entry{e.hi, e.hi}) // as many moments as can be
			continue
		}
		stuck = append(stuck, e)
		youngestStuck, oldest = max(youngestStuck, e.lo), max(oldest, c.Dwell())
	}
	if oldest < minAge*w.threshold || oldest == w.threshold || thinsOut(stuck, w) {
		return interval{}, false
	}
	if s.closed.N > 0 && s.closed.Longest >= w.threshold/patience {
		// Waits of this site do end, and take their time: some will pass any threshold.
		return interval{}, false
	}
	merge := max(minApart, w.threshold/ageMoments)
	m := momentsOf(stuck, merge)
	if tooFew(len(stuck), len(young)) || tooFew(m.n, momentsOf(young, merge).n) {
		return interval{}, false
	}
	still := quiet * m.span / time.Duration(m.n-1)
	if w.length() >= still && net <= 0 {
		// We watched long enough to see the stream, and saw none.
		return interval{}, false
	}
	// The oldest only says when it began.
	rate := poisson(len(stuck)-1, 1).times(1 / (oldest - w.threshold).Minutes())
	return rate, w.to.Sub(youngestStuck) <= w.threshold+still && w.to.Sub(youngest) <= still
}

// tooFew: so many stuck beside so many young are within what a program that closes late
// has by chance.
func tooFew(stuck, young int) bool { return atLeast(stuck+young, stuck, stuckShare) > level }

// thinsOut: where waits end late, at random, the old are few. A leak at a steady rate
// leaves as many old ones as young.
func thinsOut(stuck []entry, w window) bool {
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
	return oldShare*old < len(stuck)
}
