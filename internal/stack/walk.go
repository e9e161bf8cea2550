package stack

import (
	"context"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
	"github.com/tcpwaitd/tcpwaitd/internal/unwind"
)

// newWalker makes the unwinder for copies of stacks.
func (k *Keeper) newWalker() *unwind.Unwinder {
	return unwind.NewUnwinder(unwind.NewCache(k.rules, cacheBytes), k.function)
}

func (k *Keeper) function(id event.ObjectID, off uint64) (start, end uint64, ok bool) {
	o := k.objects.Get(id)
	if o == nil {
		return 0, 0, false
	}
	return k.symbols.Function(o, off)
}

func (k *Keeper) walk(p *process, r *tracer.RawStack) unwind.Result {
	k.mu.Lock()
	known := p.Process
	k.mu.Unlock()
	return k.walker.Unwind(&unwind.Snapshot{
		Regs: unwind.Registers(r.Regs), Stack: r.Memory, Task: r.Task, Runtime: p.runtime,
	}, &known)
}

// Threads returns where the threads of a process stand now: those that wait in the
// kernel, and for Python the frames of its own.
func (k *Keeper) Threads(ctx context.Context, pid uint32) ([]Named, error) {
	raw, err := k.kernel.Threads(ctx, pid)
	if err != nil {
		return nil, err
	}
	p := k.relearn(ctx, pid)
	if p == nil {
		return nil, nil
	}
	all := make([]Named, 0, len(raw))
	for i := range raw {
		r := &raw[i]
		result := k.walk(p, r)
		s := event.Stack{At: r.At, Task: r.Task, Quality: result.Quality, Reason: result.Reason}
		s.Frames = result.Frames
		if p.python != nil {
			s.Frames = append(s.Frames, p.python.Frames(r.ThreadPointer)...)
		}
		names := k.frames(p, s.Frames)
		k.judge(&s, p, names)
		all = append(all, Named{Stack: s, Frames: names})
	}
	return all, nil
}

// relearn lets the worker look at a process that may be new.
func (k *Keeper) relearn(ctx context.Context, pid uint32) *process {
	if p := k.process(pid); p == nil || p.gone {
		k.do(func() { k.learn(&event.Task{Pid: pid}) })
		k.Settle(ctx)
	}
	return k.process(pid)
}
