package record

import (
	"maps"
	"slices"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// List is one look at the sockets. Its sockets have no schema of their own. Writers
// stream it socket by socket; the type is for readers.
type List struct {
	Head
	Time    Time       `json:"time"`
	Sockets []Socket   `json:"sockets"`
	Loss    LossCounts `json:"loss"`
	// UnreadNetns are namespaces that could not be read, with the reason: their
	// sockets are missing.
	UnreadNetns []UnreadNetns `json:"unread_netns,omitempty"`
}

// UnreadNetns is a network namespace that exists but could not be read.
type UnreadNetns struct {
	Netns  uint32 `json:"netns"`
	Reason string `json:"reason"`
}

// NewList builds the record without its sockets.
func NewList(at Time, loss event.Loss, unread map[uint32]string) List {
	return List{
		Head: head(KindList), Time: at, Sockets: []Socket{}, Loss: LossOf(loss),
		UnreadNetns: UnreadOf(unread),
	}
}

// UnreadOf lists the namespaces in order.
func UnreadOf(unread map[uint32]string) []UnreadNetns {
	var list []UnreadNetns
	for _, ns := range slices.Sorted(maps.Keys(unread)) {
		list = append(list, UnreadNetns{Netns: ns, Reason: unread[ns]})
	}
	return list
}
