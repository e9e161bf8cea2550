package report

import (
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// Escape sequences; only used when Options.Color is set.
const (
	reset  = "\x1b[0m"
	bold   = "\x1b[1m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
)

// Age is appendAge as text; empty where nothing is known.
func Age(d time.Duration, b event.Bound) string { return string(appendAge(nil, d, b)) }

// appendAge appends a duration in two units at most, as kubectl does, and finer below
// a second. A + marks a lower bound: the true age is this or more.
func appendAge(dst []byte, d time.Duration, b event.Bound) []byte {
	if b == event.BoundUnknown {
		return dst
	}
	dst = appendDuration(dst, d)
	if b == event.AtLeast {
		dst = append(dst, '+')
	}
	return dst
}

// appendBounds is appendAge, but a lower bound of nothing gives way to the upper one,
// where that is known.
func appendBounds(dst []byte, d, most time.Duration, b event.Bound) []byte {
	if b == event.AtLeast && d < time.Millisecond && most > 0 {
		return appendDuration(append(dst, '<'), roundUp(most))
	}
	return appendAge(dst, d, b)
}

// roundUp goes up to the unit that appendDuration shows, for it leaves the rest off.
func roundUp(d time.Duration) time.Duration {
	unit := time.Nanosecond
	for _, u := range []struct{ from, unit time.Duration }{
		{time.Microsecond, time.Microsecond},
		{time.Millisecond, time.Millisecond},
		{time.Second, time.Second},
		{10 * time.Minute, time.Minute},
		{8 * time.Hour, time.Hour},
		{8 * 24 * time.Hour, 24 * time.Hour},
	} {
		if d >= u.from {
			unit = u.unit
		}
	}
	return (d + unit - 1).Truncate(unit)
}

func appendDuration(dst []byte, d time.Duration) []byte {
	const day = 24 * time.Hour
	switch {
	case d == 0:
		return append(dst, "0s"...)
	case d < time.Microsecond:
		return append(strconv.AppendInt(dst, int64(d), 10), "ns"...)
	case d < time.Millisecond:
		return append(strconv.AppendInt(dst, int64(d/time.Microsecond), 10), "us"...)
	case d < time.Second:
		return append(strconv.AppendInt(dst, int64(d/time.Millisecond), 10), "ms"...)
	case d < 2*time.Minute:
		return append(strconv.AppendInt(dst, int64(d/time.Second), 10), 's')
	case d < 10*time.Minute:
		return appendTwo(dst, d, time.Minute, 'm', time.Second, 's')
	case d < 3*time.Hour:
		return append(strconv.AppendInt(dst, int64(d/time.Minute), 10), 'm')
	case d < 8*time.Hour:
		return appendTwo(dst, d, time.Hour, 'h', time.Minute, 'm')
	case d < 2*day:
		return append(strconv.AppendInt(dst, int64(d/time.Hour), 10), 'h')
	case d < 8*day:
		return appendTwo(dst, d, day, 'd', time.Hour, 'h')
	default:
		return append(strconv.AppendInt(dst, int64(d/day), 10), 'd')
	}
}

func appendTwo(dst []byte, d, large time.Duration, l byte, small time.Duration, s byte) []byte {
	dst = append(strconv.AppendInt(dst, int64(d/large), 10), l)
	if rest := d % large / small; rest > 0 {
		dst = append(strconv.AppendInt(dst, int64(rest), 10), s)
	}
	return dst
}

// appendAddrPort writes an IPv6 address as [addr]:port. An unknown port is a star, as in
// ss.
func appendAddrPort(dst []byte, ap netip.AddrPort) []byte {
	a := ap.Addr()
	if !a.IsValid() {
		return dst
	}
	if a.Is4() {
		dst = a.AppendTo(dst)
	} else {
		dst = append(dst, '[')
		dst = a.AppendTo(dst)
		dst = append(dst, ']')
	}
	dst = append(dst, ':')
	if ap.Port() == 0 {
		return append(dst, '*')
	}
	return strconv.AppendUint(dst, uint64(ap.Port()), 10)
}

// appendUint leaves 0 out where it means unknown.
func appendUint(dst []byte, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return strconv.AppendUint(dst, v, 10)
}

func appendComm(dst []byte, c *event.Comm) []byte {
	return record.AppendEscaped(dst, record.CommBytes(c))
}

// width is the number of columns a cell takes on a terminal, give or take wide
// characters.
func width(cell []byte) int { return utf8.RuneCount(cell) }

func appendSpaces(dst []byte, n int) []byte {
	const spaces = "                                                                "
	for n > len(spaces) {
		dst = append(dst, spaces...)
		n -= len(spaces)
	}
	if n > 0 {
		dst = append(dst, spaces[:n]...)
	}
	return dst
}
