package pipeline

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/lifecycle"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// ExecQuery is a command to follow.
type ExecQuery struct {
	// Threshold is the age from which a wait counts as stuck, Grace how long a program may
	// take to close what it was told the end of.
	Threshold, Grace time.Duration
	// Pid is the process that becomes the command. None of the command has run yet.
	Pid uint32
	// Release lets it run. It is called once, when everything is watched; its error is that of
	// Exec.
	Release func() error
	// Done is closed when the process has ended.
	Done <-chan struct{}
}

// Executed is the judgement of a command.
type Executed struct {
	Diagnosed
	// Alive are the processes of the command that outlived it.
	Alive []event.Task
	// Unclosed counts the sockets that were never closed, flagged or not; the longest was kept
	// for Longest.
	Unclosed int
	Longest  time.Duration
	// Late are those of Unclosed that were closed only when their process ended.
	Late int
}

// Exec lets a command run, and judges the sockets of its processes when it has ended. A
// context that ends early leaves the command alone and judges what was seen until then.
func (e *Engine) Exec(ctx context.Context, q ExecQuery) (*Executed, error) {
	if host, err := owner.HostPidNS(); err != nil || !host {
		return nil, &CannotRunError{Cause: "not in the host's pid namespace: the kernel's pids are not ours, so processes cannot be followed", Cure: pidNamespaceCure, Err: err}
	}
	// The first state of a process's end is often FIN_WAIT1: see execution.ended.
	states := event.SetOf(event.CloseWait, event.FinWait1)
	t, err := e.openStacks(tracer.Config{
		Filter: event.Filter{States: states}, Live: true, Users: true, Family: q.Pid,
	}, min(q.Threshold, q.Grace)) // who closed after the grace time is of interest: see lastbreath.go
	if err != nil {
		return nil, err
	}
	defer t.Close()
	if t.keeper != nil {
		// What lives for a moment only must find the worker idle.
		t.settle(ctx, settleFor)
	}
	x := newExecution(e, t, &q)
	if err := q.Release(); err != nil {
		return nil, err
	}
	if err := x.follow(ctx); err != nil {
		return nil, err
	}
	return x.judge(context.WithoutCancel(ctx))
}

// execution is a command that runs.
type execution struct {
	*watched
	engine *Engine
	query  *ExecQuery
	table  *lifecycle.Table
	tally  *diagnosis.Tally
	from   event.KTime

	family family
	// exits are the first moments at which processes were seen to end: what enters
	// CLOSE_WAIT later does so because of that.
	exits map[uint32]event.KTime
	// ended are waits that ended with a process, not yet known whose.
	ended []ended
	// left are those of the family.
	left []ended
	breaths
	// seen are the open waits of the family as they were found last, with their holders.
	seen map[event.Cookie]diagnosis.Case
	// met are processes to look up while they live.
	met map[uint32]event.Task

	lookAt event.KTime
}

// ended is a wait that ended with its process.
type ended struct {
	diagnosis.Case
	opened event.KTime
	closer uint32
	closed diagnosis.LateClose
}

func newExecution(e *Engine, t *watched, q *ExecQuery) *execution {
	from := tracer.Now()
	return &execution{
		watched: t, engine: e, query: q, from: from,
		table: lifecycle.New(lifecycle.Options{}), tally: diagnosis.NewTally(from),
		family: family{q.Pid: nil}, exits: map[uint32]event.KTime{}, seen: map[event.Cookie]diagnosis.Case{},
		met: map[uint32]event.Task{},
	}
}

const (
	// lookEvery is how often open waits are looked at: who holds them, and when who was told
	// of the end. It also bounds how late an end can be known to have been told.
	lookEvery = 250 * time.Millisecond
	// lookShare: a look may take one such part of the time.
	lookShare = 20
	// settleDescendants is how long processes that outlive the command may take to end.
	settleDescendants = 500 * time.Millisecond
)

