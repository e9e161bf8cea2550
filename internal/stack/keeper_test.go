package stack

import (
	"context"
	"log/slog"
	"os"
	"syscall"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

func newKeeper(t *testing.T) *Keeper {
	t.Helper()
	k := New(Options{Proc: "/proc", Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// A stack that nobody has says so; it is not an empty one.
func TestUnknownStack(t *testing.T) {
	k := newKeeper(t)
	if s := k.Get(0); s != nil {
		t.Errorf("stack 0 is %+v", s)
	}
	s := k.Get(23)
	if s == nil || s.Quality != event.QualityTruncated || s.Reason != event.ReasonLost || len(s.Frames) != 0 {
		t.Errorf("a stack that did not arrive is %+v", s)
	}
}

func TestOldestStackMakesRoom(t *testing.T) {
	k := newKeeper(t)
	for id := event.StackID(1); id <= maxStacks+23; id++ {
		k.Stack(tracer.StackSeen{Stack: event.Stack{ID: id, Quality: event.QualityComplete}})
	}
	if n := k.Evicted(); n != 23 {
		t.Errorf("%d evicted, want 23", n)
	}
	if s := k.Get(23); s.Reason != event.ReasonLost {
		t.Errorf("the oldest is still there: %+v", s)
	}
	if s := k.Get(24); s.Quality != event.QualityComplete {
		t.Errorf("the next one is gone: %+v", s)
	}
}

// Work beyond what may wait is counted, and its stacks do not wait for ever.
func TestQueueIsBounded(t *testing.T) {
	k := newKeeper(t) // not started: nothing is worked off
	for id := event.StackID(1); id <= maxQueue+23; id++ {
		k.RawStack(tracer.RawStack{ID: id})
	}
	if n := k.Evicted(); n != 23 {
		t.Errorf("%d dropped, want 23", n)
	}
	first, last := event.Stacks{1}, event.Stacks{maxQueue + 23}
	if !k.Pending(&first) || k.Pending(&last) {
		t.Errorf("pending: first %v, last %v", k.Pending(&first), k.Pending(&last))
	}
	if s := k.Get(maxQueue + 23); s.Quality != event.QualityTruncated {
		t.Errorf("a stack that was not unwound is %v", s.Quality)
	}
}

// Settle returns when its context ends, whatever waits.
func TestSettleEndsWithItsContext(t *testing.T) {
	k := newKeeper(t)
	k.RawStack(tracer.RawStack{ID: 1})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	k.Settle(ctx)
}

// Addresses mean something only in the process that they are from: another one that has
// its pid now lends no names.
func TestNamesOfAnotherProcess(t *testing.T) {
	k := newKeeper(t)
	info, err := os.Stat("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	key := object.Key{Ino: info.Sys().(*syscall.Stat_t).Ino}
	program, err := k.objects.OpenProgram(uint32(os.Getpid()), key, "")
	if err != nil {
		t.Fatal(err)
	}
	const pid, started = 23, 2
	k.processes[pid] = &process{Process: object.Process{
		Pid: pid, Start: started,
		Maps: []object.Mapped{{VMA: object.VMA{Start: 0x1000, End: 0x2000, Key: key}, Object: program}},
	}}
	for start, module := range map[event.BootTime]string{started - 1: "", started: program.Path} {
		id := event.StackID(start)
		k.keep(&kept{Stack: event.Stack{
			ID: id, Task: event.Task{Pid: pid, Start: start},
			Frames: []event.Frame{{Kind: event.FrameUnmapped, Addr: 0x1100}},
		}})
		if s := k.Get(id); len(s.Frames) != 1 || s.Frames[0].Module != module {
			t.Errorf("of the process started at %d: %+v, want the module %q", start, s.Frames, module)
		}
	}
}
