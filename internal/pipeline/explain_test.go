package pipeline_test

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

func explain(t *testing.T, e *pipeline.Engine, q pipeline.ExplainQuery) *pipeline.Explained {
	t.Helper()
	x, err := e.Explain(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// A process, each of its sockets, and the same after a while of watching.
func TestExplain(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	leaker := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	e := newEngine(t, pipeline.Config{})
	// Lower bounds of ages leave room for late ticks: for a moment they are 0.
	old := pipeline.ExplainQuery{Pid: uint32(leaker.Pid), Threshold: time.Millisecond}
	for deadline := time.Now().Add(time.Minute); explain(t, e, old).Process.Stuck < n; {
		if time.Now().After(deadline) {
			t.Fatal("the waits are not stuck after a minute")
		}
	}
	for _, watch := range []time.Duration{0, 100 * time.Millisecond} {
		q := pipeline.ExplainQuery{Pid: uint32(leaker.Pid), Cookie: event.Cookie(leaker.Pid), Threshold: time.Millisecond, For: watch}
		x := explain(t, e, q)
		if x.Socket != nil || x.Process.Task.Pid != uint32(leaker.Pid) || x.Process.Sockets != n || len(x.Cases) != n ||
			x.States[event.CloseWait] != n || x.States[event.Listen] == 0 || x.Facts.Process(x.Process.Task.Pid).Exe == "" {
			t.Fatalf("process after %v: %+v, states %v, %d cases", watch, x.Process, x.States, len(x.Cases))
		}
		c := x.Cases[n/2]
		x = explain(t, e, pipeline.ExplainQuery{Cookie: c.Cookie, Threshold: time.Millisecond, For: watch})
		if x.Socket == nil || x.Socket.Cookie != c.Cookie || x.Socket.Cause != diagnosis.EOFIgnored || x.Process.Sockets != 1 ||
			len(x.Socket.Holders) != 1 || x.Facts.Process(x.Socket.Blamed.Pid).Exe == "" {
			t.Errorf("socket after %v: %+v", watch, x.Socket)
		}
		if len(x.Process.Advice) == 0 || x.Observed < watch {
			t.Errorf("socket after %v: observed %v, process %+v", watch, x.Observed, x.Process)
		}
	}
}

// Our own process has no waits; a thread is taken for its process.
func TestExplainWithoutWaits(t *testing.T) {
	testenv.RequireRoot(t)
	e := newEngine(t, pipeline.Config{})
	x := explain(t, e, pipeline.ExplainQuery{Pid: uint32(os.Getpid()), Threshold: time.Minute})
	if x.Process.Task.Pid != uint32(os.Getpid()) || x.Process.Verdict != diagnosis.Clean || x.Process.Task.Comm == (event.Comm{}) || x.Process.FDs.Open == 0 || len(x.Cases) > 0 {
		t.Errorf("%+v", x.Process)
	}
	tid := make(chan int)
	done := make(chan struct{})
	defer close(done)
	go func() {
		// The goroutine that is locked to a thread of its own never is the main one.
		runtime.LockOSThread()
		tid <- unix.Gettid()
		<-done
	}()
	id := uint32(<-tid)
	x = explain(t, e, pipeline.ExplainQuery{Pid: id, Threshold: time.Minute})
	if x.Process.Task.Pid != uint32(os.Getpid()) || id != x.Process.Task.Pid && len(x.Notes) != 1 {
		t.Errorf("thread %d: %+v, notes %q", id, x.Process, x.Notes)
	}
}

func TestExplainNothing(t *testing.T) {
	testenv.RequireRoot(t)
	e := newEngine(t, pipeline.Config{})
	for _, q := range []pipeline.ExplainQuery{
		{Pid: 1 << 23}, {Cookie: 1 << 60}, {Pid: 1 << 23, Cookie: 1 << 23},
	} {
		var missing *pipeline.NotFoundError
		if _, err := e.Explain(t.Context(), q); !errors.As(err, &missing) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}
