package tracer

import (
	"fmt"
	"math"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// tickRates are the values CONFIG_HZ can have on amd64 and arm64.
var tickRates = []uint32{100, 250, 300, 1000}

// clocks is one reading of both kernel clocks.
type clocks struct{ ktime, jiffies uint64 }

// ticksPerSecond finds CONFIG_HZ from one reading: jiffies start at -300 seconds (in 32
// bits), ktime at 0. Five minutes after boot every rate has counted the same number of
// ticks: there it is unsure, and two readings are needed.
func ticksPerSecond(c clocks) (hz uint32, sure bool) {
	uptime := float64(c.ktime) / float64(time.Second)
	best, second := math.Inf(1), math.Inf(1)
	for _, rate := range tickRates {
		start := uint64(uint32(-300 * int64(rate)))
		diff := math.Abs(float64(int64(c.jiffies-start))/float64(rate) - uptime)
		switch {
		case diff < best:
			best, second, hz = diff, best, rate
		case diff < second:
			second = diff
		}
	}
	// The clocks drift by NTP's slewing, at most 500 ppm; boot adds a moment.
	return hz, best < 1+uptime*0.001 && second > 4*best && second > 1
}

// tickRateBetween finds CONFIG_HZ from two readings a while apart.
func tickRateBetween(a, b clocks) uint32 {
	rate := float64(b.jiffies-a.jiffies) / (float64(b.ktime-a.ktime) / float64(time.Second))
	best := tickRates[0]
	for _, hz := range tickRates {
		if math.Abs(float64(hz)-rate) < math.Abs(float64(best)-rate) {
			best = hz
		}
	}
	return best
}

// tickApart tells 250 from 300 by five ticks.
const tickApart = 100 * time.Millisecond

// readTickRate runs the clock program once, or twice where once does not tell.
func readTickRate(spec *ebpf.CollectionSpec) (uint32, error) {
	coll, err := ebpf.NewCollection(only(spec, "read_clocks"))
	if err != nil {
		return 0, fmt.Errorf("load clock program: %w", err)
	}
	defer coll.Close()
	first, err := readClocks(coll)
	if err != nil {
		return 0, err
	}
	if hz, sure := ticksPerSecond(first); sure {
		return hz, nil
	}
	time.Sleep(tickApart)
	second, err := readClocks(coll)
	if err != nil {
		return 0, err
	}
	return tickRateBetween(first, second), nil
}

func readClocks(coll *ebpf.Collection) (c clocks, err error) {
	if _, err := coll.Programs["read_clocks"].Run(&ebpf.RunOptions{}); err != nil {
		return c, fmt.Errorf("run clock program: %w", err)
	}
	if err := coll.Variables["clock_ktime"].Get(&c.ktime); err != nil {
		return c, fmt.Errorf("read clock: %w", err)
	}
	if err := coll.Variables["clock_jiffies"].Get(&c.jiffies); err != nil {
		return c, fmt.Errorf("read clock: %w", err)
	}
	return c, nil
}

// Now reads the kernel's monotonic clock.
func Now() event.KTime {
	var ts unix.Timespec
	// Cannot fail for this clock.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return event.KTime(ts.Nano())
}

// ReadClock pairs wall and kernel time: of five readings the one in the tightest bracket.
func ReadClock(wall func() time.Time) event.Clock {
	var best event.Clock
	bracket := time.Duration(math.MaxInt64)
	for range 5 {
		before := Now()
		w := wall()
		after := Now()
		if d := after.Sub(before); d < bracket {
			bracket = d
			best = event.Clock{Wall: w.Round(0), K: before.Add(d / 2)}
		}
	}
	return best
}
