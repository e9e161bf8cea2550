package report

import (
	"strconv"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// defaultSocketColumns are the columns without --fields. The table's fit 80 characters
// with usual addresses.
func defaultSocketColumns(f Format, fields []leaf, stacks bool) []string {
	switch f {
	case Table:
		return []string{"age", "cause", "owner.pid", "comm", "local", "remote", "recv_q"}
	case Wide:
		wide := []string{
			"age", "at_most", "cause", "state", "direction", "owner.pid", "owner.comm", "owner.evidence",
			"local", "remote", "recv_q", "send_q", "holders", "accept_queue", "other_end",
			"netns", "cookie", "container_id", "owner.unit", "owner.cmdline",
		}
		if stacks {
			wide = append(wide, "place")
		}
		return wide
	default:
		return usualNames(fields)
	}
}

// socketColumns go straight to the kernel's facts, because a million rows may come. Those
// named like a field of the record replace the slow way to it.
func socketColumns(threshold time.Duration) []column[*socketRow] {
	return append(briefColumns(threshold), wideColumns()...)
}

func briefColumns(threshold time.Duration) []column[*socketRow] {
	return []column[*socketRow]{
		{
			name: "age", header: "AGE", right: true, number: dwellOf,
			text: func(dst []byte, r *socketRow) []byte {
				return appendBounds(dst, r.c.Dwell(), r.c.DwellMax(), r.c.Bound)
			},
			color: func(r *socketRow) string { return stuckColor(r, threshold) },
		},
		{
			name: "cause", header: "CAUSE",
			text: func(dst []byte, r *socketRow) []byte { return append(dst, record.CauseOf(r.c)...) },
		},
		{
			name: "owner.pid", header: "PID", right: true,
			text:   func(dst []byte, r *socketRow) []byte { return appendUint(dst, uint64(r.c.Blamed.Pid)) },
			number: func(r *socketRow) (int64, bool) { return int64(r.c.Blamed.Pid), r.c.Blamed.Known() },
		},
		{
			name: "owner.comm", header: "COMM",
			text: func(dst []byte, r *socketRow) []byte { return appendComm(dst, &r.c.Blamed.Comm) },
		},
		{name: "comm", header: "COMM", text: appendWho},
		{
			name: "local", header: "LOCAL",
			text: func(dst []byte, r *socketRow) []byte { return appendAddrPort(dst, r.c.Flow.Local) },
		},
		{
			name: "remote", header: "REMOTE",
			text: func(dst []byte, r *socketRow) []byte { return appendAddrPort(dst, r.c.Flow.Remote) },
		},
		{
			name: "recv_q", header: "RECV-Q", right: true,
			text:   func(dst []byte, r *socketRow) []byte { return strconv.AppendUint(dst, uint64(r.c.RecvQ), 10) },
			number: func(r *socketRow) (int64, bool) { return int64(r.c.RecvQ), true },
		},
	}
}

func stuckColor(r *socketRow, threshold time.Duration) string {
	if threshold > 0 && r.c.State == event.CloseWait && r.c.Dwell() >= threshold {
		return red
	}
	return ""
}

func wideColumns() []column[*socketRow] {
	return []column[*socketRow]{
		{name: "at_most", header: "AT-MOST", right: true, number: dwellMaxOf, text: func(dst []byte, r *socketRow) []byte {
			if d := r.c.DwellMax(); d > 0 {
				return appendDuration(dst, d)
			}
			return dst
		}},
		{
			name: "state", header: "STATE",
			text: func(dst []byte, r *socketRow) []byte { return append(dst, r.c.State.String()...) },
		},
		{
			name: "direction", header: "DIR",
			text: func(dst []byte, r *socketRow) []byte { return append(dst, r.c.Direction.String()...) },
		},
		{
			name: "owner.evidence", header: "EVIDENCE",
			text: func(dst []byte, r *socketRow) []byte { return append(dst, r.c.Evidence.String()...) },
		},
		{
			name: "send_q", header: "SEND-Q", right: true,
			text:   func(dst []byte, r *socketRow) []byte { return strconv.AppendUint(dst, uint64(r.c.SendQ), 10) },
			number: func(r *socketRow) (int64, bool) { return int64(r.c.SendQ), true },
		},
		{name: "holders", header: "HOLDERS", text: appendHolders},
		{name: "accept_queue", header: "LISTENER", text: appendListener},
		{name: "other_end", header: "PEER", text: appendPeer},
		{
			name: "netns", header: "NETNS", right: true,
			text:   func(dst []byte, r *socketRow) []byte { return appendUint(dst, uint64(r.c.Flow.Netns)) },
			number: func(r *socketRow) (int64, bool) { return int64(r.c.Flow.Netns), r.c.Flow.Netns != 0 },
		},
		{
			name: "cookie", header: "COOKIE", right: true,
			text:   func(dst []byte, r *socketRow) []byte { return appendUint(dst, uint64(r.c.Cookie)) },
			number: func(r *socketRow) (int64, bool) { return int64(r.c.Cookie), r.c.Cookie != 0 },
		},
		{name: "container_id", header: "CONTAINER", text: appendContainer},
		{name: "owner.unit", header: "UNIT", text: func(dst []byte, r *socketRow) []byte {
			return record.AppendEscaped(dst, r.facts.Process(r.c.Blamed.Pid).Unit)
		}},
		{name: "owner.cmdline", header: "CMDLINE", text: func(dst []byte, r *socketRow) []byte {
			return append(dst, record.Cmdline(r.facts.Process(r.c.Blamed.Pid))...)
		}},
		{name: "place", header: "PLACE", text: appendPlace},
	}
}

func dwellMaxOf(r *socketRow) (int64, bool) { return int64(r.c.DwellMax()), r.c.DwellMax() > 0 }

// appendHolders writes pid/comm:fd for each descriptor, or in parentheses where a socket is
// that nobody holds.
func appendHolders(dst []byte, r *socketRow) []byte {
	if r.c.Cause == diagnosis.InFlight {
		return appendInFlight(dst, r.c)
	}
	return appendDescriptors(dst, r.c.Holders)
}

func appendInFlight(dst []byte, c *diagnosis.Case) []byte {
	switch c.Where() {
	case "message":
		to := make([]event.Holder, 0, len(c.Passed))
		for i := range c.Passed {
			to = append(to, event.Holder{Task: c.Passed[i].Receiver, FD: c.Passed[i].FD})
		}
		dst = appendDescriptors(append(dst, "(message to "...), to)
	case "io_uring":
		dst = appendDescriptors(append(dst, "(io_uring of "...), c.Fixed)
	case "kernel":
		dst = append(dst, "(the kernel's own"...)
	default:
		return dst
	}
	return append(dst, ')')
}

func appendDescriptors(dst []byte, of []event.Holder) []byte {
	for i := range of {
		h := &of[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, uint64(h.Pid), 10)
		dst = append(dst, '/')
		dst = appendComm(dst, &h.Comm)
		dst = append(dst, ':')
		dst = strconv.AppendInt(dst, int64(h.FD), 10)
	}
	return dst
}

// appendWho writes the process blamed. Where several could accept and none is blamed, it is
// one of them in parentheses and the number of the others.
func appendWho(dst []byte, r *socketRow) []byte {
	if r.c.Blamed.Known() || len(r.c.Listeners) == 0 {
		return appendComm(dst, &r.c.Blamed.Comm)
	}
	tasks := record.ListenersOf(r.c)
	dst = append(append(dst, '('), tasks[0].Comm...)
	if n := len(tasks) - 1; n > 0 {
		dst = strconv.AppendInt(append(dst, " +"...), int64(n), 10)
	}
	return append(dst, ')')
}

// appendListener writes pid/comm of each process and the accept queue as length/limit.
func appendListener(dst []byte, r *socketRow) []byte {
	if len(r.c.Listeners) == 0 {
		return dst
	}
	for i, t := range record.ListenersOf(r.c) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(strconv.AppendUint(dst, uint64(t.Pid), 10), '/')
		dst = append(dst, t.Comm...)
	}
	l := r.c.Listeners[0].Accepts()
	dst = append(dst, ' ')
	dst = strconv.AppendUint(dst, uint64(l.QueueLen), 10)
	dst = append(dst, '/')
	return strconv.AppendUint(dst, uint64(l.QueueMax), 10)
}

