package tracer

import (
	"context"
	"errors"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// lookAgain settles what the passes seem to contradict each other in: a socket that has an
// inode and was met at no process. Most were closed, or passed on, between the pass over the
// sockets and that over the descriptors. What is gone by now is left out; what is still there
// has the holders of both passes.
func (t *Tracer) lookAgain(ctx context.Context, all *rows, snap *event.Snapshot) error {
	unheld := all.unheld()
	if len(unheld) == 0 {
		return nil
	}
	var second rows
	scratch := &event.Snapshot{ReadNetns: map[uint32]bool{}, UnreadNetns: map[uint32]string{}}
	if err := errors.Join(t.readSockets(ctx, &second, scratch), t.forgetQueued(), t.readHolders(ctx, &second, scratch)); err != nil {
		return err
	}
	now := map[event.Cookie]*event.Socket{}
	for i := range second.sockets {
		if s := &second.sockets[i]; unheld[s.Cookie] {
			now[s.Cookie] = s
		}
	}
	all.settle(unheld, now, snap.ReadNetns)
	for i := range second.holders {
		if h := second.holders[i]; unheld[h.Cookie] {
			all.holders = append(all.holders, h)
		}
	}
	all.sortHolders()
	return nil
}

// unheld are the sockets that should have a descriptor and were met at no process.
func (r *rows) unheld() map[event.Cookie]bool {
	unheld := map[event.Cookie]bool{}
	for i := range r.sockets {
		if s := &r.sockets[i]; s.Inode != 0 && s.Cookie != 0 && !s.Kernel && !s.Subflow {
			unheld[s.Cookie] = true
		}
	}
	for i := range r.holders {
		delete(unheld, r.holders[i].Cookie)
	}
	return unheld
}

// settle drops the unheld sockets that are gone, or in another state, by now, and renews the
// others.
func (r *rows) settle(unheld map[event.Cookie]bool, now map[event.Cookie]*event.Socket, read map[uint32]bool) {
	kept := r.sockets[:0]
	for i := range r.sockets {
		s := &r.sockets[i]
		if unheld[s.Cookie] && read[s.Flow.Netns] {
			again := now[s.Cookie]
			if again == nil || again.State != s.State {
				continue
			}
			s = again
		}
		kept = append(kept, *s)
	}
	r.sockets = kept
}
