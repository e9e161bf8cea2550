package python

import "github.com/tcpwaitd/tcpwaitd/internal/event"

// Frames returns the frames that the thread with that pthread_self() stands in, innermost
// first: none if it is no thread of Python's or its memory cannot be read. The thread
// runs on meanwhile; who wants the truth asks for a thread that waits.
func (r *Runtime) Frames(self uint64) []event.Frame {
	if self == 0 {
		return nil
	}
	threads, err := r.threads()
	if err != nil {
		return nil
	}
	for _, t := range threads {
		id, err := r.memory.uint64(t + uint64(r.offsets.frames.ThreadID))
		if err != nil || id != self {
			continue
		}
		frames, err := r.frames(t)
		if err != nil {
			return nil
		}
		return frames
	}
	return nil
}
