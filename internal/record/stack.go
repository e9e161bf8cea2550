package record

import (
	"slices"
	"strconv"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
)

// Stacks are the places in the code where things happened to the socket.
type Stacks struct {
	Open     *Stack `json:"open,omitempty"`
	LastRead *Stack `json:"last_read,omitempty"`
	EOF      *Stack `json:"eof,omitempty"`
	Close    *Stack `json:"close,omitempty"`
}

// Stack is one place, innermost frame first, and the thread that was there. Build it
// with StackOf.
type Stack struct {
	Frames []Frame `json:"frames"`
	// Quality is complete, truncated, guessed or fp-only; Reason says why it is not
	// complete.
	Quality string `json:"quality,omitempty" csv:"-"`
	Reason  string `json:"reason,omitempty" csv:"-"`
	Tid     uint32 `json:"tid,omitzero"`
	Comm    string `json:"comm,omitempty"`
}

// Frame is one function of a stack. Its strings come from files and memory of the
// process: build it with FrameOf.
type Frame struct {
	Function string `json:"function,omitempty"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitzero"`
	Module   string `json:"module,omitempty"`
	Offset   uint64 `json:"offset,omitzero"`
	Kind     string `json:"kind,omitempty"`
	// User is set on the one frame of a stack that stands for it: the user's code rather
	// than the runtime's or libc's.
	User bool `json:"user,omitzero"`
}

// FrameOf escapes the names.
func FrameOf(f *symbol.Frame) Frame {
	return Frame{
		Function: Escape(f.Function), File: Escape(f.File), Line: f.Line,
		Module: Escape(f.Module), Offset: f.Offset, Kind: string(f.Kind),
	}
}

// StackOf builds the record of a stack from its frames, innermost first. Names that need
// no escaping share their memory with the frames'.
func StackOf(frames []symbol.Frame, s *event.Stack) Stack {
	r := Stack{
		Frames: make([]Frame, 0, len(frames)), Quality: s.Quality.String(), Reason: s.Reason.String(),
		Tid: s.Task.Tid, Comm: Escape(s.Task.Comm.String()),
	}
	for i := range frames {
		r.Frames = append(r.Frames, FrameOf(&frames[i]))
	}
	if i := symbol.UserFrame(frames); i >= 0 {
		r.Frames[i].User = true
	}
	return r
}

// UserFrame is the frame that stands for the stack; nil if there is none.
func UserFrame(frames []Frame) *Frame {
	i := slices.IndexFunc(frames, func(f Frame) bool { return f.User })
	if i < 0 {
		if len(frames) == 0 {
			return nil
		}
		i = 0
	}
	return &frames[i]
}

// slot returns the stack of one moment, nil if there is none.
func (s *Stacks) slot(at event.StackSlot) *Stack {
	switch at {
	case event.StackOpen:
		return s.Open
	case event.StackLastRead:
		return s.LastRead
	case event.StackEOF:
		return s.EOF
	case event.StackClose:
		return s.Close
	default:
		return nil
	}
}

// Telling picks the stack that says most about why the socket is not closed, and the word
// for its moment. A stack whose frames are not known is only taken where there is no other.
func (s *Stacks) Telling(cause Word) (kind string, st *Stack) {
	if s == nil {
		return "", nil
	}
	for _, at := range diagnosis.Telling(diagnosis.Cause(cause)) {
		found := s.slot(at)
		if found == nil || st != nil && len(found.Frames) == 0 {
			continue
		}
		kind, st = at.String(), found
		if len(st.Frames) > 0 {
			break
		}
	}
	return kind, st
}

// ThreadStack is where some threads of a process stand.
type ThreadStack struct {
	N int `json:"n"`
	// Tids are a few of them, Comm is the name of the first.
	Tids    []uint32 `json:"tids,omitempty"`
	Comm    string   `json:"comm,omitempty"`
	Frames  []Frame  `json:"frames"`
	Quality string   `json:"quality,omitempty"`
	Reason  string   `json:"reason,omitempty"`
}

