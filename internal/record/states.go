package record

import (
	"strconv"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// StateCounts is a number of sockets for each state; index it by event.State.
type StateCounts [16]uint64

// Total is the sum over all states.
func (c *StateCounts) Total() uint64 {
	var n uint64
	for _, v := range c {
		n += v
	}
	return n
}

// MarshalJSON writes every state by name in the kernel's order, zeros included.
func (c StateCounts) MarshalJSON() ([]byte, error) {
	dst := []byte{'{'}
	for i, s := range event.States() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, s.String())
		dst = append(dst, ':')
		dst = strconv.AppendUint(dst, c[s], 10)
	}
	return append(dst, '}'), nil
}

// States counts the sockets of all network namespaces by state.
type States struct {
	Head
	Time   Time        `json:"time"`
	Total  uint64      `json:"total"`
	States StateCounts `json:"states"`
	// By is present when a grouping was asked for.
	By          []StatesGroup `json:"by,omitempty"`
	UnreadNetns []UnreadNetns `json:"unread_netns,omitempty"`
}

// StatesGroup is one group. Only the key that was asked for is present, and not even
// that for the sockets it is not known of.
type StatesGroup struct {
	Pid       uint32      `json:"pid,omitzero"`
	Comm      string      `json:"comm,omitempty"`
	Container string      `json:"container,omitempty"`
	Netns     uint32      `json:"netns,omitzero"`
	Total     uint64      `json:"total"`
	States    StateCounts `json:"states"`
}

// NewStates builds the record. Build names in groups with Escape.
func NewStates(at Time, counts StateCounts, by []StatesGroup, unread map[uint32]string) States {
	for i := range by {
		by[i].Total = by[i].States.Total()
	}
	return States{
		Head: head(KindStates), Time: at, Total: counts.Total(), States: counts,
		By: by, UnreadNetns: UnreadOf(unread),
	}
}
