package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

const (
	// lossEvery is how often the kernel's counters are read while tailing.
	lossEvery = time.Second
	// clockEvery is how often wall and kernel time are paired anew: the wall clock may
	// be stepped.
	clockEvery = 10 * time.Second
)

// Tail streams transitions until ctx ends, which is no error, or s returns one.
func (e *Engine) Tail(ctx context.Context, q Query, s Stream) error {
	t, err := e.openStacks(tracer.Config{Filter: q.Filter.Kernel(), Live: true}, q.Threshold)
	if err != nil {
		return err
	}
	defer t.Close()
	tl := tail{engine: e, watched: t, query: &q, to: s, cgroups: q.Facts || q.Filter.NeedsCgroups()}
	tl.readClock(tracer.Now())
	if err := t.Run(ctx, tl.transition, tl.idle); err != nil {
		return err
	}
	// What the kernel had made before the end still counts.
	if err := t.Drain(tl.transition); err != nil {
		return err
	}
	return tl.finish()
}

type tail struct {
	*watched
	engine  *Engine
	query   *Query
	to      Stream
	cgroups bool

	clockAt, lossAt event.KTime
	loss            event.Loss
}

func (t *tail) transition(tr *event.Transition) error {
	var group record.Cgroup
	if t.cgroups {
		group = t.engine.cgroup(tr.Cgroup)
		if t.query.Filter.NeedsNames() {
			group.Name = t.engine.names.container(group.Container)
			t.engine.names.warn(t.query.Filter)
		}
	}
	if !t.query.Filter.MatchTransition(tr, group) {
		return nil
	}
	return t.to.Transition(tr, record.TransitionFacts{Cgroup: group, Stacks: t.stacksOf(tr)})
}

// waitForStack is how long a line waits for a stack that is being unwound: at the first
// events of a process its unwind tables are read.
const waitForStack = time.Second

func (t *tail) stacksOf(tr *event.Transition) *record.Stacks {
	if t.keeper == nil || !tr.Stacks.Any() {
		return nil
	}
	if t.keeper.Pending(&tr.Stacks) {
		t.settle(context.Background(), waitForStack)
	}
	return t.stacks(&tr.Stacks)
}

func (t *tail) idle() error {
	now := tracer.Now()
	if now.Sub(t.clockAt) >= clockEvery {
		t.readClock(now)
	}
	if now.Sub(t.lossAt) >= lossEvery {
		if err := t.readLoss(now); err != nil {
			return err
		}
	}
	return t.to.Flush()
}

func (t *tail) finish() error {
	if err := errors.Join(t.readLoss(tracer.Now()), t.warnMissing(t.engine.log)); err != nil {
		return err
	}
	return t.to.Flush()
}

func (t *tail) readClock(now event.KTime) {
	t.clockAt = now
	t.to.Clock(tracer.ReadClock(t.engine.cfg.Now))
}

func (t *tail) readLoss(now event.KTime) error {
	t.lossAt = now
	loss, err := t.Loss()
	if err != nil || loss == t.loss {
		return err
	}
	t.loss = loss
	return t.to.Loss(now, loss)
}
