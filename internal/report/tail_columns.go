package report

import (
	"strconv"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

func defaultTransitionColumns(f Format, fields []leaf) []string {
	switch f {
	case Table:
		return []string{"clock", "owner.pid", "owner.comm", "local", "remote", "change", "in_state"}
	case Wide:
		return []string{
			"clock", "owner.pid", "owner.comm", "owner.evidence", "local", "remote", "change", "in_state",
			"direction", "netns", "cookie", "container",
		}
	default:
		return usualNames(fields)
	}
}

// transitionColumns are the fast ones. Their widths fit private IPv4 addresses and the
// longest usual state names.
func transitionColumns(stamp *record.Stamp) []column[*transitionRow] {
	return append(flowColumns(stamp), []column[*transitionRow]{
		{name: "change", header: "OLD->NEW", width: 23, text: appendChange, color: changeColor},
		{
			name: "in_state", header: "IN-STATE", right: true, width: 6,
			text: func(dst []byte, r *transitionRow) []byte { return appendAge(dst, r.t.InState, r.t.InBound) },
		},
		{
			name: "owner.evidence", header: "EVIDENCE", width: 8,
			text: func(dst []byte, r *transitionRow) []byte { return append(dst, r.t.Evidence.String()...) },
		},
		{
			name: "direction", header: "DIR", width: 3,
			text: func(dst []byte, r *transitionRow) []byte { return append(dst, r.t.Direction.String()...) },
		},
		{
			name: "netns", header: "NETNS", right: true, width: 10,
			text:   func(dst []byte, r *transitionRow) []byte { return appendUint(dst, uint64(r.t.Flow.Netns)) },
			number: func(r *transitionRow) (int64, bool) { return int64(r.t.Flow.Netns), r.t.Flow.Netns != 0 },
		},
		{
			name: "cookie", header: "COOKIE", right: true, width: 8,
			text:   func(dst []byte, r *transitionRow) []byte { return appendUint(dst, uint64(r.t.Cookie)) },
			number: func(r *transitionRow) (int64, bool) { return int64(r.t.Cookie), r.t.Cookie != 0 },
		},
		{
			name: "container", header: "CONTAINER", width: 12,
			text: func(dst []byte, r *transitionRow) []byte { return record.AppendEscaped(dst, r.facts.Cgroup.Container) },
		},
	}...)
}

func flowColumns(stamp *record.Stamp) []column[*transitionRow] {
	return []column[*transitionRow]{
		{
			name: "clock", header: "TIME", width: 12,
			text: func(dst []byte, r *transitionRow) []byte { return stamp.Append(dst, r.offset+int64(r.t.At)) },
		},
		{
			name: "owner.pid", header: "PID", right: true, width: 7,
			text:   func(dst []byte, r *transitionRow) []byte { return appendUint(dst, uint64(r.t.Owner.Pid)) },
			number: func(r *transitionRow) (int64, bool) { return int64(r.t.Owner.Pid), r.t.Owner.Known() },
		},
		{
			name: "owner.comm", header: "COMM", width: 10,
			text: func(dst []byte, r *transitionRow) []byte { return appendComm(dst, &r.t.Owner.Comm) },
		},
		{
			name: "local", header: "LOCAL", width: 15,
			text: func(dst []byte, r *transitionRow) []byte { return appendAddrPort(dst, r.t.Flow.Local) },
		},
		{
			name: "remote", header: "REMOTE", width: 15,
			text: func(dst []byte, r *transitionRow) []byte { return appendAddrPort(dst, r.t.Flow.Remote) },
		},
	}
}

func appendChange(dst []byte, r *transitionRow) []byte {
	dst = append(dst, r.t.Old.String()...)
	dst = append(dst, "->"...)
	return append(dst, r.t.New.String()...)
}

// changeColor marks where a wait begins and ends.
func changeColor(r *transitionRow) string {
	switch {
	case r.t.New == event.CloseWait:
		return yellow
	case r.t.Old == event.CloseWait:
		return green
	default:
		return ""
	}
}

// LossText says in one line what did not arrive.
func LossText(l event.Loss) string {
	buf := append([]byte(nil), "lost events: "...)
	for i, part := range []struct {
		n    uint64
		what string
	}{
		{l.Lost, " lost (ring full)"}, {l.Dropped, " dropped"}, {l.Evicted, " evicted"}, {l.Missed, " missed"},
	} {
		if i > 0 {
			buf = append(buf, ", "...)
		}
		buf = append(strconv.AppendUint(buf, part.n, 10), part.what...)
	}
	return string(buf)
}
