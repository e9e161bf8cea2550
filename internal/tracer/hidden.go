package tracer

import (
	"github.com/cilium/ebpf/btf"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// passHides: before Linux 6.17 a pass over the tables of a namespace in which nobody listens leaves
// out the first bucket of the connections, because tcp_seek_last_pos goes on from the listeners
// with an offset below zero. The type came with the iterator that does not.
func passHides(types *btf.Spec) bool {
	var since *btf.Union
	return types.TypeByName("bpf_tcp_iter_batch_item", &since) != nil
}

// hidden are the sockets, in a state that is wanted, that were met at a process and can have been
// left out by the pass over the tables.
func (t *Tracer) hidden(states event.StateSet, all *rows, snap *event.Snapshot) map[event.Cookie]bool {
	if !t.hides {
		return nil
	}
	quiet := all.quiet(snap.ReadNetns)
	if len(quiet) == 0 {
		return nil
	}
	hidden := map[event.Cookie]bool{}
	for i := range all.held {
		if h := &all.held[i]; quiet[h.task] && states.Has(h.state) {
			hidden[h.cookie] = true
		}
	}
	for i := range all.sockets.n {
		delete(hidden, event.Cookie(all.sockets.at(i).Cookie))
	}
	return hidden
}

// quiet are the tasks that hold sockets of a namespace that was read and in which nobody listens.
func (r *rows) quiet(read map[uint32]bool) map[uint32]bool {
	listens := map[uint32]bool{}
	for i := range r.listening {
		listens[r.listening[i].Flow.Netns] = true
	}
	quiet := map[uint32]bool{}
	for s := range r.spots {
		if read[s.netns] && !listens[s.netns] {
			quiet[s.task] = true
		}
	}
	return quiet
}
