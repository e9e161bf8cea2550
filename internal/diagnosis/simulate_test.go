package diagnosis

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// program is a random process model: waits come at a rate, each stays for a drawn time.
// A negative stay is for ever.
type program struct {
	perSec float64
	stay   func(*rand.Rand) time.Duration
	// pool waits entered together, this long before now, and stay.
	pool  int
	cause func(*Case)
}

// run judges the program after the given time of work, with a window before now.
func (p program) run(r *rand.Rand, worked, length time.Duration) Diagnosis {
	s := watched(length)
	gap := func() time.Duration { return time.Duration(r.ExpFloat64() / p.perSec * float64(time.Second)) }
	for at := now.Add(-worked).Add(gap()); p.perSec > 0 && at < now; at = at.Add(gap()) {
		stay := p.stay(r)
		switch end := at.Add(stay); {
		case stay < 0 || end > now:
			s.open(1, now.Sub(at), 0, p.cause)
		case end >= s.in.From:
			s.tally.Add(task(10), Site{event.In, 8080}, at, stay)
		}
	}
	s.open(p.pool, 5*minute, 0, p.cause)
	return s.judge()
}

func always(d time.Duration) func(*rand.Rand) time.Duration {
	return func(*rand.Rand) time.Duration { return d }
}

func mean(d time.Duration) func(*rand.Rand) time.Duration {
	return func(r *rand.Rand) time.Duration { return time.Duration(r.ExpFloat64() * float64(d)) }
}

// leaky forgets a share of the waits.
func leaky(share float64) func(*rand.Rand) time.Duration {
	return func(r *rand.Rand) time.Duration {
		if r.Float64() < share {
			return -1
		}
		return time.Duration(r.ExpFloat64() * float64(20*time.Millisecond))
	}
}

// TestSimulated runs programs of known character at random. Nobody who closes may be called
// leaking; of those who leak most must be. One program cannot be told from a leak by
// ages every time: it closes at random, and a fifth of its waits pass the threshold.
func TestSimulated(t *testing.T) {
	const sec, rounds = time.Second, 200
	tests := []struct {
		name   string
		p      program
		window time.Duration
		// from, to is the range of working times.
		from, to time.Duration
		leaks    bool
		// wrong is how many wrong accusations of a hundred are known and accepted.
		wrong int
	}{
		{"healthy", program{perSec: 50, stay: mean(50 * time.Millisecond)}, 10 * sec, minute, 2 * minute, false, 0},
		{"healthy beside a pool", program{perSec: 20, stay: mean(2 * sec), pool: 23}, 10 * sec, minute, 2 * minute, false, 0},
		{"healthy beside a pool, present only", program{perSec: 20, stay: mean(2 * sec), pool: 23}, 0, minute, 2 * minute, false, 0},
		{"long requests beside a pool", program{perSec: 2, stay: mean(15 * sec), pool: 5}, 10 * sec, 2 * minute, 4 * minute, false, 0},
		{"slow closer", program{perSec: 1, stay: always(70 * sec)}, 10 * sec, 75 * sec, 5 * minute, false, 0},
		{"slow closer, present only", program{perSec: 1, stay: always(70 * sec)}, 0, minute, 5 * minute, false, 0},
		{"busy slow closer", program{perSec: 20, stay: always(70 * sec)}, 10 * sec, 75 * sec, 3 * minute, false, 0},
		{"irregular slow closer", program{perSec: 2, stay: mean(40 * sec)}, 10 * sec, 5 * minute, 8 * minute, false, 0},
		{"irregular slow closer, present only", program{perSec: 2, stay: mean(40 * sec)}, 0, 5 * minute, 8 * minute, false, 2},
		{"very slow closer", program{perSec: 2, stay: always(100 * sec)}, 0, minute, 5 * minute, false, 0},

		{"leak", program{perSec: 2, stay: always(-1)}, 10 * sec, 2 * minute, 5 * minute, true, 0},
		{"fast leak", program{perSec: 20, stay: always(-1)}, 10 * sec, 65 * sec, 2 * minute, true, 0},
		{"one in twenty forgotten", program{perSec: 40, stay: leaky(0.05)}, 10 * sec, 3 * minute, 5 * minute, true, 0},
		{"slow leak", program{perSec: 0.05, stay: always(-1)}, 10 * sec, 20 * minute, 40 * minute, true, 0},
		{"slow leak, present only", program{perSec: 0.05, stay: always(-1)}, 0, 20 * minute, 40 * minute, true, 0},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(i), 7))
			found := 0
			for range rounds {
				worked := tt.from + time.Duration(r.Int64N(int64(tt.to-tt.from)))
				d := tt.p.run(r, worked, tt.window)
				if d.Verdict != Leaking {
					continue
				}
				found++
				if !tt.leaks {
					t.Logf("after %v: %s", worked, d.Processes[0].Why)
				}
			}
			t.Logf("called leaking %d times of %d", found, rounds)
			if !tt.leaks && found > rounds*tt.wrong/100 {
				t.Errorf("%d of %d wrong accusations", found, rounds)
			}
			if tt.leaks && found < rounds*8/10 {
				t.Errorf("%d of %d leaks found", found, rounds)
			}
		})
	}
}