// follow watches until the command has ended, and its descendants have or do not want to.
func (x *execution) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-x.query.Done:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := x.Run(ctx, x.transition, func() error { return x.idle(ctx) }); err != nil {
		return err
	}
	for end := tracer.Now().Add(settleDescendants); ; {
		if err := x.Drain(x.transition); err != nil {
			return err
		}
		if err := x.sift(); err != nil {
			return err
		}
		alive, err := x.alive()
		if err != nil || len(alive) == 0 || tracer.Now() >= end {
			return err
		}
		pause, stop := context.WithTimeout(context.WithoutCancel(ctx), settleDescendants/20)
		err = x.Run(pause, x.transition, nil)
		stop()
		if err != nil {
			return err
		}
	}
}

func (x *execution) transition(t *event.Transition) error {
	if t.Exiting && t.Closer != 0 {
		if _, known := x.exits[t.Closer]; !known {
			x.exits[t.Closer] = t.At
		}
	}
	c := x.table.Transition(t)
	if c.Opened != nil && c.Opened.Owner.Known() {
		x.met[c.Opened.Owner.Pid] = c.Opened.Owner
	}
	if c.Finished != nil {
		x.finished(c.Finished, t)
	}
	return nil
}

// finished is told of a wait that ended; t is its end, or what proved it.
func (x *execution) finished(f *lifecycle.Finished, t *event.Transition) {
	seen, looked := x.seen[f.Cookie]
	delete(x.seen, f.Cookie)
	switch {
	case f.Missed:
		// An end that nobody saw proves no close(), and no missing one.
	case f.Closer == 0:
		// The peer reset it, or its listener ended: no close() either.
	case !f.Exiting:
		earliest := f.Earliest
		if f.Wait.Bound == event.Exact {
			earliest = f.Since
		}
		c := closing{x.endedOf(f, t, &seen, looked), earliest, f.Dwell}
		if f.Dwell < x.query.Grace {
			c.count(x.tally)
			return
		}
		x.closings = append(x.closings, c)
	case f.Since < x.exits[f.Closer]:
		x.ended = append(x.ended, x.endedOf(f, t, &seen, looked))
	}
}

func (x *execution) endedOf(f *lifecycle.Finished, t *event.Transition, seen *diagnosis.Case, looked bool) ended {
	c := leftCase(f, t)
	if looked {
		c = merged(seen, &c)
	}
	return ended{Case: c, opened: f.Opened, closer: f.Closer}
}

// leftCase is the socket at its last moment. Its holder is added when the process is known.
func leftCase(f *lifecycle.Finished, t *event.Transition) diagnosis.Case {
	c := diagnosis.Case{Socket: event.Socket{
		At: f.At, Cookie: f.Cookie, Flow: f.Flow, State: event.CloseWait, Direction: f.Direction, Cgroup: f.Cgroup,
		Since: f.Since, Bound: f.Bound, Earliest: f.Earliest, RecvQ: t.RecvQ, QueuesKnown: true,
		EOFSeen: t.EOFSeen, EOFWatched: t.EOFWatched, SentAfterFin: uint64(t.SentAfterFin), SentKnown: t.SentKnown,
		WasConnected: true, Stacks: t.Stacks, Owner: f.Owner, Evidence: f.Evidence,
	}}
	if t.User != 0 {
		c.User, c.UserEvidence = event.Task{Pid: t.User}, event.EvidenceRead
	}
	return c
}

// merged adds to the last moment what an earlier look found and a transition does not tell.
func merged(seen, last *diagnosis.Case) diagnosis.Case {
	c := *seen
	c.At, c.Since, c.Bound = last.At, last.Since, last.Bound
	c.RecvQ, c.EOFSeen, c.EOFWatched = last.RecvQ, last.EOFSeen || seen.EOFSeen, last.EOFWatched
	c.SentAfterFin, c.SentKnown, c.Stacks = last.SentAfterFin, last.SentKnown, last.Stacks
	if c.User.Pid != last.User.Pid && last.User.Pid != 0 {
		c.User, c.UserEvidence = last.User, last.UserEvidence
	}
	c.Cause = diagnosis.None
	return c
}

func (x *execution) idle(ctx context.Context) error {
	x.learn()
	if err := x.sift(); err != nil {
		return err
	}
	return x.look(ctx)
}

// learn looks up processes while they live. The resolver remembers them.
func (x *execution) learn() {
	for _, task := range x.met {
		_, _ = x.engine.owners.Lookup(task)
	}
	clear(x.met)
}

