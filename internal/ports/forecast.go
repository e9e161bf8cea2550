package ports

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

const (
	// TimeWaitLasts is TCP_TIMEWAIT_LEN (include/net/tcp.h), compiled in.
	TimeWaitLasts = 60 * time.Second
	// timerLate is how much later than asked the timer of a mini-socket runs, in the mean: the
	// kernel rounds such timers up to 2 s (kernel/time/timer.c, at 250 ticks a second).
	timerLate = time.Second
	// horizon is how far a forecast reaches.
	horizon = 24 * time.Hour
	// fewest is how many sockets a rate must rest on, and least the share of the range that must
	// be gone for a forecast: what a few connections began with says nothing about thousands.
	fewest = 8
	least  = 0.05
)

// Forecast is when the last port is taken, if ports go on to be taken as they were of late and
// sockets that are not in TIME_WAIT stay as many, or grow as they did while watching. Those in
// TIME_WAIT give their ports back when their time is up.
type Forecast struct {
	// In is nil if no end is in sight; 0: there is none left now.
	In *time.Duration
	// Soonest and Latest are at the limits of the rate (two standard errors). Latest is nil if
	// it may never happen.
	Soonest, Latest *time.Duration
}

// mini is a mini-socket: since when it is one, and when its port can be had again, which may
// be before it ends.
type mini struct {
	state             event.State
	since, free, ends event.KTime
}

func (t *table) mini(s *event.Socket) mini {
	ends := s.Ends.Add(timerLate)
	m := mini{state: s.State, since: s.Since, free: ends, ends: ends}
	// What of a long time is over 60 s, the full socket has waited before.
	if lasts := min(t.settings[s.Flow.Netns].FinTimeout, TimeWaitLasts); s.State == event.FinWait2 && lasts > 0 {
		m.since = max(0, s.Ends.Add(-lasts))
	}
	return m
}

// stream is sockets that come at a rate and stay for a time.
type stream struct {
	perSecond, err float64
	stays          time.Duration
}

// streamOf is the rate at which mini-sockets of one state came to be in the time before now.
func streamOf(minis []mini, state event.State, now event.KTime, recent, stays time.Duration) stream {
	var at []event.KTime
	for i := range minis {
		if m := &minis[i]; m.state == state && m.since != 0 && m.since <= now && now.Sub(m.since) < recent {
			at = append(at, m.since)
		}
	}
	if len(at) < fewest {
		return stream{}
	}
	slices.Sort(at)
	// It may have begun in between.
	span := now.Sub(at[0]).Seconds()
	if span <= 0 {
		return stream{}
	}
	const bins = 4
	var n [bins]float64
	for _, t := range at[1:] {
		n[min(bins-1, int(t.Sub(at[0]).Seconds()/span*bins))]++
	}
	mean := float64(len(at)-1) / bins
	variance := 0.0
	for _, x := range n {
		variance += (x - mean) * (x - mean) / (bins - 1)
	}
	return stream{
		perSecond: float64(len(at)-1) / span, stays: stays + timerLate,
		err: math.Sqrt(math.Max(variance, mean)*bins) / span,
	}
}

// foresee fills in the rate and the forecast. stays is how long a new TIME_WAIT would keep its
// port.
func (u *use) foresee(in *Input, stays time.Duration) {
	streams := []stream{streamOf(u.minis, event.TimeWait, in.At, in.Recent, stays)}
	for i := range u.minis {
		// They all last equally long.
		if m := &u.minis[i]; m.state == event.FinWait2 && m.since != 0 {
			streams = append(streams, streamOf(u.minis, event.FinWait2, in.At, in.Recent, m.ends.Sub(m.since)-timerLate))
			break
		}
	}
	growth, growthErr := u.growth(in)
	u.PerSecond = growth
	for _, s := range streams {
		u.PerSecond += s.perSecond
	}
	if u.Unavailable() >= u.Range {
		u.Forecast = Forecast{new(time.Duration), new(time.Duration), new(time.Duration)}
		return
	}
	if u.UnavailableRatio() < least {
		return
	}
	at := func(sigmas float64) *time.Duration {
		var flow []stream
		for _, s := range streams {
			s.perSecond = math.Max(0, s.perSecond+sigmas*s.err)
			flow = append(flow, s)
		}
		return u.dry(in.At, flow, math.Max(0, growth+sigmas*growthErr))
	}
	if in := at(0); in != nil {
		u.Forecast = Forecast{in, at(2), at(-2)}
	}
}

// growth is how many sockets more a second keep a port for as long as they like, and its
// standard error; 0 if it is no more than chance.
func (u *use) growth(in *Input) (perSecond, err float64) {
	seconds := in.At.Sub(in.HeldAt).Seconds()
	if in.Held == nil || seconds <= 0 {
		return 0, 0
	}
	now, before := float64(u.InUse-len(u.minis)), float64(in.Held[u.Destination])
	if u.Every() {
		for d, n := range in.Held {
			if d.every() == u.Destination {
				before += float64(n)
			}
		}
	}
	more := now - before
	// Connections come and go: their number wavers by its root.
	if wavers := 3 * math.Sqrt(now+before); more <= wavers || more < fewest {
		return 0, 0
	}
	return more / seconds, math.Sqrt(more) / seconds
}

// dry is when the use reaches the range, nil if it does not before the horizon.
func (u *use) dry(now event.KTime, streams []stream, growth float64) *time.Duration {
	left := u.Range - u.Elsewhere
	// Between two moments at which something changes, use grows in a line.
	type change struct {
		at    float64 // seconds from now
		use   float64
		slope float64
	}
	used, slope := float64(u.InUse-len(u.minis)), growth
	var changes []change
	for i := range u.minis {
		if in := u.minis[i].free.Sub(now).Seconds(); in > 0 {
			used++
			changes = append(changes, change{at: in, use: -1})
		}
	}
	for _, s := range streams {
		slope += s.perSecond
		changes = append(changes, change{at: s.stays.Seconds(), slope: -s.perSecond})
	}
	changes = append(changes, change{at: horizon.Seconds()})
	slices.SortFunc(changes, func(a, b change) int { return cmp.Compare(a.at, b.at) })
	at := 0.0
	for _, c := range changes {
		if missing := float64(left) - used; missing <= 0 {
			return new(seconds(at))
		} else if slope > 0 && at+missing/slope <= c.at {
			return new(seconds(at + missing/slope))
		}
		used += slope*(c.at-at) + c.use
		slope = math.Max(0, slope+c.slope)
		at = c.at
	}
	return nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
