package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/ports"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// TimewaitQuery is a Query with a time to watch. The filter's target is transitions.
type TimewaitQuery struct {
	Query
	// For is how long to watch; 0: who closes first stays unknown. When the context ends earlier,
	// what was seen until then is told, and that is no error.
	For time.Duration
	// Processes: the filter chooses by process, so only budgets of chosen processes are wanted.
	Processes bool
}

const (
	// maxClosers and maxBudgets bound a record.
	maxClosers, maxBudgets = 100, 100
	// The rate at which ports are taken rests on what happened this long ago at most, and, where
	// nobody watched for that long, at least.
	recentMost, recentLeast = 30 * time.Second, 10 * time.Second
)

// Timewait tells who closes first, and how much of each destination's ports is used.
func (e *Engine) Timewait(ctx context.Context, q TimewaitQuery) (*record.Timewait, error) {
	w, err := e.watchPorts(&q)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	if q.For > 0 {
		if err := w.run(ctx); err != nil {
			return nil, err
		}
	}
	// What was seen is wanted all the more when the user lost patience.
	return w.tell(context.WithoutCancel(ctx))
}

// portWatcher follows who closes first.
type portWatcher struct {
	*watched
	engine *Engine
	query  *TimewaitQuery
	tally  ports.Tally
	// self is our own pid, as the kernel counts; 0 unknown.
	self uint32
	// known are the processes that closed or connected, by pid.
	known map[uint32]event.Task

	from event.KTime
	// held and before are what there was when the watching began.
	held   map[ports.Destination]int
	heldAt event.KTime
	before map[uint32]portSpace
}

