package pipeline

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/stack"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// watched is a tracer and the stacks it gives; keeper is nil where none are wanted.
type watched struct {
	*tracer.Tracer
	keeper *stack.Keeper
	// records are stacks that were named for this command.
	records map[event.StackID]*record.Stack
}

// openStacks opens a tracer that takes stacks, if the user wants them.
func (e *Engine) openStacks(cfg tracer.Config, threshold time.Duration) (*watched, error) {
	w := &watched{records: map[event.StackID]*record.Stack{}}
	if e.cfg.Stacks == StacksOn || e.cfg.Stacks == StacksAll {
		w.keeper = stack.New(stack.Options{
			Proc: e.cfg.Proc, Log: e.log,
			Symbols: symbol.Options{Proc: e.cfg.Proc, Lines: e.cfg.Lines, Debuginfod: e.cfg.Debuginfod},
		})
		cfg.Stacks = tracer.StackConfig{
			Sink: w.keeper, StuckAfter: uint64(threshold), AllCloses: e.cfg.Stacks == StacksAll,
		}
	}
	var err error
	w.Tracer, err = e.open(cfg)
	if err != nil {
		if w.keeper != nil {
			err = errors.Join(err, w.keeper.Close())
		}
		return nil, err
	}
	if w.keeper != nil {
		way, why := w.Unwinder()
		e.log.Info("user stacks", "unwinder", way, "reason", why)
		w.keeper.Start(w.Tracer, w.Users())
	}
	return w, nil
}

// Close ends both. What was read by then stays usable.
func (w *watched) Close() {
	if w.keeper != nil {
		_ = w.keeper.Close()
	}
	_ = w.Tracer.Close()
}

// warnMissing tells of stacks that were taken, or wanted, and did not get here.
func (w *watched) warnMissing(log *slog.Logger) error {
	if w.keeper == nil {
		return nil
	}
	s, err := w.Stats()
	if err != nil {
		return err
	}
	if evicted := w.keeper.Evicted(); s.StacksLost+s.StacksBusy+evicted > 0 {
		log.Warn("some stacks are missing", "lost", s.StacksLost, "interrupted", s.StacksBusy, "evicted", evicted, "taken", s.Stacks)
	}
	return nil
}

// settleFor bounds the waiting for stacks that are being worked in.
const settleFor = 5 * time.Second

func (w *watched) settle(ctx context.Context, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	w.keeper.Settle(ctx)
}

// stacks names the stacks of a socket, nil if it has none.
func (w *watched) stacks(ids *event.Stacks) *record.Stacks {
	if w.keeper == nil || !ids.Any() {
		return nil
	}
	return &record.Stacks{
		Open: w.stack(ids[event.StackOpen]), LastRead: w.stack(ids[event.StackLastRead]),
		EOF: w.stack(ids[event.StackEOF]), Close: w.stack(ids[event.StackClose]),
	}
}

// maxRecords bounds the stacks that are kept with their names.
const maxRecords = 4096

func (w *watched) stack(id event.StackID) *record.Stack {
	if id == 0 {
		return nil
	}
	if r := w.records[id]; r != nil {
		return r
	}
	s := w.keeper.Get(id)
	r := new(record.StackOf(s.Frames, &s.Stack))
	if len(w.records) >= maxRecords {
		clear(w.records)
	}
	w.records[id] = r
	return r
}

// fill adds the stacks of the sockets to the facts.
func (w *watched) fill(ctx context.Context, log *slog.Logger, cases diagnosis.Cases, f *record.Facts) error {
	if w.keeper == nil {
		return nil
	}
	w.settle(ctx, settleFor)
	f.Stacks = map[event.Cookie]*record.Stacks{}
	for c := range diagnosis.All(cases) {
		if s := w.stacks(&c.Stacks); s != nil {
			f.Stacks[c.Cookie] = s
		}
	}
	var err error
	f.Unsampled, err = w.NotSampled()
	return errors.Join(err, w.warnMissing(log))
}

// maxThreads bounds the processes whose threads are looked at.
const maxThreads = 8

// threads looks where the threads of the flagged processes stand, the worst first.
func (e *Engine) threads(ctx context.Context, w *watched, d *diagnosis.Diagnosis) map[uint32][]record.ThreadStack {
	if w.keeper == nil {
		return nil
	}
	all := map[uint32][]record.ThreadStack{}
	for i := range d.Processes {
		p := &d.Processes[i]
		if p.Verdict == diagnosis.Clean || !p.Task.Known() || len(all) == maxThreads {
			continue
		}
		named, err := w.keeper.Threads(ctx, p.Task.Pid)
		if err != nil {
			e.log.Info("threads", "pid", p.Task.Pid, "error", err)
			return all
		}
		stacks := make([]record.Stack, len(named))
		for j := range named {
			stacks[j] = record.StackOf(named[j].Frames, &named[j].Stack)
		}
		all[p.Task.Pid] = record.GroupThreads(stacks)
	}
	return all
}