// appendPeer writes pid/comm and the state of the other end, and its namespace if that is
// another one.
func appendPeer(dst []byte, r *socketRow) []byte {
	p, ok := r.facts.Peers[r.c.Cookie]
	switch {
	case !ok:
		return dst
	case p.Gone:
		return append(dst, "gone"...)
	}
	if p.Pid != 0 {
		dst = strconv.AppendUint(dst, uint64(p.Pid), 10)
		dst = append(append(append(dst, '/'), p.Comm...), ' ')
	}
	dst = append(dst, p.State...)
	switch {
	case p.Netns == 0 || p.Netns == r.c.Flow.Netns:
	case p.NetnsName != "":
		dst = append(append(dst, '@'), p.NetnsName...)
	default:
		dst = strconv.AppendUint(append(dst, '@'), uint64(p.Netns), 10)
	}
	return dst
}

// appendPlace writes the telling stack in one line.
func appendPlace(dst []byte, r *socketRow) []byte {
	cause := record.CauseOf(r.c)
	kind, st := r.facts.Stacks[r.c.Cookie].Telling(cause)
	s := stackedOf(kind, record.Word(r.c.Direction.String()), cause, st)
	return append(dst, s.place()...)
}

// appendContainer writes the container's name, or its id as the runtimes' own tools do.
func appendContainer(dst []byte, r *socketRow) []byte {
	id := r.facts.Process(r.c.Blamed.Pid).Container
	if id == "" {
		id = r.facts.Cgroups[r.c.Cgroup].Container
	}
	names := r.facts.Names(id, "")
	if names.ContainerName != "" {
		return append(dst, names.ContainerName...)
	}
	return record.AppendEscaped(dst, record.ShortContainer(id))
}