func (e *Engine) watchPorts(q *TimewaitQuery) (*portWatcher, error) {
	// The rows must all come, for a budget is used up by all; so must the transitions, for the
	// one who closes need not be the owner. User space chooses.
	chosen := event.Filter{Netns: q.Filter.Kernel().Netns}
	t, err := e.openStacks(tracer.Config{Filter: chosen, Live: q.For > 0, Closes: true}, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	w := &portWatcher{watched: t, engine: e, query: q, known: map[uint32]event.Task{}, from: tracer.Now()}
	if host, err := owner.HostPidNS(); err == nil && host {
		w.self = uint32(os.Getpid())
	}
	return w, nil
}

func (w *portWatcher) run(ctx context.Context) error {
	w.before = w.engine.portSpaces(w.query.Filter.Kernel().Netns)
	// Whoever loses patience by now is told the present.
	snap, err := w.Snapshot(context.WithoutCancel(ctx), tracer.SnapshotOptions{})
	if err != nil {
		return err
	}
	w.held, w.heldAt = ports.Held(snap.Sockets, settingsOf(w.before)), snap.To
	ctx, cancel := context.WithTimeout(ctx, w.query.For)
	defer cancel()
	return w.Run(ctx, w.transition, nil)
}

func (w *portWatcher) transition(t *event.Transition) error {
	seen := *t
	if w.self != 0 && t.Closer == w.self && t.Owner.Pid != w.self {
		// The descriptor pass held the file while its owner closed it, and so was the last to let go.
		seen.Closer, seen.Stacks[event.StackClose] = t.Owner.Pid, 0
	}
	// The filter asks for the process that did it.
	seen.Owner = w.who(&seen)
	if w.chosen(&seen) {
		w.tally.Add(&seen, seen.Owner)
	}
	return nil
}

func (w *portWatcher) chosen(t *event.Transition) bool {
	f := w.query.Filter
	var group record.Cgroup
	if f.NeedsCgroups() {
		group = w.engine.cgroup(t.Cgroup)
		if f.NeedsNames() {
			group.Name = w.engine.names.container(group.Container)
			w.engine.names.warn(f)
		}
	}
	return f.MatchTransition(t, group)
}

// who is the process that closed, or called connect(). It is looked up at once: it may be gone
// in a moment.
func (w *portWatcher) who(t *event.Transition) event.Task {
	pid := t.Closer
	if ports.IsFailure(t) {
		pid = t.Owner.Pid
	}
	known, ok := w.known[pid]
	switch {
	case pid == 0:
		return event.Task{}
	case pid == t.Owner.Pid && known == t.Owner, pid != t.Owner.Pid && ok:
		return known
	case pid == t.Owner.Pid:
		known = t.Owner
	default:
		known = event.Task{Pid: pid}
	}
	p, err := w.engine.owners.Lookup(known)
	if err != nil && !errors.Is(err, owner.ErrGone) {
		w.engine.log.Debug("process facts", "pid", pid, "error", err)
	}
	if known.Start == 0 {
		known.Start, known.Comm = p.Start, event.MakeComm(p.Comm)
	}
	w.known[pid] = known
	return known
}

// findings are what there is to tell.
type findings struct {
	*portWatcher
	snap     *event.Snapshot
	observed time.Duration
	spaces   map[uint32]portSpace
	budgets  []ports.Budget
	closers  []*ports.Closer
	failures []ports.Failure
	facts    record.Facts
}

// tell looks once more and puts everything together.
func (w *portWatcher) tell(ctx context.Context) (*record.Timewait, error) {
	f, err := w.find(ctx)
	if err != nil {
		return nil, err
	}
	r := record.NewTimewait(record.Time{Time: f.facts.Clock.Wall.UTC()}, int64(f.observed))
	f.count(&r)
	if err := f.addClosers(ctx, &r); err != nil {
		return nil, err
	}
	f.addBudgets(&r)
	for i := range f.failures {
		r.ConnectFailures = append(r.ConnectFailures, f.failure(&f.failures[i]))
	}
	f.addSpaces(&r)
	r.Advice = ports.Advise(f.forAdvice())
	loss, err := w.Loss()
	r.Loss, r.UnreadNetns = record.LossOf(loss), record.UnreadOf(f.snap.UnreadNetns)
	return &r, errors.Join(err, w.warnMissing(w.engine.log))
}

// find looks once more.
func (w *portWatcher) find(ctx context.Context) (*findings, error) {
	snap, err := w.engine.snapshot(ctx, w.Tracer, tracer.SnapshotOptions{Holders: true})
	if err != nil {
		return nil, err
	}
	clock := tracer.ReadClock(w.engine.cfg.Now)
	f := &findings{portWatcher: w, snap: snap, spaces: w.engine.portSpaces(w.query.Filter.Kernel().Netns)}
	if w.query.For > 0 {
		if err := w.Drain(w.transition); err != nil {
			return nil, err
		}
		f.observed = snap.To.Sub(w.from)
	}
	f.closers, f.failures = w.tally.Closers(), w.tally.Failures()
	wanted := f.wantedBudgets()
	f.budgets = slices.DeleteFunc(ports.Budgets(&ports.Input{
		Sockets: snap.Sockets, At: snap.To, Settings: settingsOf(f.spaces), Held: w.held, HeldAt: w.heldAt,
		Recent: min(max(w.query.For, recentLeast), recentMost),
	}), func(b ports.Budget) bool { return !wanted[b.Destination] })
	f.facts = w.engine.facts(f.cases(), clock, false)
	return f, nil
}

// wantedBudgets are those that the filter chooses: by their addresses, and where processes are
// chosen by the destinations these have to do with.
func (f *findings) wantedBudgets() map[ports.Destination]bool {
	chosen := map[ports.Destination]bool{}
	add := func(d ports.Destination) {
		chosen[d] = true
		chosen[ports.Destination{Netns: d.Netns, Laddr: d.Laddr}] = true
	}
	for _, c := range f.closers {
		for d := range c.Destinations {
			add(d)
		}
	}
	for i := range f.failures {
		add(f.failures[i].Destination)
	}
	for i := range f.snap.Sockets {
		s := &f.snap.Sockets[i]
		if !f.flowChosen(s) {
			continue
		}
		as := event.Transition{Flow: s.Flow, New: s.State, Direction: s.Direction, Owner: s.Owner, Cgroup: s.Cgroup}
		if !f.query.Processes || f.chosen(&as) {
			add(ports.DestinationOf(&s.Flow))
		}
	}
	return chosen
}

// flowChosen asks the filter about the addresses alone: mini-sockets have nothing else.
func (f *findings) flowChosen(s *event.Socket) bool {
	row := *s
	if row.Direction == event.DirectionUnknown {
		row.Direction = f.query.Filter.Kernel().Direction
	}
	return f.query.Filter.MatchSocket(&row)
}

// count counts the mini-sockets.
func (f *findings) count(r *record.Timewait) {
	for i := range f.snap.Sockets {
		s := &f.snap.Sockets[i]
		if s.State != event.TimeWait && s.State != event.FinWait2 || s.Flow.Protocol != event.TCP || !f.flowChosen(s) {
			continue
		}
		space := f.spaces[s.Flow.Netns]
		switch {
		case s.State == event.TimeWait:
			r.TimeWait++
			space.timeWait++
		case s.Ends != 0:
			r.FinWait2++
			space.finWait2++
		default:
			r.FinWait2Held++
		}
		f.spaces[s.Flow.Netns] = space
	}
}

// cases stand for the processes and namespaces that facts are wanted of.
func (f *findings) cases() diagnosis.CaseList {
	var cases diagnosis.CaseList
	add := func(t event.Task, cgroup uint64) {
		cases = append(cases, diagnosis.Case{Blamed: t, Socket: event.Socket{Cgroup: cgroup}})
	}
	for _, c := range f.closers {
		add(c.Task, c.Cgroup)
	}
	for i := range f.failures {
		add(f.failures[i].Task, f.failures[i].Cgroup)
	}
	for netns := range f.spaces {
		cases = append(cases, diagnosis.Case{Socket: event.Socket{Flow: event.Flow{Netns: netns}}})
	}
	return cases
}

// container is that of the process, or of its socket where it is gone.
func (f *findings) container(pid uint32, cgroup uint64) string {
	return cmp.Or(f.facts.Process(pid).Container, f.facts.Cgroups[cgroup].Container)
}

func (f *findings) addClosers(ctx context.Context, r *record.Timewait) error {
	if f.keeper != nil {
		f.settle(ctx, settleFor)
		var err error
		if f.facts.Unsampled, err = f.NotSampled(); err != nil {
			return err
		}
	}
	perS := func(n int) float64 { return record.Rate(float64(n) / f.observed.Seconds()) }
	for _, c := range f.closers {
		container := f.container(c.Task.Pid, c.Cgroup)
		if c.ClosedFirst+c.Simultaneous > 0 {
			r.ActiveClosers = append(r.ActiveClosers, f.closer(c, container, perS(c.ClosedFirst)))
		}
		if c.Resets > 0 {
			r.Resets = append(r.Resets, record.Resetter{
				Pid: c.Task.Pid, Comm: commOf(&c.Task), Container: record.Escape(container), N: c.Resets, PerS: perS(c.Resets),
			})
		}
	}
	slices.SortStableFunc(r.Resets, func(a, b record.Resetter) int { return b.N - a.N })
	r.ActiveClosers = record.MergeClosers(r.ActiveClosers, maxClosers)
	return nil
}

func commOf(t *event.Task) string { return record.Escape(t.Comm.String()) }

func (f *findings) closer(c *ports.Closer, container string, perS float64) record.ActiveCloser {
	p := f.facts.Process(c.Task.Pid)
	return record.ActiveCloser{
		Pid: c.Task.Pid, Comm: commOf(&c.Task), Exe: record.Escape(p.Exe), Unit: record.Escape(p.Unit),
		Container: record.Escape(container), Pod: record.Escape(p.Pod), Names: f.facts.Names(container, p.Pod), Gone: p.Gone,
		ClosedFirst: c.ClosedFirst, PerS: perS, Simultaneous: c.Simultaneous, Exiting: c.Exiting,
		Groups: record.CloserGroups(c, f.place), StacksNotSampled: f.facts.Unsampled[c.Task.Pid],
	}
}

func (w *portWatcher) place(id event.StackID) *record.Stack {
	if w.keeper == nil {
		return nil
	}
	return w.stack(id)
}

func (f *findings) addBudgets(r *record.Timewait) {
	r.BudgetsTotal = len(f.budgets)
	for i := range f.budgets[:min(len(f.budgets), maxBudgets)] {
		b := &f.budgets[i]
		r.Budgets = append(r.Budgets, record.BudgetOf(b, f.facts.NetnsNames[b.Netns]))
	}
}

func (f *findings) failure(x *ports.Failure) record.ConnectFailure {
	return record.ConnectFailure{
		Pid: x.Task.Pid, Comm: commOf(&x.Task), Container: record.Escape(f.container(x.Task.Pid, x.Cgroup)),
		Netns: x.Netns, Laddr: x.Laddr, Raddr: x.Raddr, Rport: x.Rport, N: x.N, Bound: x.Bound,
	}
}

// addSpaces tells of the namespaces that have anything to tell.
func (f *findings) addSpaces(r *record.Timewait) {
	used := map[uint32]bool{}
	for i := range f.budgets {
		used[f.budgets[i].Netns] = true
	}
	shown := f.shownSpace()
	for _, netns := range sortedKeys(f.spaces) {
		s := f.spaces[netns]
		counters := s.counters.since(f.before[netns].counters)
		if !used[netns] && s.timeWait+s.finWait2 == 0 && netns != shown && !counters.any() {
			continue
		}
		r.Namespaces = append(r.Namespaces, record.PortSpace{
			Netns: netns, Name: f.facts.NetnsNames[netns], TimeWait: s.timeWait, FinWait2: s.finWait2,
			Range: s.settings.Size(), Counters: counters.record(), Sysctls: s.sysctls,
		})
	}
	if s := f.spaces[shown]; s.sysctls != nil {
		r.Sysctls, r.SysctlsNetns = s.sysctls, shown
	}
}

// shownSpace is the namespace whose settings stand for all: that of the fullest budget, or else
// our own, or else the first one.
func (f *findings) shownSpace() uint32 {
	if len(f.budgets) > 0 {
		return f.budgets[0].Netns
	}
	own := f.engine.ownNetns()
	if _, ok := f.spaces[own]; !ok && len(f.spaces) > 0 {
		return sortedKeys(f.spaces)[0]
	}
	return own
}

func (f *findings) forAdvice() *ports.Facts {
	overflows := map[uint32]uint64{}
	for netns, s := range f.spaces {
		if c := s.counters.since(f.before[netns].counters)[counterOverflow]; c != nil {
			overflows[netns] = c.Observed
		}
	}
	return &ports.Facts{
		Observed: f.observed, Closers: f.closers, Budgets: f.budgets, Failures: f.failures,
		Settings: settingsOf(f.spaces), Overflows: overflows, Accepted: ports.AcceptedTimeWait(f.snap.Sockets),
		Who: func(c *ports.Closer) string {
			if c.Task.Pid == 0 {
				return "The kernel"
			}
			return fmt.Sprintf("%s (pid %d)", commOf(&c.Task), c.Task.Pid)
		},
		Place: func(netns uint32) string {
			switch name := f.facts.NetnsNames[netns]; {
			case netns == f.engine.ownNetns():
				return ""
			case name != "":
				return "namespace " + name
			default:
				return fmt.Sprintf("namespace %d", netns)
			}
		},
	}
}
