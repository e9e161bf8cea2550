package pipeline

import (
	"context"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// A process can close its sockets with its last breath: CPython closes what is left when it
// finalizes, the destructors of C++'s globals run in exit(). To the kernel these are closes like
// others. What tells them apart is the stack of the close(), which is taken of waits that lasted
// for the grace time: the function that ends a process is on it, and no code of the program above
// that, or it is a finalizer.
const (
	// lastBreath is how long before the end of its process such a close() can be: an interpreter
	// has more to tidy up after it.
	lastBreath = time.Second
	// lastBreathUnseen is the same where nothing is known of the stack.
	lastBreathUnseen = 100 * time.Millisecond
)

// breaths are the closes of long waits.
type breaths struct {
	// closings are those whose process may be about to end, last those whose process has.
	closings, last []closing
	// siftAt is when to look for that again: it costs a look at the whole family.
	siftAt event.KTime
}

// closing is a close().
type closing struct {
	ended
	// earliest is the first possible beginning of the wait.
	earliest event.KTime
	dwell    time.Duration
}

// count makes it a close like others.
func (c *closing) count(t *diagnosis.Tally) {
	t.Add(c.Owner, diagnosis.SiteOf(c.Direction, c.Flow), c.earliest, c.dwell)
}

// siftClosings keeps the closes that may be a last breath. The family was read after now.
func (x *execution) siftClosings(now event.KTime) {
	open := x.closings[:0]
	for i := range x.closings {
		c := &x.closings[i]
		by, ours := x.family.find(c.closer)
		switch {
		case ours && by.Ended == 0 && now.Sub(c.At) <= lastBreath:
			open = append(open, *c)
		case ours && by.Ended >= c.At && by.Ended.Sub(c.At) <= lastBreath && x.adopt(&c.ended):
			x.last = append(x.last, *c)
		default:
			c.count(x.tally)
		}
	}
	x.closings = open
}

// judgeBreaths decides which closes count as none.
func (x *execution) judgeBreaths(ctx context.Context) {
	for i := range x.closings {
		x.closings[i].count(x.tally)
	}
	if len(x.last) > 0 && x.keeper != nil {
		x.settle(ctx, settleFor)
	}
	for i := range x.last {
		c := &x.last[i]
		by, _ := x.family.find(c.closer)
		if c.closed = x.lateClose(c, by); c.closed == diagnosis.NotClosed {
			c.count(x.tally)
			continue
		}
		x.left = append(x.left, c.ended)
	}
	x.closings, x.last = nil, nil
}

// lateClose is how a process that has ended closed, NotClosed if as any other does.
func (x *execution) lateClose(c *closing, by tracer.Relative) diagnosis.LateClose {
	var stack *record.Stack
	if s := x.stacks(&c.Stacks); s != nil {
		stack = s.Close
	}
	switch agentOf(stack) {
	case agentExit:
		return diagnosis.ClosedByExit
	case agentProgram:
		return diagnosis.NotClosed
	default:
		if by.Ended.Sub(c.At) > lastBreathUnseen {
			return diagnosis.NotClosed
		}
		return diagnosis.ClosedBeforeExit
	}
}

// endings are the functions that end a process: of libc, CPython and Ruby.
var endings = []string{"exit", "__run_exit_handlers", "_dl_fini", "Py_FinalizeEx", "Py_Finalize", "ruby_cleanup", "rb_ec_cleanup"}

func endsProcess(f record.Frame) bool {
	name, _, _ := strings.Cut(f.Function, ".") // Py_FinalizeEx.part.0
	return f.Kind == string(symbol.Native) && slices.Contains(endings, name)
}

// isFinalizer: CPython calls it when nobody has the object any more. The name of Python's function
// is often lost with the process, that of what calls it is in its file.
func isFinalizer(f record.Frame) bool {
	return f.Kind == string(symbol.Python) && strings.HasSuffix(f.Function, "__del__") ||
		f.Kind == string(symbol.Native) && f.Function == "slot_tp_finalize"
}

// isManaged: code of a language that the unwinder knows, so somebody wrote the close().
func isManaged(f record.Frame) bool {
	return f.Kind != "" && f.Kind != string(symbol.Native) && f.Kind != string(symbol.Signal)
}

// interpreters are parts of the names of files whose functions mostly have no names, so that it
// cannot be seen whether they are at their end.
var interpreters = []string{"ruby", "php", "perl", "lua", "tcl"}

func isOpaque(f record.Frame) bool {
	module := path.Base(f.Module)
	return slices.ContainsFunc(interpreters, func(name string) bool { return strings.Contains(module, name) })
}

// isLibc: a shared libc, which names its exit() however stripped the program is.
func isLibc(f record.Frame) bool {
	module := path.Base(f.Module)
	return strings.HasPrefix(module, "libc.") || strings.HasPrefix(module, "libc-") || strings.HasPrefix(module, "ld-musl-")
}

// agent is who called close().
type agent uint8

const (
	agentUnknown agent = iota
	// agentExit: the end of the process, agentProgram: code that somebody wrote.
	agentExit
	agentProgram
)

// agentOf tells from the stack of a close().
func agentOf(s *record.Stack) agent {
	if s == nil {
		return agentUnknown
	}
	at := slices.IndexFunc(s.Frames, endsProcess)
	inner := s.Frames[:max(at, 0)]
	switch {
	case at >= 0 && (!slices.ContainsFunc(inner, isManaged) || slices.ContainsFunc(inner, isFinalizer)):
		return agentExit
	case slices.ContainsFunc(s.Frames, isManaged):
		return agentProgram
	case s.Quality == event.QualityComplete.String() && slices.ContainsFunc(s.Frames, isLibc) && !slices.ContainsFunc(s.Frames, isOpaque):
		// The whole stack is there, and the end of the process would be seen on it.
		return agentProgram
	default:
		return agentUnknown
	}
}
