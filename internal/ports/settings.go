package ports

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// The sysctls that matter here. All of them are settings of a network namespace.
const (
	PortRange      = "net.ipv4.ip_local_port_range"
	ReservedPorts  = "net.ipv4.ip_local_reserved_ports"
	AutobindReuse  = "net.ipv4.ip_autobind_reuse"
	TimeWaitReuse  = "net.ipv4.tcp_tw_reuse"
	ReuseDelay     = "net.ipv4.tcp_tw_reuse_delay" // since 6.14
	Timestamps     = "net.ipv4.tcp_timestamps"
	TimeWaitLimit  = "net.ipv4.tcp_max_tw_buckets"
	FinTimeout     = "net.ipv4.tcp_fin_timeout"
	defaultReuseMs = 1000 // before the sysctl it was compiled in
)

// Sysctls are the names of the settings that matter, in the order they are shown.
func Sysctls() []string {
	return []string{PortRange, ReservedPorts, AutobindReuse, TimeWaitReuse, ReuseDelay, Timestamps, TimeWaitLimit, FinTimeout}
}

// Reuse says to which destinations connect() may take a port over from TIME_WAIT.
type Reuse uint8

// The values of tcp_tw_reuse, as the kernel numbers them.
const (
	ReuseNever Reuse = iota
	ReuseAlways
	// ReuseLoopback: only where one of the addresses is a loopback address.
	ReuseLoopback
)

// Settings are those of one network namespace.
type Settings struct {
	// Low and High are the ephemeral range, both included; 0 unknown.
	Low, High uint16
	// Reserved ports are not chosen by the kernel. Sorted, not overlapping.
	Reserved []event.PortRange
	Reuse    Reuse
	// ReuseDelay is how old a TIME_WAIT must be to be taken over.
	ReuseDelay time.Duration
	// AutobindReuse: with SO_REUSEADDR, bind(addr, 0) takes ports that are in use.
	AutobindReuse bool
	// NoTimestamps: tcp_timestamps is 0.
	NoTimestamps bool
	// TimeWaitLimit is tcp_max_tw_buckets, 0 unknown.
	TimeWaitLimit int
	// FinTimeout is how long an orphan stays in FIN_WAIT2, 0 unknown.
	FinTimeout time.Duration
}

// ParseSettings reads the values of sysctls by name, as /proc/sys has them. One that is
// missing is taken at the kernel's default, but without a range nothing can be said.
func ParseSettings(values map[string]string) (Settings, error) {
	s := Settings{ReuseDelay: defaultReuseMs * time.Millisecond}
	var err error
	if s.Low, s.High, err = parseRange(strings.Fields(values[PortRange])); err != nil {
		return s, fmt.Errorf("%s: %w", PortRange, err)
	}
	if s.Reserved, err = parsePorts(values[ReservedPorts]); err != nil {
		return s, fmt.Errorf("%s: %w", ReservedPorts, err)
	}
	numbers := map[string]func(int){
		TimeWaitReuse: func(n int) { s.Reuse = Reuse(n) },
		ReuseDelay:    func(n int) { s.ReuseDelay = time.Duration(n) * time.Millisecond },
		AutobindReuse: func(n int) { s.AutobindReuse = n != 0 },
		Timestamps:    func(n int) { s.NoTimestamps = n == 0 },
		TimeWaitLimit: func(n int) { s.TimeWaitLimit = n },
		FinTimeout:    func(n int) { s.FinTimeout = time.Duration(n) * time.Second },
	}
	for name, set := range numbers {
		text, ok := values[name]
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 31)
		if err != nil {
			return s, fmt.Errorf("%s: %w", name, err)
		}
		if name == TimeWaitReuse && n > uint64(ReuseLoopback) {
			return s, fmt.Errorf("%s: no meaning of %d is known", name, n)
		}
		set(int(n))
	}
	return s, nil
}

func parseRange(ends []string) (low, high uint16, err error) {
	if len(ends) != 2 {
		return 0, 0, fmt.Errorf("%d numbers, want 2", len(ends))
	}
	if low, err = parsePort(ends[0]); err != nil {
		return 0, 0, err
	}
	if high, err = parsePort(ends[1]); err != nil {
		return 0, 0, err
	}
	if low == 0 || low > high {
		return 0, 0, fmt.Errorf("no range: %d to %d", low, high)
	}
	return low, high, nil
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err
}

// parsePorts reads a list such as 8080,30000-30100.
func parsePorts(text string) ([]event.PortRange, error) {
	var list []event.PortRange
	for part := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		if part == "" {
			continue
		}
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		low, err := parsePort(from)
		if err != nil {
			return nil, err
		}
		high, err := parsePort(to)
		if err != nil {
			return nil, err
		}
		if low > high {
			return nil, fmt.Errorf("no range: %s", part)
		}
		list = append(list, event.PortRange{From: low, To: high})
	}
	slices.SortFunc(list, func(a, b event.PortRange) int { return int(a.From) - int(b.From) })
	return joined(list), nil
}

// joined merges overlapping ranges of a sorted list.
func joined(list []event.PortRange) []event.PortRange {
	var out []event.PortRange
	for _, r := range list {
		if n := len(out); n > 0 && int(r.From) <= int(out[n-1].To)+1 {
			out[n-1].To = max(out[n-1].To, r.To)
			continue
		}
		out = append(out, r)
	}
	return out
}

// Known reports whether there is a range at all.
func (s *Settings) Known() bool { return s.High != 0 }

// Has reports whether the kernel chooses the port.
func (s *Settings) Has(port uint16) bool {
	if port < s.Low || port > s.High || port == 0 {
		return false
	}
	return !slices.ContainsFunc(s.Reserved, func(r event.PortRange) bool { return port >= r.From && port <= r.To })
}

// Size is how many ports the kernel chooses from.
func (s *Settings) Size() int {
	if !s.Known() {
		return 0
	}
	n := int(s.High) - int(s.Low) + 1
	for _, r := range s.Reserved {
		if from, to := max(r.From, s.Low), min(r.To, s.High); from <= to {
			n -= int(to) - int(from) + 1
		}
	}
	return n
}

// Reusable reports whether connect() takes the port of a TIME_WAIT over at some age, and at
// which. A FIN_WAIT2 mini-socket is never taken over (until 6.10 it was).
func (s *Settings) Reusable(t *event.Socket) (after time.Duration, ok bool) {
	switch {
	case t.State != event.TimeWait, !t.Stamped, s.Reuse == ReuseNever:
		return 0, false
	case s.Reuse == ReuseLoopback && !t.Flow.Local.Addr().IsLoopback() && !t.Flow.Remote.Addr().IsLoopback():
		return 0, false
	default:
		return s.ReuseDelay, true
	}
}
