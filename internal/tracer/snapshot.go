package tracer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/netns"
)

// SnapshotOptions choose the rows of a snapshot.
type SnapshotOptions struct {
	// States of the sockets wanted; zero is all.
	States event.StateSet
	// Holders adds a pass over every descriptor of every process. Closed sockets, MPTCP
	// sockets and sockets in unix-socket messages are met only there.
	Holders bool
}

// readBuffer holds several of the 32 KiB pieces the kernel hands out at a time.
const readBuffer = 256 << 10

// Look is a snapshot whose sockets are decoded when they are asked for; Sockets is nil.
type Look struct {
	event.Snapshot
	sockets socketRows
	comms   *comms
}

// Len is the number of sockets.
func (l *Look) Len() int { return l.sockets.n }

// Socket reads socket number i.
func (l *Look) Socket(i int, to *event.Socket) {
	l.sockets.read(i, to)
	l.comms.name(&to.EOFTask, &to.Owner)
	l.comms.name(&to.User, &to.Owner)
}

// All goes through the sockets; each is valid until the next.
func (l *Look) All() iter.Seq[*event.Socket] {
	var s event.Socket
	return func(yield func(*event.Socket) bool) {
		for i := range l.Len() {
			if l.Socket(i, &s); !yield(&s) {
				return
			}
		}
	}
}

// Snapshot is Look with the sockets decoded.
func (t *Tracer) Snapshot(ctx context.Context, opts SnapshotOptions) (*event.Snapshot, error) {
	l, err := t.Look(ctx, opts)
	if err != nil {
		return nil, err
	}
	l.Sockets = make([]event.Socket, l.Len())
	for i := range l.Sockets {
		l.Socket(i, &l.Sockets[i])
	}
	l.sockets, l.comms = socketRows{}, nil
	return &l.Snapshot, nil
}

// Look reads the sockets of every network namespace that can be entered, by the
// kernel's own tables. A live tracer gives each a record on the way, if it has none.
// It is safe to call while Run is in another goroutine.
func (t *Tracer) Look(ctx context.Context, opts SnapshotOptions) (*Look, error) {
	if opts.States == 0 {
		opts.States = event.AllStates
	}
	l := &Look{}
	all, err := t.look(ctx, opts, &l.Snapshot, false)
	if err != nil {
		return nil, err
	}
	l.take(all, opts.Holders)
	return l, nil
}

// First returns the look at the sockets in the states Config.First that gave all sockets their
// records, once; nil after that.
func (t *Tracer) First() *Look {
	l := t.first
	t.first = nil
	return l
}

// take makes a look of what the passes wrote.
func (l *Look) take(all *rows, holders bool) {
	l.To = Now()
	l.sockets, l.comms = all.sockets, commsOf(all.tasks)
	if holders {
		l.Holders = all.holders()
	}
	l.Passed, l.PassedCut = all.passedOn(), all.passedCut
}

// look at the baseline gives records to the sockets of all states, and has all holders,
// whichever sockets are wanted.
func (t *Tracer) look(ctx context.Context, opts SnapshotOptions, snap *event.Snapshot, baseline bool) (_ *rows, err error) {
	t.snapshotMu.Lock()
	defer t.snapshotMu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	end, err := t.noteLook()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	for name, value := range map[string]any{
		"snapshot_states":   uint32(opts.States),
		"snapshot_import":   flag(t.cfg.Live),
		"snapshot_baseline": flag(baseline),
		"snapshot_met":      uint64(0),
	} {
		if err := t.set(name, value); err != nil {
			return nil, err
		}
	}
	snap.From, snap.ReadNetns, snap.UnreadNetns = Now(), map[uint32]bool{}, map[uint32]string{}
	all := &rows{}
	if err := t.readPasses(ctx, opts.Holders, all, snap); err != nil {
		return nil, err
	}
	if err := t.maps.Variables["snapshot_met"].Get(&snap.Met); err != nil {
		return nil, fmt.Errorf("read snapshot_met: %w", err)
	}
	if opts.Holders {
		if err := t.lookAgain(ctx, all, snap); err != nil {
			return nil, err
		}
	}
	all.nameListeners()
	return all, nil
}