// maxExits bounds the memory of processes that have ended.
const maxExits = 1 << 16

// sift keeps the ended waits of the family.
func (x *execution) sift() error {
	now := tracer.Now()
	closings := len(x.closings) > 0 && now >= x.siftAt
	if len(x.ended) == 0 && !closings && len(x.exits) < maxExits {
		return nil
	}
	if err := x.readFamily(); err != nil {
		return err
	}
	for i := range x.ended {
		e := &x.ended[i]
		if x.adopt(e) {
			x.left = append(x.left, *e)
		}
	}
	x.ended = x.ended[:0]
	x.siftClosings(now)
	x.siftAt = now.Add(max(lookEvery, lookShare*tracer.Now().Sub(now)))
	if len(x.exits) >= maxExits {
		clear(x.exits)
	}
	return nil
}

// adopt completes a wait of the family: it has a holder, the process that ended.
func (x *execution) adopt(e *ended) bool {
	c := &e.Case
	found, ok := x.family.find(e.closer)
	closer := found.Task
	if c.Owner.Pid == e.closer {
		closer, ok = c.Owner, x.family.has(&c.Owner)
	}
	if !ok && !x.family.has(&c.Owner) && !x.ours(c) {
		return false
	}
	if !ok {
		closer = event.Task{Pid: e.closer}
	}
	if user, known := x.family.find(c.User.Pid); known && c.User.Start == 0 {
		c.User = user.Task
	}
	if c.HoldersKnown {
		// Who lives on has closed it since.
		c.Holders = slices.DeleteFunc(c.Holders, func(h event.Holder) bool { return h.Pid != e.closer && x.runs(h.Task) })
	}
	if len(c.Holders) > 0 {
		return true
	}
	if !c.EOFSeen && !c.User.Known() && (!c.Owner.Known() || c.Socket.Evidence == event.EvidenceListen) {
		// Nobody is known to have accepted it: the kernel may have emptied the queue of a
		// listener.
		return true
	}
	c.Holders, c.HoldersKnown = []event.Holder{{Task: closer, FD: -1, Cookie: c.Cookie, State: c.State}}, true
	// Where the owner has ended as well, and nobody has looked, it may have closed its
	// descriptor long before, or not at all and ended first: nobody can be blamed for it.
	stranger := c.Owner.Known() && c.Owner.Pid != e.closer && c.User.Pid != e.closer
	return !stranger || x.runs(c.Owner)
}

// runs reports whether the process has not ended.
func (x *execution) runs(t event.Task) bool {
	_, err := x.engine.owners.Lookup(t)
	return err == nil
}

