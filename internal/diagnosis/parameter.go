package diagnosis

import (
	"fmt"
	"math"
	"time"
)

// The parameters of the rule at the head of verdict.go.
const (
	// level bounds the false alarms: a site whose population is bounded is called growing in
	// one window with no more than this probability.
	level = 1e-4
	// cutoffCount is the number of cutoffs tried; each is tested at its share of the level.
	cutoffCount = 4
	// windowMoments, ageMoments: waits that began closer together than this fraction of the
	// window, or of the threshold, are one moment.
	// Or in any case closer than minApart, for how fast a burst is does not depend on us.
	windowMoments = 200
	ageMoments    = 100
	minApart      = 10 * time.Millisecond
	// minSpan: what fits into less than one half of the window is a wave.
	minSpan = 2
	// quiet is in mean gaps: a stream at random is silent that long once in twenty times.
	quiet = 3
	// holes: newcomers and stuck waits are one stream if no stretch of this fraction of the
	// threshold is empty between them.
	holes = 4
	// minStuck is how many must be stuck.
	minStuck = 3
	// maxPool: up to so many ends that nobody read, to one site, can be an idle pool. No
	// default of a pool that does not watch its idle connections is larger (Apache
	// HttpClient 20 or 25, HikariCP and urllib3 10, aiohttp and Go's net/http 100, go-redis 10
	// for each CPU).
	maxPool = 128
	// stuckShare is the share of the stuck among all that programs have which close late.
	stuckShare = 1.0 / 3
	// minAge is in thresholds: who closes late has closed by then.
	minAge = 2
	// oldShare: at least this fraction of the stuck waits is in the older half of their ages.
	oldShare = 3
	// patience: ages prove nothing at a site that closes waits this fraction of the threshold
	// old.
	patience = 4
	// slowSlack is the fraction of the longest closed dwell an open wait may exceed it by.
	slowSlack = 4
	// foundAt is what a window must gain for a leak at random to be found nine times of ten.
	foundAt = 28
	// deviations is the normal quantile of the 95 % limits of a rate.
	deviations = 1.96
	// dispersionSlots is the number of equal parts of the window whose counts are compared to
	// see how much rougher than a Poisson process the arrivals are.
	dispersionSlots = 20
	// farAway is where a forecast ends to mean anything.
	farAway = 10 * 365 * 24 * time.Hour
	// maxPeers is the length of a process's list of peers.
	maxPeers = 5
)

// Parameter is one number of the rule, for the documentation.
type Parameter struct{ Name, Value, What string }

// Parameters are the numbers that verdicts rest on, in the order of the rule.
func Parameters() []Parameter {
	one := func(n int) string { return fmt.Sprintf("1/%d", n) }
	return []Parameter{
		{"level", fmt.Sprint(level), "false-alarm probability per site and window, all cutoffs together, and of the test by ages"},
		{"cutoffs", "0, 1/10 and 1/2 of the window, the threshold", fmt.Sprintf("the ages c that are tried, each at %v", level/cutoffCount)},
		{"moment", one(windowMoments) + " of the window, " + one(ageMoments) + " of the threshold; at least " + short(minApart), "waits that began closer together are one moment"},
		{"least evidence, watched", fmt.Sprint(leastMoments(level/cutoffCount, 0.5)), "moments where nothing ended; follows from the level"},
		{"span", one(minSpan) + " of the window", "the moments reach at least so far"},
		{"quiet", fmt.Sprintf("%d mean gaps", quiet), "a stream that was silent longer has ended (wrong 1 time in 20)"},
		{"stuck", fmt.Sprint(minStuck), "so many of the kind that grows must be stuck"},
		{"hole", "the larger of " + one(holes) + " of the threshold and " + fmt.Sprintf("%d mean gaps", 2*quiet), "between the ages of newcomers and stuck waits none is longer, or they are two things"},
		{"pool", fmt.Sprint(maxPool), "up to so many open waits at a site are a pool, where ends are unread or in flight"},
		{"stuck share", "1/3", "of the waits of a program that closes late, at most this share is stuck"},
		{"least evidence, ages", fmt.Sprint(leastMoments(level, stuckShare)), "stuck moments where nothing is young; follows from the level"},
		{"least age", fmt.Sprintf("%d thresholds", minAge), "the oldest wait, for the test by ages"},
		{"old share", one(oldShare), "of the stuck are in the older half of their ages, or they thin out"},
		{"patience", one(patience) + " of the threshold", "a site that closed a wait of this age is not judged by ages"},
		{"slack", one(slowSlack), "an open wait may be older by this than the longest that was closed past the threshold"},
		{"limits", "95 %", "of rates and forecasts (Poisson, Byar's approximation)"},
	}
}

// leastMoments is the least n with share^n no greater than p.
func leastMoments(p, share float64) int { return int(math.Ceil(math.Log(p) / math.Log(share))) }

// detectable is the rate per second that a window of this length finds nine times of ten.
func detectable(length time.Duration) float64 { return foundAt / length.Seconds() }

// Powers are the slowest leaks that windows of some lengths find.
func Powers() []Parameter {
	var all []Parameter
	for _, length := range []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute} {
		all = append(all, Parameter{short(length), fmt.Sprintf("%.1f", 60*detectable(length)), fmt.Sprint(foundAt)})
	}
	return all
}