// readPasses reads sockets, and descriptors if they are wanted. Who only looks reads both at
// once: neither pass changes what the other sees. Who watches reads the sockets first: what is
// accepted after that has a record, and its first read names the owner; of others without one the
// pass over descriptors makes a holder the owner. lookAgain settles what came between.
func (t *Tracer) readPasses(ctx context.Context, holders bool, all *rows, snap *event.Snapshot) error {
	var files rows
	var failed error
	readFiles := func() {
		failed = t.readIter(ctx, factHolders, &files)
		files.sortHolders()
	}
	var wg sync.WaitGroup
	if holders && !t.cfg.Live {
		wg.Go(readFiles)
	}
	err := errors.Join(t.readSockets(ctx, all, snap), t.forgetQueued())
	wg.Wait()
	if holders && t.cfg.Live && err == nil {
		readFiles()
	}
	if err = errors.Join(err, failed); err != nil || !holders {
		return err
	}
	return t.joinHolders(ctx, all, &files, snap)
}

// Users returns the processes that held sockets when the watching began.
func (t *Tracer) Users() map[uint32]bool { return t.users }

// importBaseline gives every socket that is there a record.
func (t *Tracer) importBaseline() error {
	l := &Look{}
	all, err := t.look(context.Background(), SnapshotOptions{States: t.cfg.First, Holders: true}, &l.Snapshot, true)
	if err != nil {
		return fmt.Errorf("import the sockets that are there: %w", err)
	}
	t.users = map[uint32]bool{}
	for s := range all.spots {
		if t.wantsNetns(s.netns) {
			t.users[all.tasks[s.task].Pid] = true
		}
	}
	if t.cfg.First != 0 {
		l.take(all, true)
		t.first = l
	}
	return nil
}

