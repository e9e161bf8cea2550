package stack

import (
	"slices"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol/hotspot"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// Named is a stack with names.
type Named struct {
	event.Stack
	Frames []symbol.Frame
}

// Get names a stack; nil if id is 0. One whose frames did not arrive, or were evicted, has
// none and says so.
func (k *Keeper) Get(id event.StackID) *Named {
	if id == 0 {
		return nil
	}
	k.mu.Lock()
	e := k.stacks[id]
	k.mu.Unlock()
	if e == nil {
		return &Named{Stack: event.Stack{ID: id, Quality: event.QualityTruncated, Reason: event.ReasonLost}}
	}
	s := e.Value.(*kept)
	k.name(s)
	k.mu.Lock()
	defer k.mu.Unlock()
	return &Named{Stack: s.Stack, Frames: s.frames}
}

// name gives a stack its names, once.
func (k *Keeper) name(s *kept) {
	k.mu.Lock()
	if s.named || s.pending {
		k.mu.Unlock()
		return
	}
	p := k.processes[s.Task.Pid]
	if p != nil && p.Start != 0 && p.Start != s.Task.Start {
		// The pid is another process's by now.
		p = nil
	}
	stack := s.Stack
	k.mu.Unlock()
	frames := k.frames(p, stack.Frames)
	k.judge(&stack, p, frames)
	k.mu.Lock()
	defer k.mu.Unlock()
	s.frames, s.named = frames, true
	s.Quality, s.Reason = stack.Quality, stack.Reason
}

// frames asks the symbolizer. p may be nil.
func (k *Keeper) frames(p *process, frames []event.Frame) []symbol.Frame {
	if p == nil {
		return k.symbols.Frames(nil, k.objects.Get, nil, frames)
	}
	k.mu.Lock()
	known := p.Process
	k.mu.Unlock()
	return k.symbols.Frames(&known, k.objects.Get, p.namers, place(&known, frames))
}

// place turns addresses into files and offsets where the process says what is there.
func place(p *object.Process, frames []event.Frame) []event.Frame {
	if !slices.ContainsFunc(frames, func(f event.Frame) bool { return f.Kind == event.FrameUnmapped }) {
		return frames
	}
	placed := slices.Clone(frames)
	for i := range placed {
		f := &placed[i]
		if f.Kind != event.FrameUnmapped {
			continue
		}
		for j := range p.Maps {
			m := &p.Maps[j]
			if f.Addr < m.Start || f.Addr >= m.End {
				continue
			}
			if m.Object != nil {
				f.Kind, f.Object, f.Addr = event.FrameFile, m.Object.ID, f.Addr-m.Start+m.Offset
			} else if m.Key == (object.Key{}) {
				f.Kind = event.FrameAnon
			}
			break
		}
	}
	return placed
}

// judge sees from the names what the addresses do not tell.
func (k *Keeper) judge(s *event.Stack, p *process, frames []symbol.Frame) {
	if s.Quality == event.QualityFPOnly && goToTheEnd(frames) {
		s.Quality, s.Reason = event.QualityComplete, event.ReasonNone
	}
	if s.Quality == event.QualityComplete && p != nil && p.java != nil && hotspot.Thawed(frames) {
		s.Quality, s.Reason = event.QualityTruncated, event.ReasonThawed
	}
}

// goToTheEnd: Go code keeps frame pointers throughout; the last function shows that none
// is missing at the end.
func goToTheEnd(frames []symbol.Frame) bool {
	if len(frames) == 0 || frames[len(frames)-1].Function != "runtime.goexit" {
		return false
	}
	return !slices.ContainsFunc(frames, func(f symbol.Frame) bool { return f.Kind != symbol.Go })
}

// unwindRaw unwinds a copy with the same tables as the kernel side has.
func (k *Keeper) unwindRaw(s *kept, r *tracer.RawStack) {
	p := k.learn(&r.Task)
	if r.Missing.Key != (object.Key{}) {
		p = k.learnMapping(&r.Task, &r.Missing)
	}
	result := k.walk(p, r)
	k.mu.Lock()
	defer k.mu.Unlock()
	s.pending = false
	s.Frames, s.Quality, s.Reason = result.Frames, result.Quality, result.Reason
	if p.python != nil {
		// The copy has no Python frames.
		s.Quality, s.Reason = event.QualityTruncated, event.ReasonNewRuntime
	}
}
