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

// ticksPerSecond finds CONFIG_HZ from one reading of both kernel clocks: jiffies start
// at -300 seconds (in 32 bits), ktime at 0.
func ticksPerSecond(ktime, jiffies uint64) (uint32, error) {
	uptime := float64(ktime) / float64(time.Second)
	best, bestErr := uint32(0), math.Inf(1)
	for _, hz := range tickRates {
		start := uint64(uint32(-300 * int64(hz)))
		diff := math.Abs(float64(int64(jiffies-start))/float64(hz) - uptime)
		if diff < bestErr {
			best, bestErr = hz, diff
		}
	}
	// The two clocks drift by NTP's slewing, at most 500 ppm; boot adds a moment.
	if bestErr > 5+uptime*0.001 {
		return 0, fmt.Errorf("find the kernel's tick rate: ktime %d and jiffies %d fit none of %v", ktime, jiffies, tickRates)
	}
	return best, nil
}

// readTickRate runs the clock program once.
func readTickRate(spec *ebpf.CollectionSpec) (uint32, error) {
	coll, err := ebpf.NewCollection(only(spec, "read_clocks"))
	if err != nil {
		return 0, fmt.Errorf("load clock program: %w", err)
	}
	defer coll.Close()
	if _, err := coll.Programs["read_clocks"].Run(&ebpf.RunOptions{}); err != nil {
		return 0, fmt.Errorf("run clock program: %w", err)
	}
	var ktime, jiffies uint64
	if err := coll.Variables["clock_ktime"].Get(&ktime); err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	if err := coll.Variables["clock_jiffies"].Get(&jiffies); err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	return ticksPerSecond(ktime, jiffies)
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

// only copies spec with the named programs and all maps.
func only(spec *ebpf.CollectionSpec, programs ...string) *ebpf.CollectionSpec {
	c := spec.Copy()
	keep := make(map[string]*ebpf.ProgramSpec, len(programs))
	for _, name := range programs {
		keep[name] = c.Programs[name]
	}
	c.Programs = keep
	return c
}
