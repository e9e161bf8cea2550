package event

import "time"

// KTime is a point in kernel monotonic time: nanoseconds since boot without
// suspend, as bpf_ktime_get_ns() and CLOCK_MONOTONIC give it. 0 is unknown.
type KTime int64

// Sub returns the duration t-u.
func (t KTime) Sub(u KTime) time.Duration { return time.Duration(t - u) }

// Add returns the point d after t.
func (t KTime) Add(d time.Duration) KTime { return t + KTime(d) }

// Clock relates kernel time to wall time by one pair read together.
type Clock struct {
	Wall time.Time
	K    KTime
}

// Time converts a kernel time to wall time, UTC. The zero KTime gives the zero
// Time.
func (c Clock) Time(t KTime) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return c.Wall.Add(t.Sub(c.K)).UTC()
}

// BootTime is nanoseconds since boot with suspend (CLOCK_BOOTTIME), the clock of
// process start times. 0 is unknown.
type BootTime int64

// Ticks converts to the unit of field 22 of /proc/PID/stat: USER_HZ, which is 100 on
// every architecture Linux exposes to user space with BTF.
func (t BootTime) Ticks() uint64 { return uint64(t) / 10_000_000 }

// Bound says how a measured duration relates to the true one.
type Bound uint8

// A duration is exact when its start was watched, AtLeast when the socket was
// there before us, unknown when nothing bounds it.
const (
	BoundUnknown Bound = iota
	Exact
	AtLeast
)

// String returns "exact", "at_least" or "" for unknown.
func (b Bound) String() string {
	switch b {
	case Exact:
		return "exact"
	case AtLeast:
		return "at_least"
	default:
		return ""
	}
}