func (t *Tracer) readSockets(ctx context.Context, all *rows, snap *event.Snapshot) error {
	namespaces, err := netns.List(t.cfg.Proc)
	// Some processes may be unreadable; holders show whether a namespace was missed.
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("list network namespaces: %w", err)
	}
	namespaces = slices.DeleteFunc(namespaces, func(ns netns.NS) bool { return !t.wantsNetns(ns.Inode) })
	readers := make([]netnsReader, max(1, min(len(namespaces), runtime.GOMAXPROCS(0))))
	queue := make(chan netns.NS, len(namespaces))
	for _, ns := range namespaces {
		queue <- ns
	}
	close(queue)
	var mu sync.Mutex // of snap
	var wg sync.WaitGroup
	for i := range readers {
		r := &readers[i]
		wg.Go(func() {
			for ns := range queue {
				if r.failed != nil {
					return
				}
				err := ns.Do(func() error { return r.read(ctx, t) })
				mu.Lock()
				switch {
				case r.failed != nil, errors.Is(err, netns.ErrGone):
				case err == nil:
					snap.ReadNetns[ns.Inode] = true
				default:
					snap.UnreadNetns[ns.Inode] = err.Error()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return joinReaders(readers, all)
}

// netnsReader reads the sockets of one network namespace after the other. There is one for each
// processor: every namespace costs a pass over the kernel's whole table.
type netnsReader struct {
	rows   rows
	failed error
}

func (r *netnsReader) read(ctx context.Context, t *Tracer) error {
	if !t.emptyNetns() {
		r.failed = t.readIter(ctx, factSockets, &r.rows)
	}
	return r.failed
}

// joinReaders puts together what was read, and does not move the most of it.
func joinReaders(readers []netnsReader, all *rows) error {
	slices.SortStableFunc(readers, func(a, b netnsReader) int { return b.rows.sockets.n - a.rows.sockets.n })
	*all = readers[0].rows
	err := readers[0].failed
	for i := range readers[1:] {
		r := &readers[1+i]
		err = errors.Join(err, r.failed)
		all.addSockets(&r.rows, func(*bpfSocketRow) bool { return true })
	}
	return err
}

// emptyNetns reports whether the namespace of this thread has no TCP sockets at all. All
// namespaces share one table, so that going through it costs as much for one that has none.
func (t *Tracer) emptyNetns() bool {
	// Twice: the kernel adds up counts of CPUs, between which a socket can move.
	for range 2 {
		if !t.countsNoTCP() {
			return false
		}
	}
	return true
}

func (t *Tracer) countsNoTCP() bool {
	v4, err4 := os.ReadFile(t.cfg.Proc + "/thread-self/net/sockstat")
	v6, err6 := os.ReadFile(t.cfg.Proc + "/thread-self/net/sockstat6")
	// Without IPv6 in the kernel there is no second file.
	return err4 == nil && (err6 == nil || errors.Is(err6, fs.ErrNotExist)) && noTCP(v4) && noTCP(v6)
}

// noTCP reads "TCP: inuse 0 orphan 0 tw 0 alloc 5 mem 0" or "TCP6: inuse 0": sockets that
// stand in the tables, and mini-sockets. Anything else may be there.
func noTCP(sockstat []byte) bool {
	for line := range strings.Lines(string(sockstat)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "TCP:" && f[0] != "TCP6:" {
			continue
		}
		for i := 1; i+1 < len(f); i += 2 {
			if (f[i] == "inuse" || f[i] == "tw") && f[i+1] != "0" {
				return false
			}
		}
		return f[1] == "inuse"
	}
	return len(sockstat) == 0
}

func (t *Tracer) wantsNetns(inode uint32) bool {
	want := t.cfg.Filter.Netns
	return len(want) == 0 || slices.Contains(want, inode)
}

// joinHolders adds the descriptors, and the sockets only they lead to.
func (t *Tracer) joinHolders(ctx context.Context, all, files *rows, snap *event.Snapshot) error {
	listed := all.sockets.n
	all.addSockets(files, func(*bpfSocketRow) bool { return true })
	all.tasks, all.held, all.index, all.listening, all.spots = files.tasks, files.held, files.index, files.listening, files.spots
	all.passed, all.passedCut = files.passed, files.passedCut
	snap.HoldersKnown = true
	for s := range all.spots {
		n := s.netns
		if !snap.ReadNetns[n] && snap.UnreadNetns[n] == "" && t.wantsNetns(n) {
			snap.UnreadNetns[n] = "no process lives in it and no name leads to it; only sockets that a process holds were read"
		}
	}
	if len(snap.UnreadNetns) > 0 {
		if err := t.readHeld(ctx, all, snap); err != nil {
			return err
		}
	}
	all.ownHeld()
	all.dateClosed()
	all.dedupe(listed)
	return nil
}

// readHeld adds the sockets of namespaces that nobody can enter, as far as somebody has
// a descriptor of them.
func (t *Tracer) readHeld(ctx context.Context, all *rows, snap *event.Snapshot) error {
	var held rows
	if err := t.set("snapshot_held", flag(true)); err != nil {
		return err
	}
	if err := errors.Join(t.readIter(ctx, factHolders, &held), t.set("snapshot_held", flag(false))); err != nil {
		return err
	}
	all.addSockets(&held, func(row *bpfSocketRow) bool { return !snap.ReadNetns[row.Flow.Netns] })
	return nil
}

func (t *Tracer) readIter(ctx context.Context, fact string, all *rows) error {
	iter := t.iters[fact]
	if iter == nil {
		return fmt.Errorf("snapshot: no iterator for %s", fact)
	}
	if fact == factHolders {
		if err := t.set("snapshot_task", uint64(0)); err != nil {
			return err
		}
	}
	r, err := iter.Open()
	if err != nil {
		return fmt.Errorf("open iterator of %s: %w", fact, err)
	}
	defer r.Close()
	if err := all.readAll(ctx, r); err != nil {
		return fmt.Errorf("iterator of %s: %w", fact, err)
	}
	return nil
}
