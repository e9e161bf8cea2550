package pipeline

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/lifecycle"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// judged are the states a diagnosis is about: waits, and closed sockets that a descriptor
// still refers to.
var judged = event.SetOf(event.CloseWait, event.Close)

// Diagnose watches for q.For and judges. A context that ends early is no error.
func (e *Engine) Diagnose(ctx context.Context, q DiagnoseQuery) (*Diagnosed, error) {
	w, err := e.watch(&q)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	if q.For > 0 {
		if err := w.run(ctx, q); err != nil {
			return nil, err
		}
	}
	// The judgement is wanted all the more when the user lost patience.
	ctx = context.WithoutCancel(ctx)
	d, err := w.judge(ctx)
	if err != nil {
		return nil, err
	}
	return d, w.pair(ctx, d)
}

// watcher follows waits from a baseline on.
type watcher struct {
	*watched
	engine *Engine
	query  *DiagnoseQuery
	table  *lifecycle.Table
	tally  *diagnosis.Tally
	// zombies are looked for with each snapshot.
	zombies zombies
	from    event.KTime
}

func (e *Engine) watch(q *DiagnoseQuery) (*watcher, error) {
	chosen := q.Filter.Kernel()
	// Only waits are of interest, whoever owns them: the owner is
	// judged when all is known.
	chosen.States = event.SetOf(event.CloseWait)
	chosen.Pids = nil
	// A row has no direction to filter by, and table and snapshot must see the same.
	chosen.Direction = event.DirectionUnknown
	t, err := e.openStacks(tracer.Config{
		Filter: chosen, Live: q.For > 0, Users: q.For > 0, Ends: true, First: judged,
	}, q.Threshold)
	if err != nil {
		return nil, err
	}
	from := tracer.Now()
	return &watcher{
		watched: t, engine: e, query: q, from: from,
		table: lifecycle.New(lifecycle.Options{Untold: true}),
		tally: diagnosis.NewTally(from),
	}, nil
}

// repairEvery is how often the table is compared with the kernel's while watching.
const repairEvery = 30 * time.Second

func (w *watcher) run(ctx context.Context, q DiagnoseQuery) error {
	look := w.First()
	w.engine.doubtHolders(&look.Snapshot)
	if err := w.compare(look); err != nil {
		return err
	}
	if q.First != nil {
		first, err := w.judgeLook(ctx, look)
		if err != nil {
			return err
		}
		q.First(first)
	}
	// What a look takes is not kept while nothing is looked at.
	debug.FreeOSMemory()
	ctx, cancel := context.WithTimeout(ctx, q.For)
	defer cancel()
	repaired := w.from
	return w.Run(ctx, w.transition, func() error {
		now := tracer.Now()
		if now.Sub(repaired) < repairEvery {
			return nil
		}
		repaired = now
		_, err := w.reconcile(context.WithoutCancel(ctx))
		debug.FreeOSMemory()
		return err
	})
}

func (w *watcher) transition(t *event.Transition) error {
	if c := w.table.Transition(t); c.Finished != nil {
		w.finished(c.Finished)
	}
	return nil
}

// reconcile takes a snapshot and makes the table equal to the kernel's.
func (w *watcher) reconcile(ctx context.Context) (*tracer.Look, error) {
	look, err := w.engine.look(ctx, w.Tracer, tracer.SnapshotOptions{States: judged, Holders: true})
	if err != nil || w.query.For == 0 {
		return look, err
	}
	return look, w.compare(look)
}

// compare applies what happened meanwhile, and makes the table equal to a look.
func (w *watcher) compare(look *tracer.Look) error {
	if err := w.Drain(w.transition); err != nil {
		return err
	}
	w.table.Reserve(look.Len())
	for _, f := range w.table.Reconcile(&look.Snapshot, look.All()) {
		w.finished(&f)
	}
	w.zombies.look(look, w.tally)
	return nil
}

// finished counts an ended wait for its owner and site.
func (w *watcher) finished(f *lifecycle.Finished) {
	// An end that nobody saw proves no close().
	if f.Missed {
		return
	}
	earliest := f.Earliest
	if f.Wait.Bound == event.Exact {
		earliest = f.Since
	}
	w.tally.Add(f.Owner, diagnosis.SiteOf(f.Direction, f.Flow), earliest, f.Dwell)
}

// judge looks once more and judges what is open then.
func (w *watcher) judge(ctx context.Context) (*Diagnosed, error) {
	look, err := w.reconcile(ctx)
	if err != nil {
		return nil, err
	}
	return w.judgeLook(ctx, look)
}

// judgeLook judges what a look found, as far as it is open still.
func (w *watcher) judgeLook(ctx context.Context, look *tracer.Look) (*Diagnosed, error) {
	snap := &look.Snapshot
	clock := tracer.ReadClock(w.engine.cfg.Now)
	cases, facts := w.engine.cases(snap, where(look.All(), w.isOpen), &w.query.Query, clock, true)
	if err := w.fill(ctx, w.engine.log, diagnosis.CaseList(cases), &facts); err != nil {
		return nil, err
	}
	loss, err := w.Loss()
	if err != nil {
		return nil, err
	}
	short, err := w.ShortWaits()
	if err != nil {
		return nil, err
	}
	in := diagnosis.Input{
		Cases: cases, Threshold: w.query.Threshold, Loss: loss.Add(w.table.Loss()),
		From: w.from, To: snap.To, FDs: fdsOf(&facts), Closed: w.tally.Closed(short...),
	}
	if w.query.For == 0 {
		in.From = in.To
	}
	judged := diagnosis.Judge(in)
	facts.Threads = w.engine.threads(ctx, w.watched, &judged)
	return &Diagnosed{
		Diagnosis: judged, Facts: facts,
		SocketsTotal: snap.Met, UnreadNetns: snap.UnreadNetns,
	}, nil
}

// isOpen leaves out sockets whose wait has ended since they were read. The subflows of an MPTCP
// socket are shown as that socket.
func (w *watcher) isOpen(s *event.Socket) bool {
	if s.Subflow {
		return false
	}
	if w.query.For == 0 || s.State != event.CloseWait || s.Cookie == 0 {
		return true
	}
	_, open := w.table.Get(s.Cookie)
	return open
}

func fdsOf(f *record.Facts) map[uint32]diagnosis.FDs {
	fds := make(map[uint32]diagnosis.FDs, len(f.Processes))
	for pid, p := range f.Processes {
		fds[pid] = diagnosis.FDs{Open: int(p.FDsOpen), Limit: int(p.FDLimit)}
	}
	return fds
}
