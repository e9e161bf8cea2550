package pipeline_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// n is prime, so that a lost or doubled socket shows.
const n = 23

func newEngine(t *testing.T, cfg pipeline.Config) *pipeline.Engine {
	t.Helper()
	cfg.Now = time.Now
	e, err := pipeline.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func inNetns(t *testing.T, ns *testenv.Netns, target filter.Target) pipeline.Query {
	t.Helper()
	f, err := filter.New(&filter.Options{Netns: []string{ns.Path}}, target)
	if err != nil {
		t.Fatal(err)
	}
	return pipeline.Query{Filter: f, Threshold: time.Millisecond}
}

// A ring of one page loses most of what a burst makes. What is judged afterwards is what
// the kernel has, and the loss is told.
func TestLossIsRepaired(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	e := newEngine(t, pipeline.Config{RingBytes: os.Getpagesize()})
	ctx, enough := context.WithCancel(t.Context())
	watching, over := make(chan struct{}), make(chan struct{})
	q := pipeline.DiagnoseQuery{
		Query: inNetns(t, ns, filter.Sockets), For: time.Hour,
		// Nobody reads the ring until the burst is over, however slow that is.
		First: func(*pipeline.Diagnosed) {
			close(watching)
			select {
			case <-over:
			case <-ctx.Done():
			}
		},
	}
	var d *pipeline.Diagnosed
	done := make(chan error)
	go func() {
		var err error
		d, err = e.Diagnose(ctx, q)
		done <- err
	}()
	select {
	case <-watching:
	case err := <-done:
		t.Fatal(err)
	}
	// Waits that are over sooner are counted, and not told.
	burst := testenv.StartLeaker(t, testenv.Options{Cause: "unread_eof", N: 1009, Netns: ns.Path, CloseAfter: 2 * event.ShortWait})
	for range burst.N {
		<-burst.Lines
	}
	close(over)
	testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	enough()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if d.Loss.Lost == 0 {
		t.Errorf("nothing was lost: %+v; the test shows nothing", d.Loss)
	}
	if d.Sockets != n || len(d.Processes) != 1 || d.Processes[0].Causes[diagnosis.EOFIgnored] != n {
		t.Errorf("%d sockets, processes %+v; want %d eof_ignored", d.Sockets, d.Processes, n)
	}
}

// stream collects what a tail tells.
type stream struct {
	clocks, flushes int
	began, ended    int
	loss            event.Loss
	ready, enough   func()
}

func (s *stream) Clock(event.Clock) {
	if s.clocks++; s.clocks == 1 {
		s.ready()
	}
}

func (s *stream) Transition(t *event.Transition, _ record.TransitionFacts) error {
	if t.New == event.CloseWait {
		s.began++
	}
	if t.Old == event.CloseWait {
		s.ended++
	}
	return nil
}

func (s *stream) Loss(_ event.KTime, total event.Loss) error {
	s.loss = total
	return nil
}

func (s *stream) Flush() error {
	s.flushes++
	if s.ended >= n {
		s.enough()
	}
	return nil
}

// The clock comes first, the transitions all come, and what they say is flushed.
func TestTail(t *testing.T) {
	testenv.RequireRoot(t)
	ns := testenv.NewNetns(t)
	e := newEngine(t, pipeline.Config{})
	ctx, enough := context.WithCancel(t.Context())
	defer enough()
	ready := make(chan struct{})
	s := &stream{enough: enough, ready: func() { close(ready) }}
	done := make(chan error)
	go func() { done <- e.Tail(ctx, inNetns(t, ns, filter.Transitions), s) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path, CloseAfter: time.Millisecond})
	// Neither the start of the tail nor that of the leaker counts, which take long on a slow machine.
	late := time.AfterFunc(time.Minute, enough)
	defer late.Stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if s.began != n || s.ended != n || s.flushes == 0 || s.loss.Any() {
		t.Errorf("%+v, want %d waits begun and ended", s, n)
	}
}
