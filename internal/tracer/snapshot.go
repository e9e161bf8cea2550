package tracer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"runtime"
	"slices"
	"strconv"
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
	if err := t.readPasses(ctx, opts, all, snap); err != nil {
		return nil, err
	}
	if err := t.maps.Variables["snapshot_met"].Get(&snap.Met); err != nil {
		return nil, fmt.Errorf("read snapshot_met: %w", err)
	}
	if opts.Holders {
		if err := t.lookAgain(ctx, opts, all, snap); err != nil {
			return nil, err
		}
	}
	all.nameListeners()
	return all, nil
}

// readPasses reads sockets, and descriptors if they are wanted. Who only looks reads both side by
// side: neither pass changes what the other sees. Who watches reads the sockets first: what is
// accepted after that has a record, and its first read names the owner; of others without one the
// pass over descriptors makes a holder the owner. lookAgain settles what came between.
func (t *Tracer) readPasses(ctx context.Context, opts SnapshotOptions, all *rows, snap *event.Snapshot) error {
	var files rows
	var failed error
	readFiles := func() {
		failed = t.readIter(ctx, factHolders, &files)
		files.sortHolders()
	}
	beside := func() {}
	if opts.Holders && !t.cfg.Live {
		beside = readFiles
	}
	err := errors.Join(t.readSockets(ctx, all, snap, beside), t.forgetQueued())
	if opts.Holders && t.cfg.Live && err == nil {
		readFiles()
	}
	if err = errors.Join(err, failed); err != nil || !opts.Holders {
		return err
	}
	return t.joinHolders(ctx, opts.States, all, &files, snap)
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

// readSockets goes through the namespaces, beside something else that takes about as long as the
// largest of them. There are as many readers as processors: one more would only delay the others.
func (t *Tracer) readSockets(ctx context.Context, all *rows, snap *event.Snapshot, beside func()) error {
	namespaces, err := t.namespaces(snap)
	if err != nil {
		return err
	}
	readers := make([]netnsReader, max(1, min(len(namespaces)+1, runtime.GOMAXPROCS(0))))
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
			if i == len(readers)-1 {
				beside()
			}
			for ns := range queue {
				if r.failed != nil {
					return
				}
				err := ns.Do(func() error { return r.read(ctx, t) })
				mu.Lock()
				if r.failed == nil {
					noteRead(snap, ns, err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return joinReaders(readers, all)
}

// namespaces are those that have to be gone through, the ones with the most sockets first. Those
// without any have been read with that.
func (t *Tracer) namespaces(snap *event.Snapshot) ([]netns.NS, error) {
	all, err := netns.List(t.cfg.Proc)
	// Some processes may be unreadable; holders show whether a namespace was missed.
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	sockets := map[uint32]uint64{}
	all = slices.DeleteFunc(all, func(ns netns.NS) bool {
		if !t.wantsNetns(ns.Inode) {
			return true
		}
		err := ns.Do(func() error {
			sockets[ns.Inode] = t.countTCP()
			return nil
		})
		if err == nil && sockets[ns.Inode] > 0 {
			return false
		}
		noteRead(snap, ns, err)
		return true
	})
	slices.SortStableFunc(all, func(a, b netns.NS) int { return cmp.Compare(sockets[b.Inode], sockets[a.Inode]) })
	return all, nil
}

// noteRead notes that a namespace was read, or why not.
func noteRead(snap *event.Snapshot, ns netns.NS, err error) {
	switch {
	case errors.Is(err, netns.ErrGone):
	case err == nil:
		snap.ReadNetns[ns.Inode] = true
	default:
		snap.UnreadNetns[ns.Inode] = err.Error()
	}
}

// netnsReader reads the sockets of one network namespace after the other: every namespace costs a
// pass over the kernel's whole table.
type netnsReader struct {
	rows   rows
	failed error
}

func (r *netnsReader) read(ctx context.Context, t *Tracer) error {
	r.failed = t.readIter(ctx, factSockets, &r.rows)
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

// countTCP is how many TCP sockets stand in the tables of this thread's namespace, about: but 0 is
// certain. All namespaces share one table, so that going through it costs as much for one that has
// none.
func (t *Tracer) countTCP() uint64 {
	if n := t.countTCPOnce(); n > 0 {
		return n
	}
	// Once more: the kernel adds up counts of CPUs, between which a socket can move.
	return t.countTCPOnce()
}

func (t *Tracer) countTCPOnce() uint64 {
	v4, err4 := os.ReadFile(t.cfg.Proc + "/thread-self/net/sockstat")
	v6, err6 := os.ReadFile(t.cfg.Proc + "/thread-self/net/sockstat6")
	// Without IPv6 in the kernel there is no second file.
	if err4 != nil || err6 != nil && !errors.Is(err6, fs.ErrNotExist) {
		return 1
	}
	return inTables(v4) + inTables(v6)
}

// inTables reads "TCP: inuse 0 orphan 0 tw 0 alloc 5 mem 0" or "TCP6: inuse 0": sockets that
// stand in the tables, and mini-sockets. Of anything else it says 1: something may be there.
func inTables(sockstat []byte) uint64 {
	for line := range strings.Lines(string(sockstat)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "TCP:" && f[0] != "TCP6:" {
			continue
		}
		if f[1] != "inuse" {
			return 1
		}
		var sum uint64
		for i := 1; i+1 < len(f); i += 2 {
			if f[i] != "inuse" && f[i] != "tw" {
				continue
			}
			n, err := strconv.ParseUint(f[i+1], 10, 32)
			if err != nil {
				return 1
			}
			sum += n
		}
		return sum
	}
	return min(1, uint64(len(sockstat)))
}

func (t *Tracer) wantsNetns(inode uint32) bool {
	want := t.cfg.Filter.Netns
	return len(want) == 0 || slices.Contains(want, inode)
}

// joinHolders adds the descriptors, and the sockets only they lead to.
func (t *Tracer) joinHolders(ctx context.Context, states event.StateSet, all, files *rows, snap *event.Snapshot) error {
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
	if hidden := t.hidden(states, all, snap); len(snap.UnreadNetns) > 0 || len(hidden) > 0 {
		if err := t.readHeld(ctx, all, func(row *bpfSocketRow) bool {
			return !snap.ReadNetns[row.Flow.Netns] || hidden[event.Cookie(row.Cookie)]
		}); err != nil {
			return err
		}
	}
	all.ownHeld()
	all.dateClosed()
	all.dedupe(listed)
	return nil
}

// readHeld adds sockets that no pass over the tables shows, as far as somebody has a descriptor of
// them.
func (t *Tracer) readHeld(ctx context.Context, all *rows, wanted func(*bpfSocketRow) bool) error {
	var held rows
	if err := t.set("snapshot_held", flag(true)); err != nil {
		return err
	}
	if err := errors.Join(t.readIter(ctx, factHolders, &held), t.set("snapshot_held", flag(false))); err != nil {
		return err
	}
	all.addSockets(&held, wanted)
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
