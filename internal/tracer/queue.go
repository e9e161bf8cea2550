package tracer

import (
	"fmt"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// ownID is OWN_ID of bpf/record.h.
const ownID = 1 << 52

// forgetQueued empties the map of children and their listeners: an address is used again.
func (t *Tracer) forgetQueued() error {
	var some uint8
	if err := t.maps.Variables["snapshot_queued"].Get(&some); err != nil {
		return fmt.Errorf("read snapshot_queued: %w", err)
	}
	if some == 0 {
		return nil
	}
	var children []uint64
	var child, listener uint64
	m := t.maps.Maps["queued"]
	it := m.Iterate()
	for it.Next(&child, &listener) {
		children = append(children, child)
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read accept queues: %w", err)
	}
	if len(children) > 0 {
		if _, err := m.BatchDelete(children, nil); err != nil {
			return fmt.Errorf("forget accept queues: %w", err)
		}
	}
	return t.set("snapshot_queued", flag(false))
}

// nameListeners puts cookies where the kernel side knew only the inode: of an MPTCP
// listener, whose queue belongs to the TCP socket behind it.
func (r *rows) nameListeners() {
	var cookies map[uint64]event.Cookie
	for i := range r.sockets.more.n {
		more := r.sockets.more.at(i)
		if more.Listener < ownID {
			continue
		}
		if cookies == nil {
			cookies = r.listeners()
		}
		more.Listener = uint64(cookies[more.Listener&^ownID])
	}
}

// listeners are the cookies of all listening sockets that somebody holds, by inode.
func (r *rows) listeners() map[uint64]event.Cookie {
	cookies := map[uint64]event.Cookie{}
	for i := range r.held {
		if h := &r.held[i]; h.listening != 0 {
			cookies[r.listening[h.listening-1].Inode] = h.cookie
		}
	}
	return cookies
}
