// Package pipeline wires the parts together: tracer, lifecycle, owner, diagnosis, and
// hands the result to whoever asked. It is the one place that decides in which order
// they are started, asked and stopped.
package pipeline

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// Config is what all commands share.
type Config struct {
	// Now reads the wall clock.
	Now func() time.Time
	// Log gets messages about what is done; nil discards them.
	Log *slog.Logger
	// Proc is where procfs is mounted, "" is /proc.
	Proc string
	// SyscallAccept, RingBytes: see tracer.Config.
	SyscallAccept bool
	RingBytes     int
	// Stacks says which stacks are taken while watching.
	Stacks StackMode
	// Lines adds source lines from DWARF to native frames; reading them takes time.
	Lines bool
	// Debuginfod are the servers to ask for missing symbols, none by default.
	Debuginfod []string
	// CRIEndpoint is the socket of the container runtime, "" means the usual ones.
	CRIEndpoint string
}

// Engine answers the commands. It loads nothing before it is asked.
type Engine struct {
	cfg     Config
	log     *slog.Logger
	owners  *owner.Resolver
	cgroups *owner.CgroupTree
	names   *namer
}

// New prepares an engine. It needs no privilege.
func New(cfg Config) (*Engine, error) {
	e := &Engine{cfg: cfg, log: cfg.Log}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.cfg.Proc == "" {
		e.cfg.Proc = "/proc"
	}
	var err error
	e.owners, err = owner.New(owner.Options{Proc: e.cfg.Proc})
	if err != nil {
		return nil, &CannotRunError{Cause: "procfs cannot be read", Cure: "mount procfs, or in a container share the host's", Err: err}
	}
	// Without a cgroup2 hierarchy sockets simply have no cgroup path.
	e.cgroups, err = owner.OpenCgroupTree(e.cfg.Proc)
	if err != nil {
		e.log.Info("sockets cannot be tied to cgroups", "error", err)
	}
	e.names = newNamer(&e.cfg, e.log)
	return e, nil
}

// Close frees what New opened.
func (e *Engine) Close() error {
	if e.cgroups == nil {
		return nil
	}
	return e.cgroups.Close()
}

