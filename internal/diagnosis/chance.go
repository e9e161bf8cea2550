package diagnosis

import (
	"math"
	"time"
)

// atLeast is the probability that of n trials k or more succeed, each with probability
// share: the tail of the binomial distribution.
func atLeast(n, k int, share float64) float64 {
	if float64(k) <= float64(n)*share {
		return 1 // no evidence; the exact number is of no use
	}
	// From k on the terms fall, by at least this quotient.
	term := math.Exp(logChoose(n, k) + float64(k)*math.Log(share) + float64(n-k)*math.Log1p(-share))
	sum, odds := 0.0, share/(1-share)
	for i := k; i <= n && term > sum*1e-12; i++ {
		sum += term
		term *= odds * float64(n-i) / float64(i+1)
	}
	return min(1, sum)
}

func logChoose(n, k int) float64 {
	log := func(n int) float64 {
		v, _ := math.Lgamma(float64(n) + 1)
		return v
	}
	return log(n) - log(k) - log(n-k)
}

// interval is an estimate with its 95 % limits.
type interval struct{ mid, low, high float64 }

// times scales the interval by a factor above 0.
func (i interval) times(f float64) interval { return interval{i.mid * f, i.low * f, i.high * f} }

// plus is the sum of independent estimates: deviations add up in squares.
func (i interval) plus(o interval) interval {
	mid := i.mid + o.mid
	return interval{
		mid,
		mid - math.Hypot(i.mid-i.low, o.mid-o.low),
		mid + math.Hypot(i.high-i.mid, o.high-o.mid),
	}
}

func (i interval) minus(o interval) interval {
	return i.plus(interval{-o.mid, -o.high, -o.low})
}

// poisson gives the limits of the mean of a Poisson process in which n were counted, by
// Byar's approximation. Of a process rougher than that (dispersion is variance to mean,
// at least 1) a count says as much as one smaller by that factor.
func poisson(n int, dispersion float64) interval {
	k := float64(n) / dispersion
	i := interval{mid: k, high: byar(k+1, deviations)}
	if k > 0 {
		i.low = byar(k, -deviations)
	}
	return i.times(dispersion)
}

func byar(k, z float64) float64 {
	return k * math.Pow(max(0, 1-1/(9*k)+z/(3*math.Sqrt(k))), 3)
}

// until is the time to reach n at a rate per minute; false where that is never, or too
// far away to say.
func until(n, perMin float64) (time.Duration, bool) {
	if n <= 0 {
		return 0, true
	}
	if perMin <= 0 || n/perMin > farAway.Minutes() {
		return 0, false
	}
	return time.Duration(n / perMin * float64(time.Minute)), true
}
