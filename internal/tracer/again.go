package tracer

import (
	"context"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// lookAgain settles what the passes seem to contradict each other in: a socket that has an
// inode and was met at no process. Most were closed, or passed on, between the pass over the
// sockets and that over the descriptors. What is gone by now is left out; what is still there
// has the holders of both passes.
func (t *Tracer) lookAgain(ctx context.Context, opts SnapshotOptions, all *rows, snap *event.Snapshot) error {
	unheld := all.unheld()
	if len(unheld) == 0 {
		return nil
	}
	var second rows
	scratch := &event.Snapshot{ReadNetns: map[uint32]bool{}, UnreadNetns: map[uint32]string{}}
	if err := t.readPasses(ctx, opts, &second, scratch); err != nil {
		return err
	}
	now := map[uint64]*bpfSocketRow{}
	for i := range second.sockets.n {
		if row := second.sockets.at(i); unheld[event.Cookie(row.Cookie)] {
			now[row.Cookie] = row
		}
	}
	all.settle(unheld, now, &second.sockets, snap.ReadNetns)
	all.addHolders(&second, func(c event.Cookie) bool { return unheld[c] })
	all.sortHolders()
	return nil
}

// unheld are the sockets that should have a descriptor and were met at no process.
func (r *rows) unheld() map[event.Cookie]bool {
	unheld := map[event.Cookie]bool{}
	for i := range r.sockets.n {
		row := r.sockets.at(i)
		c := event.Cookie(row.Cookie)
		if row.Inode != 0 && c != 0 && row.Flags&(socketKernel|socketSubflow) == 0 && r.index.First(c) < 0 {
			unheld[c] = true
		}
	}
	return unheld
}

// settle drops the unheld sockets that are gone, or in another state, by now, and renews the
// others from the second pass.
func (r *rows) settle(unheld map[event.Cookie]bool, now map[uint64]*bpfSocketRow, second *socketRows, read map[uint32]bool) {
	r.sockets.keep(0, func(row *bpfSocketRow) bool {
		if !unheld[event.Cookie(row.Cookie)] || !read[row.Flow.Netns] {
			return true
		}
		again := now[row.Cookie]
		if again == nil || again.State != row.State {
			return false
		}
		r.sockets.replace(row, again, second.moreOf(again))
		return true
	})
}
