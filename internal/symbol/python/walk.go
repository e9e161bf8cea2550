package python

import (
	"errors"
	"fmt"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// The kernel side walks the frames of the thread an event happens in. This is the same
// walk, by the same layout, of any thread: to see that the layout fits.

// maxThreads and maxFrames bound a walk through memory that changes under it.
const (
	maxThreads = 1024
	maxFrames  = 256
)

// interpreter returns the interpreter whose threads are walked, 0 if there is none.
func (r *Runtime) interpreter() (uint64, error) {
	l := &r.offsets.frames
	return r.memory.pointer(l.Runtime + uint64(l.InterpretersHead))
}

// threads returns the thread states.
func (r *Runtime) threads() ([]uint64, error) {
	l := &r.offsets.frames
	interpreter, err := r.interpreter()
	if err != nil || interpreter == 0 {
		return nil, err
	}
	var all []uint64
	at, err := r.memory.pointer(interpreter + uint64(l.ThreadsHead))
	for err == nil && at != 0 && len(all) < maxThreads {
		all = append(all, at)
		at, err = r.memory.pointer(at + uint64(l.ThreadNext))
	}
	return all, err
}

// frames returns the frames of a thread, innermost first.
func (r *Runtime) frames(thread uint64) ([]event.Frame, error) {
	l := &r.offsets.frames
	var err error
	if !l.NoCFrame {
		thread, err = r.memory.pointer(thread + uint64(l.CFrame))
		if err != nil || thread == 0 {
			return nil, err
		}
	}
	var all []event.Frame
	at, err := r.memory.pointer(thread + uint64(l.CurrentFrame))
	for err == nil && at != 0 && len(all) < maxFrames {
		var f event.Frame
		f, at, err = r.frame(at)
		all = append(all, f)
	}
	return all, err
}

// codeTag are the bits of a frame's code pointer that do not belong to the address: 3.14
// counts some references with them.
const codeTag = 3

// frame reads one frame and the address of the one that called it.
func (r *Runtime) frame(at uint64) (f event.Frame, previous uint64, err error) {
	l := &r.offsets.frames
	f.Kind = event.FramePython
	var entry [1]byte
	var errs [4]error
	f.Addr, errs[0] = r.memory.uint64(at + uint64(l.Code))
	f.Addr &^= codeTag
	f.Aux, errs[1] = r.memory.uint64(at + uint64(l.Instruction))
	previous, errs[2] = r.memory.pointer(at + uint64(l.Previous))
	errs[3] = r.memory.read(entry[:], at+uint64(l.Entry))
	f.Return = entry[0]&l.EntryMask == l.EntryValue
	return f, previous, errors.Join(errs[:]...)
}

// checks is how often the frames of a process are read to find some in order: they change
// while they are read. checkedThreads bounds how many threads' are.
const (
	checks         = 20
	checkedThreads = 16
)

// check walks the frames of the process, and returns why the layout cannot be right.
func (r *Runtime) check() error {
	var err error
	for range checks {
		if err = r.checkOnce(); err == nil || errors.Is(err, ErrStarting) {
			return err
		}
	}
	return fmt.Errorf("the layout does not fit: %w", err)
}

// checkOnce wants one thread whose frames are in order. Threads without a frame say nothing;
// a process that has only those is idle, and accepted.
func (r *Runtime) checkOnce() error {
	interpreter, err := r.interpreter()
	if err != nil {
		return fmt.Errorf("interpreter: %w", err)
	}
	threads, err := r.threads()
	if err != nil {
		return fmt.Errorf("threads: %w", err)
	}
	if len(threads) == 0 {
		return ErrStarting
	}
	var bad error
	for _, t := range threads[:min(len(threads), checkedThreads)] {
		back, err := r.memory.pointer(t + uint64(r.offsets.interpreter))
		if err != nil || back != interpreter {
			return fmt.Errorf("thread state %#x does not belong to interpreter %#x", t, interpreter)
		}
		functions, err := r.checkFrames(t)
		if functions > 0 {
			return nil
		}
		if err != nil {
			bad = err
		}
	}
	return bad
}

// steadyFrames is how many frames, from the outermost, stay as they are while a program
// runs: its main function, and the frame that is none from which C code called it.
const steadyFrames = 2

// checkFrames returns how many of the steady frames of a thread are functions, if all of
// them can be named.
func (r *Runtime) checkFrames(thread uint64) (int, error) {
	frames, err := r.frames(thread)
	if err != nil {
		return 0, fmt.Errorf("frames: %w", err)
	}
	functions := 0
	for i := max(0, len(frames)-steadyFrames); i < len(frames); i++ {
		f, ok := r.Name(&frames[i])
		if !ok {
			return 0, fmt.Errorf("no code object at %#x", frames[i].Addr)
		}
		if f.Function != "" {
			functions++
		}
	}
	return functions, nil
}