// open loads the tracer with what all commands share.
func (e *Engine) open(cfg tracer.Config) (*tracer.Tracer, error) {
	cfg.Proc = e.cfg.Proc
	cfg.RingBytes = e.cfg.RingBytes
	cfg.SyscallAccept = e.cfg.SyscallAccept
	t, err := tracer.Open(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Live {
		// Reading the kernel's types leaves tens of megabytes that are never needed again. It
		// takes time: who reads that hooks are attached must not wait for it.
		debug.FreeOSMemory()
	}
	for _, h := range t.Hooks() {
		e.log.Info("hook", "fact", h.Fact, "hook", h.Hook, "kind", h.Kind, "attached", h.Attached, "reason", h.Reason)
	}
	e.warnPidNamespace()
	if cfg.Live && cfg.SyscallAccept {
		e.warnSyscallAccept(t.Hooks())
	}
	return t, nil
}

// warnSyscallAccept: who asked for the costly hook must not believe to have it.
func (e *Engine) warnSyscallAccept(hooks []event.Hook) {
	reason := ""
	for _, h := range hooks {
		switch {
		case h.Fact != "accept":
		case h.Attached:
			return
		default:
			reason = h.Reason
		}
	}
	e.log.Warn("--syscall-accept has no effect", "reason", reason, "cure", "mount -t tracefs tracefs /sys/kernel/tracing")
}

// snapshot takes one.
func (e *Engine) snapshot(ctx context.Context, t *tracer.Tracer, o tracer.SnapshotOptions) (*event.Snapshot, error) {
	snap, err := t.Snapshot(ctx, o)
	if err != nil {
		return nil, err
	}
	e.doubtHolders(snap)
	return snap, nil
}

// look is snapshot with the sockets not decoded.
func (e *Engine) look(ctx context.Context, t *tracer.Tracer, o tracer.SnapshotOptions) (*tracer.Look, error) {
	l, err := t.Look(ctx, o)
	if err != nil {
		return nil, err
	}
	e.doubtHolders(&l.Snapshot)
	return l, nil
}

// doubtHolders: in another pid namespace the descriptor pass sees only some processes, so a
// socket without holder may have one.
func (e *Engine) doubtHolders(snap *event.Snapshot) {
	if host, err := owner.HostPidNS(); err != nil || !host {
		snap.HoldersKnown = false
	}
}

// warnPidNamespace: the kernel speaks of pids of the initial namespace. Elsewhere they
// name nobody, or somebody else.
func (e *Engine) warnPidNamespace() {
	if host, err := owner.HostPidNS(); err == nil && !host {
		e.log.Warn(pidNamespaceCause, "cure", pidNamespaceCure)
	}
}

const (
	pidNamespaceCause = "not in the host's pid namespace: pids are the host's, and only processes of this container are searched for descriptors"
	pidNamespaceCure  = "share it (docker run --pid=host, hostPID: true)"
)

// facts looks up what records need beyond the sockets.
func (e *Engine) facts(cases diagnosis.Cases, clock event.Clock, fds bool) record.Facts {
	x := e.findFacts(clock, fds)
	for c := range diagnosis.All(cases) {
		x.add(c)
	}
	return x.done()
}

// factFinder looks up facts while somebody goes through the cases.
type factFinder struct {
	engine *Engine
	facts  record.Facts
	lookup func(event.Task) (owner.Process, error)
	netns  map[uint32]bool
	// A million sockets mostly are like the one before.
	last struct {
		cgroup uint64
		pid    uint32
		netns  uint32
	}
}

func (e *Engine) findFacts(clock event.Clock, fds bool) *factFinder {
	x := &factFinder{
		engine: e, lookup: e.owners.Lookup, netns: map[uint32]bool{},
		facts: record.Facts{
			Clock: clock, Boot: e.owners.Boot(),
			Processes: map[uint32]*owner.Process{},
			Cgroups:   map[uint64]record.Cgroup{},
		},
	}
	if fds {
		x.lookup = e.owners.LookupFDs
	}
	return x
}

func (x *factFinder) add(c *diagnosis.Case) {
	if c.Cgroup != x.last.cgroup || len(x.facts.Cgroups) == 0 {
		x.last.cgroup = c.Cgroup
		if _, ok := x.facts.Cgroups[c.Cgroup]; !ok {
			x.facts.Cgroups[c.Cgroup] = x.engine.cgroup(c.Cgroup)
		}
	}
	if inode := c.Flow.Netns; inode != x.last.netns {
		x.last.netns = inode
		x.netns[inode] = true
	}
	if pid := c.Blamed.Pid; pid != x.last.pid {
		x.last.pid = pid
		x.addProcess(c)
	}
}

func (x *factFinder) addProcess(c *diagnosis.Case) {
	pid := c.Blamed.Pid
	if pid == 0 || x.facts.Processes[pid] != nil {
		return
	}
	// A process that is gone still has what the kernel told of it.
	p, err := x.lookup(c.Blamed)
	if err != nil && !errors.Is(err, owner.ErrGone) {
		x.engine.log.Debug("process facts", "pid", pid, "error", err)
	}
	x.facts.Processes[pid] = &p
}

func (x *factFinder) done() record.Facts {
	delete(x.netns, 0)
	x.engine.names.fill(&x.facts, x.netns)
	return x.facts
}

func (e *Engine) cgroup(id uint64) record.Cgroup {
	if e.cgroups == nil || id == 0 {
		return record.Cgroup{}
	}
	path, known := e.cgroups.Find(id)
	return record.Cgroup{Path: path, Container: known.Container, Pod: known.Pod}
}

// where leaves sockets out.
func where(sockets iter.Seq[*event.Socket], wanted func(*event.Socket) bool) iter.Seq[*event.Socket] {
	return func(yield func(*event.Socket) bool) {
		for s := range sockets {
			if wanted(s) && !yield(s) {
				return
			}
		}
	}
}

// cases joins sockets of a snapshot, explains and chooses. Facts are read for those that are
// left, but before choosing where the filter asks for them.
func (e *Engine) cases(snap *event.Snapshot, sockets iter.Seq[*event.Socket], q *Query, clock event.Clock, fds bool) ([]diagnosis.Case, record.Facts) {
	cases := owner.Cases(snap, where(sockets, q.Filter.MatchSocket))
	e.explain(cases, q.Threshold)
	var facts record.Facts
	early := q.Filter.NeedsProcesses() || q.Filter.NeedsCgroups()
	if early {
		facts = e.facts(diagnosis.CaseList(cases), clock, fds)
		e.names.warn(q.Filter)
		facts.Peers = q.peers
	}
	chosen := cases[:0]
	for i := range cases {
		// A closed socket that never had a connection is nobody's concern.
		if cases[i].State == event.Close && cases[i].Cause != diagnosis.ZombieFD {
			continue
		}
		if q.Filter.MatchCase(&cases[i], &facts) {
			chosen = append(chosen, cases[i])
		}
	}
	if !early {
		facts = e.facts(diagnosis.CaseList(chosen), clock, fds)
	}
	facts.Peers = q.peers
	return chosen, facts
}

// fixedPatience bounds the search for sockets in io_urings: it goes through the descriptors of
// all processes.
const fixedPatience = time.Second

// explain finds the causes. Of sockets that nobody holds, and that are in no message, it
// looks for an io_uring that has them.
func (e *Engine) explain(cases []diagnosis.Case, threshold time.Duration) {
	x := diagnosis.NewExplainer(threshold)
	var lost lostSockets
	for i := range cases {
		x.Explain(&cases[i])
		lost.add(&cases[i])
	}
	fixed := e.fixedFiles(&lost)
	for i := range cases {
		if c := &cases[i]; c.Cause == diagnosis.InFlight && fixed[c.Inode] != nil {
			c.Fixed = fixed[c.Inode]
			x.Explain(c)
		}
	}
}

// lostSockets are those that nobody holds, and that are in no message: by inode, and with the
// processes that may have given them to an io_uring.
type lostSockets struct {
	inodes map[uint64]bool
	first  []uint32
}

func (l *lostSockets) add(c *diagnosis.Case) {
	if c.Cause != diagnosis.InFlight || c.Where() != "" {
		return
	}
	if l.inodes == nil {
		l.inodes = map[uint64]bool{}
	}
	l.inodes[c.Inode] = true
	for _, pid := range []uint32{c.User.Pid, c.Owner.Pid} {
		if pid != 0 && !slices.Contains(l.first, pid) {
			l.first = append(l.first, pid)
		}
	}
}

func (l *lostSockets) join(o *lostSockets) {
	if l.inodes == nil {
		l.inodes = o.inodes
	}
	maps.Copy(l.inodes, o.inodes)
	for _, pid := range o.first {
		if !slices.Contains(l.first, pid) {
			l.first = append(l.first, pid)
		}
	}
}

// fixedFiles finds the io_urings that have lost sockets.
func (e *Engine) fixedFiles(l *lostSockets) map[uint64][]event.Holder {
	if len(l.inodes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), fixedPatience)
	defer cancel()
	fixed := owner.FixedFiles(ctx, e.cfg.Proc, l.inodes, l.first)
	if ctx.Err() != nil {
		e.log.Warn("not all io_urings were looked through", "after", fixedPatience)
	}
	return fixed
}