// maxTids is how many threads of a group are named.
const maxTids = 8

// GroupThreads puts the threads with the same frames together, the most first. Each stack
// is that of one thread.
func GroupThreads(stacks []Stack) []ThreadStack {
	var all []ThreadStack
	index := map[string]int{}
	var key []byte
	for i := range stacks {
		s := &stacks[i]
		key = appendPlace(key[:0], s.Frames)
		at, seen := index[string(key)]
		if !seen {
			at = len(all)
			index[string(key)] = at
			all = append(all, ThreadStack{Comm: s.Comm, Frames: s.Frames, Quality: s.Quality, Reason: s.Reason})
		}
		t := &all[at]
		if t.N++; len(t.Tids) < maxTids && s.Tid != 0 {
			t.Tids = append(t.Tids, s.Tid)
		}
	}
	slices.SortStableFunc(all, func(a, b ThreadStack) int { return b.N - a.N })
	return all
}

// appendPlace appends what a reader can tell frames apart by: names, or addresses where
// there are none. The same function called from two lines that are not known is one place.
func appendPlace(dst []byte, frames []Frame) []byte {
	for i := range frames {
		f := &frames[i]
		dst = append(append(dst, f.Function...), 0)
		dst = append(append(dst, f.File...), 0)
		dst = append(strconv.AppendInt(dst, int64(f.Line), 10), 0)
		dst = append(append(dst, f.Module...), 0)
		if f.Function == "" {
			dst = strconv.AppendUint(dst, f.Offset, 16)
		}
		dst = append(dst, '\n')
	}
	return dst
}

// appendStacks appends the optional field of a transition.
func appendStacks(dst []byte, s *Stacks) []byte {
	if s == nil {
		return dst
	}
	dst = append(dst, `,"stacks":{`...)
	empty := len(dst)
	for _, at := range []event.StackSlot{event.StackOpen, event.StackLastRead, event.StackEOF, event.StackClose} {
		st := s.slot(at)
		if st == nil {
			continue
		}
		if len(dst) > empty {
			dst = append(dst, ',')
		}
		dst = appendString(dst, at.String())
		dst = appendStack(append(dst, ':'), st)
	}
	return append(dst, '}')
}

func appendStack(dst []byte, st *Stack) []byte {
	dst = append(dst, `{"frames":`...)
	if st.Frames == nil {
		dst = append(dst, "null"...)
	} else {
		dst = append(dst, '[')
		for i := range st.Frames {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendFrame(dst, &st.Frames[i])
		}
		dst = append(dst, ']')
	}
	dst = appendStringField(dst, `,"quality":`, st.Quality)
	dst = appendStringField(dst, `,"reason":`, st.Reason)
	dst = appendUintField(dst, `,"tid":`, uint64(st.Tid))
	dst = appendStringField(dst, `,"comm":`, st.Comm)
	return append(dst, '}')
}

func appendFrame(dst []byte, f *Frame) []byte {
	start := len(dst)
	dst = appendStringField(dst, `,"function":`, f.Function)
	dst = appendStringField(dst, `,"file":`, f.File)
	if f.Line != 0 {
		dst = append(dst, `,"line":`...)
		dst = strconv.AppendInt(dst, int64(f.Line), 10)
	}
	dst = appendStringField(dst, `,"module":`, f.Module)
	dst = appendUintField(dst, `,"offset":`, f.Offset)
	dst = appendStringField(dst, `,"kind":`, f.Kind)
	if f.User {
		dst = append(dst, `,"user":true`...)
	}
	if len(dst) == start {
		return append(dst, '{', '}')
	}
	// The first field's comma opens the object.
	dst[start] = '{'
	return append(dst, '}')
}

// appendStringField leaves an unknown value out; v is escaped.
func appendStringField(dst []byte, key, v string) []byte {
	if v == "" {
		return dst
	}
	return appendString(append(dst, key...), v)
}
