package python

import (
	"errors"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Where the image of an interpreter with one thread has what leads to its frame; code is
// that of newImage.
const (
	runtimeAt     = imageEnd
	interpreterAt = runtimeAt + 0x100
	threadAt      = interpreterAt + 0x100
	cframeAt      = threadAt + 0x100
	frameAt       = cframeAt + 0x100
	runningEnd    = frameAt + 0x100
)

// newRunning is a process in one function that C code called.
func newRunning() image {
	m := append(newImage(), make(image, runningEnd-imageEnd)...)
	l := &offsets311.frames
	m.put64(runtimeAt+uint64(l.InterpretersHead), interpreterAt)
	m.put64(interpreterAt+uint64(l.ThreadsHead), threadAt)
	m.put64(threadAt+uint64(offsets311.interpreter), interpreterAt)
	m.put64(threadAt+uint64(l.CFrame), cframeAt)
	m.put64(cframeAt+uint64(l.CurrentFrame), frameAt)
	m.put64(frameAt+uint64(l.Code), codeAt)
	m.put64(frameAt+uint64(l.Instruction), instruction(1))
	m[frameAt-imageBase+uint64(l.Entry)] = 1
	return m
}

func running(m image) *Runtime {
	r := newRuntime(m)
	r.offsets.frames.Runtime = runtimeAt
	return r
}

func TestCheck(t *testing.T) {
	l := &offsets311.frames
	for name, test := range map[string]struct {
		change func(m image)
		want   string // in the error; "" is none
	}{
		"in order":       {func(image) {}, ""},
		"idle":           {func(m image) { m.put64(threadAt+uint64(l.CFrame), 0) }, ""},
		"frame of none":  {func(m image) { m.put64(frameAt+uint64(l.Code), noneAt) }, ""},
		"frames in ring": {func(m image) { m.put64(frameAt+uint64(l.Previous), frameAt) }, ""},
		"no interpreter": {
			func(m image) { m.put64(runtimeAt+uint64(l.InterpretersHead), 0) },
			ErrStarting.Error(),
		},
		"no thread": {
			func(m image) { m.put64(interpreterAt+uint64(l.ThreadsHead), 0) },
			ErrStarting.Error(),
		},
		"wild interpreter": {
			func(m image) { m.put64(runtimeAt+uint64(l.InterpretersHead), 1) },
			"does not fit: interpreter",
		},
		"wild thread": {
			func(m image) { m.put64(threadAt+uint64(l.ThreadNext), runningEnd) },
			"does not fit: threads",
		},
		"of another": {
			func(m image) { m.put64(threadAt+uint64(offsets311.interpreter), threadAt) },
			"does not belong to interpreter",
		},
		"wild frame": {
			func(m image) { m.put64(frameAt+uint64(l.Previous), 8) },
			"does not fit: frames",
		},
		"no code": {
			func(m image) { m.put64(frameAt+uint64(l.Code), fileAt) },
			"no code object",
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newRunning()
			test.change(m)
			err := running(m).check()
			if (err == nil) != (test.want == "") ||
				err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if errors.Is(err, ErrStarting) != (test.want == ErrStarting.Error()) {
				t.Errorf("%v: may be asked again", err)
			}
		})
	}
}

func TestWalk(t *testing.T) {
	r := running(newRunning())
	frames, err := r.frames(threadAt)
	if err != nil || len(frames) != 1 {
		t.Fatalf("frames %+v, %v", frames, err)
	}
	want := event.Frame{
		Kind: event.FramePython, Return: true, Addr: codeAt, Aux: instruction(1),
	}
	if frames[0] != want {
		t.Errorf("frame %+v, want %+v", frames[0], want)
	}
}

// FuzzCheck gives everything a process can hold where an interpreter should be.
func FuzzCheck(f *testing.F) {
	f.Add([]byte(newRunning()))
	f.Add([]byte(newRunning()[:frameAt-imageBase]))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := running(image(data))
		threads, _ := r.threads()
		if len(threads) > maxThreads {
			t.Errorf("%d threads", len(threads))
		}
		for _, at := range threads[:min(2, len(threads))] {
			if frames, _ := r.frames(at); len(frames) > maxFrames {
				t.Errorf("%d frames", len(frames))
			}
		}
	})
}