// look takes a snapshot if the family has open waits.
func (x *execution) look(ctx context.Context) error {
	now := tracer.Now()
	if now < x.lookAt {
		return nil
	}
	x.lookAt = now.Add(lookEvery)
	if x.table.Len() == 0 {
		return nil
	}
	if err := x.readFamily(); err != nil {
		return err
	}
	if !x.waiting() {
		return nil
	}
	snap, err := x.snapshot(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	x.remember(snap)
	x.lookAt = max(x.lookAt, tracer.Now().Add(lookShare*tracer.Now().Sub(now)))
	return nil
}

// waiting reports whether an open wait may be the family's.
func (x *execution) waiting() bool {
	for w := range x.table.All() {
		if !w.Owner.Known() || x.family.has(&w.Owner) {
			return true
		}
	}
	return false
}

// snapshot looks at the waits and makes the table equal to the kernel's.
func (x *execution) snapshot(ctx context.Context) (*event.Snapshot, error) {
	snap, err := x.engine.snapshot(ctx, x.Tracer, tracer.SnapshotOptions{States: judged, Holders: true})
	if err != nil {
		return nil, err
	}
	if err := x.Drain(x.transition); err != nil {
		return nil, err
	}
	for _, f := range x.table.Reconcile(snap, snap.All()) {
		delete(x.seen, f.Cookie)
	}
	return snap, x.readFamily()
}

// remember returns the sockets of the family, and keeps those that wait.
func (x *execution) remember(snap *event.Snapshot) []diagnosis.Case {
	kept := snap.Sockets[:0]
	for i := range snap.Sockets {
		s := &snap.Sockets[i]
		if _, open := x.table.Get(s.Cookie); !s.Subflow && (open || s.State == event.Close) {
			kept = append(kept, *s)
		}
	}
	snap.Sockets = kept
	cases := slices.DeleteFunc(owner.Cases(snap, snap.All()), func(c diagnosis.Case) bool { return !x.ours(&c) })
	for i := range cases {
		if c := cases[i]; c.State == event.CloseWait {
			// The snapshot's memory is not kept for the sake of a few.
			c.Holders, c.Listeners = slices.Clone(c.Holders), slices.Clone(c.Listeners)
			x.seen[c.Cookie] = c
		}
	}
	return cases
}

// ours: a process of the family opened, used, held, or should have accepted the socket.
func (x *execution) ours(c *diagnosis.Case) bool {
	is := func(h event.Holder) bool { return x.family.has(&h.Task) }
	return x.family.has(&c.Owner) || x.family.has(&c.User) || x.family.has(&c.EOFTask) ||
		slices.ContainsFunc(c.Holders, is) || slices.ContainsFunc(c.Listeners, is)
}

// judge looks once more and judges what is open then, and what ended with its process.
func (x *execution) judge(ctx context.Context) (*Executed, error) {
	snap, err := x.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	x.siftAt = 0
	if err := x.sift(); err != nil {
		return nil, err
	}
	x.judgeBreaths(ctx)
	cases, left := x.remains(snap)
	clock := tracer.ReadClock(x.engine.cfg.Now)
	facts := x.engine.facts(diagnosis.CaseList(cases), clock, true)
	if err := x.fill(ctx, x.stackLog(cases), diagnosis.CaseList(cases), &facts); err != nil {
		return nil, err
	}
	x.warnUnread(cases, facts.Stacks)
	markReaders(cases, left, facts.Stacks)
	loss, err := x.Loss()
	if err != nil {
		return nil, err
	}
	d := diagnosis.JudgeCommand(diagnosis.Input{
		Cases: cases, Threshold: x.query.Threshold, Loss: loss.Add(x.table.Loss()),
		From: x.from, To: snap.To, FDs: fdsOf(&facts), Closed: x.tally.Closed(),
	}, left)
	if err := x.warnRelatives(); err != nil {
		return nil, err
	}
	out := &Executed{Diagnosed: Diagnosed{Diagnosis: d, Facts: facts, UnreadNetns: snap.UnreadNetns}}
	out.Unclosed, out.Late, out.Longest = left.Unclosed(&d)
	out.Alive, err = x.alive()
	return out, err
}

// stackLog is where missing stacks are told: nowhere, if none is that would be shown.
func (x *execution) stackLog(cases []diagnosis.Case) *slog.Logger {
	if slices.ContainsFunc(cases, func(c diagnosis.Case) bool { return !c.Stacks.Any() }) {
		return x.engine.log
	}
	return slog.New(slog.DiscardHandler)
}

// warnUnread tells of sockets whose code cannot be named, and does not help to judge them.
func (x *execution) warnUnread(cases []diagnosis.Case, stacks map[event.Cookie]*record.Stacks) {
	unread := 0
	for i := range cases {
		if s := stacks[cases[i].Cookie]; s != nil && (isUnread(s.Open) || isUnread(s.LastRead)) {
			unread++
		}
	}
	if unread > 0 {
		x.engine.log.Warn("the code that used some sockets is not known: its program was gone when it was looked for", "sockets", unread)
	}
}

// isUnread reports whether no file was there to name a frame.
func isUnread(s *record.Stack) bool {
	return s != nil && len(s.Frames) > 0 && !slices.ContainsFunc(s.Frames, func(f record.Frame) bool {
		return f.Function != "" || f.Module != ""
	})
}

// warnRelatives tells of processes that were too many to follow.
func (x *execution) warnRelatives() error {
	s, err := x.Stats()
	if err != nil {
		return err
	}
	if s.RelativesLost > 0 {
		x.engine.log.Warn("not all processes of the command were followed: there were too many", "left_out", s.RelativesLost)
	}
	return nil
}

// remains are the cases to judge, explained: those open now and those left at an exit. What is
// laid to a process outside the family is not the command's.
func (x *execution) remains(snap *event.Snapshot) ([]diagnosis.Case, *diagnosis.Leftovers) {
	left := &diagnosis.Leftovers{ByCookie: map[event.Cookie]diagnosis.Leftover{}, Grace: x.query.Grace}
	cases := x.remember(snap)
	for i := range cases {
		if c := &cases[i]; c.State == event.CloseWait {
			var opened event.KTime
			if w, open := x.table.Get(c.Cookie); open {
				opened = w.Opened
			}
			left.ByCookie[c.Cookie] = diagnosis.Leftover{Opened: opened}
		}
	}
	for i := range x.left {
		cases = append(cases, x.left[i].Case)
		left.ByCookie[x.left[i].Cookie] = diagnosis.Leftover{Opened: x.left[i].opened, Ended: true, Closed: x.left[i].closed}
	}
	x.engine.explain(cases, x.query.Threshold)
	return slices.DeleteFunc(cases, func(c diagnosis.Case) bool {
		return c.Cause == diagnosis.None || c.Blamed.Known() && !x.family.has(&c.Blamed) || !left.Tells(&c)
	}), left
}

// markReaders finds the sockets of Go's http.Transport. It always reads its idle connections
// (persistConn.readLoop waits in Peek), so one whose end was not read has a response that
// nobody has read to its end. Of such a socket the place where it was opened says most: its
// first use is in a goroutine of the transport's.
func markReaders(cases []diagnosis.Case, left *diagnosis.Leftovers, stacks map[event.Cookie]*record.Stacks) {
	for i := range cases {
		c := &cases[i]
		s, u := stacks[c.Cookie], left.ByCookie[c.Cookie]
		if s == nil || frameOf(s.Open, transportDials) == nil && frameOf(s.LastRead, "net/http.(*persistConn)") == nil {
			continue
		}
		u.Reads = true
		left.ByCookie[c.Cookie] = u
		if at := frameOf(s.Open, transportDials); at != nil {
			s.LastRead, c.Stacks[event.StackLastRead] = nil, 0
			standFor(s.Open, at)
		}
	}
}

const transportDials = "net/http.(*Transport).dialConn"

// standFor makes a frame the one that stands for the stack: where all code is the library's,
// the outermost package says most.
func standFor(s *record.Stack, at *record.Frame) {
	for i := range s.Frames {
		s.Frames[i].User = &s.Frames[i] == at
	}
}

// frameOf is the innermost frame of a function whose name begins so, nil if there is none.
func frameOf(s *record.Stack, function string) *record.Frame {
	if s == nil {
		return nil
	}
	i := slices.IndexFunc(s.Frames, func(f record.Frame) bool { return strings.HasPrefix(f.Function, function) })
	if i < 0 {
		return nil
	}
	return &s.Frames[i]
}

// family are the processes of the command by pid, the ended ones included. A pid can have been
// several.
type family map[uint32][]tracer.Relative

func (x *execution) readFamily() error {
	all, err := x.Family()
	if err != nil {
		return err
	}
	clear(x.family)
	for _, t := range all {
		x.family[t.Pid] = append(x.family[t.Pid], t)
	}
	return nil
}

// has reports whether a process is one of the family.
func (f family) has(t *event.Task) bool {
	return t.Pid != 0 && slices.ContainsFunc(f[t.Pid], func(m tracer.Relative) bool { return diagnosis.SameProcess(&m.Task, t) })
}

// find returns the process that had the pid last.
func (f family) find(pid uint32) (tracer.Relative, bool) {
	all := f[pid]
	if len(all) == 0 {
		return tracer.Relative{}, false
	}
	return slices.MaxFunc(all, func(a, b tracer.Relative) int { return int(int64(a.Start) - int64(b.Start)) }), true
}

// alive returns the processes of the family that still run, by pid.
func (x *execution) alive() ([]event.Task, error) {
	if err := x.readFamily(); err != nil {
		return nil, err
	}
	var alive []event.Task
	for _, pid := range slices.Sorted(maps.Keys(x.family)) {
		for _, t := range x.family[pid] {
			if x.runs(t.Task) {
				alive = append(alive, t.Task)
			}
		}
	}
	return alive, nil
}
