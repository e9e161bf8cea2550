package pipeline

import (
	"context"
	"maps"
	"slices"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/netns"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// narrow reports whether the kernel leaves sockets out, other than by their state.
func narrow(f event.Filter) bool {
	return len(f.Netns)+len(f.Lports)+len(f.Rports)+len(f.Pids) > 0 || f.Family != 0 || f.Direction != event.DirectionUnknown
}

// whole is a look at the sockets of all states.
type whole struct {
	*event.Snapshot
	event.Rows
}

// everything looks at the sockets of all states that t does not leave out; if it leaves some
// out, another tracer looks. The other end of a chosen socket need not be chosen itself.
func (e *Engine) everything(ctx context.Context, t *tracer.Tracer, chosen event.Filter) (*whole, error) {
	wanted := tracer.SnapshotOptions{Holders: true}
	if !narrow(chosen) {
		l, err := e.look(ctx, t, wanted)
		if err != nil {
			return nil, err
		}
		return &whole{&l.Snapshot, l}, nil
	}
	all, err := tracer.Open(tracer.Config{Proc: e.cfg.Proc})
	if err != nil {
		return nil, err
	}
	defer func() { _ = all.Close() }()
	l, err := e.look(ctx, all, wanted)
	if err != nil {
		return nil, err
	}
	watched, err := t.Look(ctx, tracer.SnapshotOptions{States: event.SetOf(event.FinWait1, event.FinWait2)})
	if err != nil {
		return nil, err
	}
	return &whole{&l.Snapshot, date(l, watched)}, nil
}

// dated are sockets of which some were watched when they entered their state.
type dated struct {
	event.Rows
	entered map[event.Cookie]entry
}

type entry struct {
	state event.State
	at    event.KTime
}

// date takes from rows that were watched since when sockets are in their state.
func date(all, watched *tracer.Look) dated {
	d := dated{all, map[event.Cookie]entry{}}
	for s := range watched.All() {
		if s.Cookie != 0 && s.Bound == event.Exact && s.Flow.Protocol == event.TCP {
			d.entered[s.Cookie] = entry{s.State, s.Since}
		}
	}
	return d
}

// Socket implements event.Rows.
func (d dated) Socket(i int, to *event.Socket) {
	d.Rows.Socket(i, to)
	if e, ok := d.entered[to.Cookie]; ok && e.state == to.State {
		to.Since, to.Bound, to.Earliest = e.at, event.Exact, 0
	}
}

// peers finds the other ends of some sockets among all.
func (e *Engine) peers(all *whole, ours func(*event.Socket) bool) map[event.Cookie]record.Peer {
	var at []int
	var our, other event.Socket
	for i := range all.Len() {
		if all.Socket(i, &our); our.Cookie != 0 && !our.Subflow && ours(&our) {
			at = append(at, i)
		}
	}
	peers := make(map[event.Cookie]record.Peer, len(at))
	if len(at) == 0 {
		return peers
	}
	facts, index := record.Facts{Boot: e.owners.Boot()}, owner.NewIndex(all.Holders)
	names := map[uint32]netns.Name{}
	for i, p := range owner.Pairs(all, at) {
		all.Socket(at[i], &our)
		switch {
		case p.By != "":
			all.Socket(p.Other, &other)
			c := index.Case(&other, all.HoldersKnown)
			diagnosis.Explain(&c, 0)
			peer := record.PeerOf(&c, string(p.By), &facts)
			if c.Flow.Netns != our.Flow.Netns {
				peer.NetnsName = e.spaceName(names, c.Flow.Netns)
			}
			peers[our.Cookie] = peer
		case p.Gone && all.ReadNetns[our.Flow.Netns]:
			peers[our.Cookie] = record.Peer{Gone: true}
		}
	}
	return peers
}

// spaceName is what a namespace is called; names are read when the first is asked for.
func (e *Engine) spaceName(names map[uint32]netns.Name, inode uint32) string {
	if len(names) == 0 {
		maps.Copy(names, netns.Names(e.cfg.Proc, e.names.hostPids))
	}
	return record.Escape(names[inode].Text)
}

// pair finds the other ends of the sockets that a judgement is about, and tells what follows
// from something else as part of that.
func (w *watcher) pair(ctx context.Context, d *Diagnosed) error {
	judged := map[event.Cookie]bool{}
	for c := range d.Waits() {
		if c.State == event.CloseWait && c.Cookie != 0 {
			judged[c.Cookie] = true
		}
	}
	if len(judged) > 0 {
		all, err := w.engine.everything(ctx, w.Tracer, w.query.Filter.Kernel())
		if err != nil {
			return err
		}
		w.engine.join(all, d, func(s *event.Socket) bool { return judged[s.Cookie] }, 0)
	}
	a := w.engine.access(&d.Facts, d.Waits())
	for i := range d.Processes {
		d.Processes[i].SetCommands(a)
	}
	return nil
}

// join adds the other ends to a judgement: of the sockets judged, and of those that the
// processes judged (and one more, 0 for none) have ended and wait for the end of.
func (e *Engine) join(all *whole, d *Diagnosed, judged func(*event.Socket) bool, also uint32) {
	suspects := map[uint32]bool{also: also != 0}
	for i := range d.Processes {
		suspects[d.Processes[i].Task.Pid] = d.Processes[i].Task.Known()
	}
	awaiting := awaitingEnd(all.Snapshot, suspects)
	d.Facts.Peers = e.peers(all, func(s *event.Socket) bool { return judged(s) || awaiting[s.Cookie] != nil })
	d.Facts.Awaits = map[uint32][]record.Ends{}
	var passed []diagnosis.PassedEnd
	var s event.Socket
	for i := range all.Len() {
		all.Socket(i, &s)
		for _, pid := range awaiting[s.Cookie] {
			p := d.Facts.Peers[s.Cookie]
			d.Facts.Awaits[pid] = record.AddEnd(d.Facts.Awaits[pid], &p, s.Flow.Netns)
			if p.State == event.CloseWait.String() && s.Bound == event.Exact && p.Pid != 0 && p.Pid != pid {
				passed = append(passed, diagnosis.PassedEnd{By: pid, At: s.Since, To: p.Pid})
			}
		}
	}
	d.Follow(passed)
}

// awaitingEnd are the sockets in FIN_WAIT2 that one of the processes holds, with those that
// do: it has ended its side and waits for the other's end.
func awaitingEnd(snap *event.Snapshot, pids map[uint32]bool) map[event.Cookie][]uint32 {
	all := map[event.Cookie][]uint32{}
	for i := range snap.Holders {
		h := &snap.Holders[i]
		if h.State == event.FinWait2 && h.Cookie != 0 && pids[h.Pid] && !slices.Contains(all[h.Cookie], h.Pid) {
			all[h.Cookie] = append(all[h.Cookie], h.Pid)
		}
	}
	return all
}
