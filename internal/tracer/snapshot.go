package tracer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

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

// Snapshot reads the sockets of every network namespace that can be entered, by the
// kernel's own tables. A live tracer gives each a record on the way, if it has none.
// It is safe to call while Run is in another goroutine.
func (t *Tracer) Snapshot(ctx context.Context, opts SnapshotOptions) (*event.Snapshot, error) {
	if opts.States == 0 {
		opts.States = event.AllStates
	}
	t.snapshotMu.Lock()
	defer t.snapshotMu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	for name, value := range map[string]any{
		"snapshot_states": uint32(opts.States),
		"snapshot_import": flag(t.cfg.Live),
		"snapshot_met":    uint64(0),
	} {
		if err := t.set(name, value); err != nil {
			return nil, err
		}
	}
	snap := &event.Snapshot{From: Now(), ReadNetns: map[uint32]bool{}, UnreadNetns: map[uint32]string{}}
	var all rows
	if err := errors.Join(t.readSockets(ctx, &all, snap), t.forgetQueued()); err != nil {
		return nil, err
	}
	if opts.Holders {
		if err := t.readHolders(ctx, &all, snap); err != nil {
			return nil, err
		}
	}
	if err := t.maps.Variables["snapshot_met"].Get(&snap.Met); err != nil {
		return nil, fmt.Errorf("read snapshot_met: %w", err)
	}
	if opts.Holders {
		if err := t.lookAgain(ctx, &all, snap); err != nil {
			return nil, err
		}
	}
	all.nameListeners()
	snap.To = Now()
	snap.Sockets, snap.Holders = all.sockets, all.holders
	snap.Passed, snap.PassedCut = all.passedOn(), all.passedCut
	return snap, nil
}

// Users returns the processes that held sockets when the watching began.
func (t *Tracer) Users() map[uint32]bool { return t.users }

// importBaseline gives every socket that is there a record.
func (t *Tracer) importBaseline() error {
	snap, err := t.Snapshot(context.Background(), SnapshotOptions{Holders: true})
	if err != nil {
		return fmt.Errorf("import the sockets that are there: %w", err)
	}
	t.users = map[uint32]bool{}
	for i := range snap.Holders {
		if h := &snap.Holders[i]; t.wantsNetns(h.Flow.Netns) {
			t.users[h.Pid] = true
		}
	}
	return nil
}

func (t *Tracer) readSockets(ctx context.Context, all *rows, snap *event.Snapshot) error {
	namespaces, err := netns.List(t.cfg.Proc)
	// Some processes may be unreadable; holders show whether a namespace was missed.
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("list network namespaces: %w", err)
	}
	for _, ns := range namespaces {
		if !t.wantsNetns(ns.Inode) {
			continue
		}
		var failed error
		err := ns.Do(func() error {
			failed = t.readIter(ctx, factSockets, all)
			return failed
		})
		switch {
		case failed != nil:
			return failed
		case err == nil:
			snap.ReadNetns[ns.Inode] = true
		case errors.Is(err, netns.ErrGone):
		default:
			snap.UnreadNetns[ns.Inode] = err.Error()
		}
	}
	return nil
}

func (t *Tracer) wantsNetns(inode uint32) bool {
	want := t.cfg.Filter.Netns
	return len(want) == 0 || slices.Contains(want, inode)
}

// readHolders adds the descriptors, and the sockets only they lead to.
func (t *Tracer) readHolders(ctx context.Context, all *rows, snap *event.Snapshot) error {
	listed := len(all.sockets)
	if err := t.readIter(ctx, factHolders, all); err != nil {
		return err
	}
	snap.HoldersKnown = true
	for i := range all.holders {
		n := all.holders[i].Flow.Netns
		if !snap.ReadNetns[n] && snap.UnreadNetns[n] == "" && t.wantsNetns(n) {
			snap.UnreadNetns[n] = "no process lives in it and no name leads to it; only sockets that a process holds were read"
		}
	}
	if len(snap.UnreadNetns) > 0 {
		if err := t.readHeld(ctx, all, snap); err != nil {
			return err
		}
	}
	// Before rows move: undated are indexes.
	all.dateClosed()
	all.sortHolders()
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
	for i := range held.sockets {
		if !snap.ReadNetns[held.sockets[i].Flow.Netns] {
			all.sockets = append(all.sockets, held.sockets[i])
		}
	}
	return nil
}

// dedupe keeps the first of several rows of one socket among those after the listed.
func (r *rows) dedupe(listed int) {
	known := map[event.Cookie]bool{}
	for i := range r.sockets[:listed] {
		if s := &r.sockets[i]; unlisted(s) {
			known[s.Cookie] = true
		}
	}
	kept := r.sockets[:listed]
	for i := listed; i < len(r.sockets); i++ {
		if s := r.sockets[i]; !known[s.Cookie] {
			known[s.Cookie] = true
			kept = append(kept, s)
		}
	}
	r.sockets = kept
}

// unlisted sockets stand in no table of a namespace.
func unlisted(s *event.Socket) bool {
	return s.State == event.Close || s.State == event.BoundInactive || s.Flow.Protocol == event.MPTCP
}

func (t *Tracer) readIter(ctx context.Context, fact string, all *rows) error {
	iter := t.iters[fact]
	if iter == nil {
		return fmt.Errorf("snapshot: no iterator for %s", fact)
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

// readAll decodes until EOF. A row may be split between two reads.
func (r *rows) readAll(ctx context.Context, from io.Reader) error {
	buf := make([]byte, readBuffer)
	var have int
	for ctx.Err() == nil {
		n, err := from.Read(buf[have:])
		rest, bad := r.decode(buf[:have+n])
		if bad != nil {
			return bad
		}
		have = copy(buf, rest)
		switch {
		case errors.Is(err, io.EOF) && have == 0:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%d bytes left over: %w", have, io.ErrUnexpectedEOF)
		case err != nil:
			return err
		}
	}
	return ctx.Err()
}

func (r *rows) sortHolders() {
	slices.SortFunc(r.holders, func(a, b event.Holder) int {
		return cmp.Or(cmp.Compare(a.Cookie, b.Cookie), cmp.Compare(a.Pid, b.Pid), cmp.Compare(a.FD, b.FD))
	})
}

// dateClosed dates the closed sockets that only a listener on their port can.
func (r *rows) dateClosed() {
	if len(r.undated) == 0 {
		return
	}
	type port struct {
		netns uint32
		port  uint16
	}
	listening := map[port]bool{}
	for i := range r.holders {
		if h := &r.holders[i]; h.State == event.Listen {
			listening[port{h.Flow.Netns, h.Flow.Local.Port()}] = true
		}
	}
	for _, i := range r.undated {
		s := &r.sockets[i]
		if listening[port{s.Flow.Netns, s.Flow.Local.Port()}] {
			s.Direction = event.In
			closedAtLastAck(s)
		}
	}
}