// openList opens what a list needs, and watches for as long as it is told to.
func (e *Engine) openList(ctx context.Context, q *ListQuery) (*watched, error) {
	if q.For == 0 {
		chosen := q.Filter.Kernel()
		if q.Peers {
			// The other end need not be chosen itself.
			chosen = event.Filter{}
		}
		t, err := e.open(tracer.Config{Filter: chosen})
		return &watched{Tracer: t}, err
	}
	t, err := e.openStacks(tracer.Config{Filter: q.Filter.Kernel(), Live: true, Users: true}, q.Threshold)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, q.For)
	defer cancel()
	if err := t.Run(ctx, func(*event.Transition) error { return nil }, nil); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// List is one look at the sockets, joined with holders and explained.
func (e *Engine) List(ctx context.Context, q ListQuery) (*Listing, error) {
	t, l, err := e.takeList(ctx, &q)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	facts := l.choose(e, &q.Query, tracer.ReadClock(e.cfg.Now))
	if err := t.fill(ctx, e.log, l, &facts); err != nil {
		return nil, err
	}
	loss, err := t.Loss()
	return &Listing{Facts: facts, Cases: l, Loss: loss, UnreadNetns: l.snap.UnreadNetns}, err
}

// takeList opens what a list needs, and looks. The caller closes what it gets.
func (e *Engine) takeList(ctx context.Context, q *ListQuery) (*watched, *looked, error) {
	if q.For == 0 {
		// A look keeps most of what it allocates, and has two processors busy. What there is to
		// collect can wait until one is idle.
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
	}
	t, err := e.openList(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	l, err := e.lookList(context.WithoutCancel(ctx), t, q)
	if err != nil {
		t.Close()
		return nil, nil, err
	}
	return t, l, nil
}

// lookList takes the snapshot of a list, and finds the other ends if they are wanted.
func (e *Engine) lookList(ctx context.Context, t *watched, q *ListQuery) (*looked, error) {
	chosen := q.Filter.Kernel()
	if q.Peers {
		opened := chosen
		if q.For == 0 {
			opened = event.Filter{}
		}
		all, err := e.everything(ctx, t.Tracer, opened)
		if err != nil {
			return nil, err
		}
		q.peers = e.peers(all, q.Filter.MatchSocket)
		if !narrow(opened) {
			// What is missing elsewhere is not missed.
			maps.DeleteFunc(all.UnreadNetns, func(ns uint32, _ string) bool {
				return len(chosen.Netns) > 0 && !slices.Contains(chosen.Netns, ns)
			})
			return newLooked(all, all.Snapshot, q.Threshold), nil
		}
	}
	l, err := e.look(ctx, t.Tracer, tracer.SnapshotOptions{States: chosen.States, Holders: true})
	if err != nil {
		return nil, err
	}
	return newLooked(l, &l.Snapshot, q.Threshold), nil
}
