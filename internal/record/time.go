package record

import (
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Layout of times in records: RFC 3339 with all nine digits, so that text order is
// time order.
const Layout = "2006-01-02T15:04:05.000000000Z07:00"

// Time is a moment of wall time in a record, UTC.
type Time struct{ time.Time }

// MarshalJSON writes Layout in UTC; the zero Time is null.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return t.UTC().AppendFormat(make([]byte, 0, len(Layout)+2), `"`+Layout+`"`), nil
}

// At converts kernel time by one reading of the clocks.
func At(c event.Clock, k event.KTime) Time { return Time{c.Time(k)} }

// Stamp appends times fast: it keeps the text of the last second, and events come
// in bursts. Not safe for concurrent use.
type Stamp struct {
	layout string
	loc    *time.Location
	digits int
	sec    int64
	prefix []byte
}

// NewStamp formats the whole seconds with layout in loc, and appends a dot and that
// many digits of the fraction (1 to 9).
func NewStamp(layout string, loc *time.Location, digits int) *Stamp {
	return &Stamp{layout: layout + ".", loc: loc, digits: digits}
}

// Append appends the time that many nanoseconds after 1970.
func (s *Stamp) Append(dst []byte, unixNano int64) []byte {
	sec, frac := unixNano/1e9, unixNano%1e9
	if frac < 0 {
		sec, frac = sec-1, frac+1e9
	}
	if sec != s.sec || len(s.prefix) == 0 {
		s.sec = sec
		s.prefix = time.Unix(sec, 0).In(s.loc).AppendFormat(s.prefix[:0], s.layout)
	}
	dst = append(dst, s.prefix...)
	var text [9]byte
	for i, rest := len(text)-1, uint32(frac); i >= 0; i-- {
		text[i] = byte('0' + rest%10)
		rest /= 10
	}
	return append(dst, text[:s.digits]...)
}
