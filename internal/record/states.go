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
	// Established is absent where a filter chose only some of the sockets.
	Established *Established `json:"established,omitempty"`
	// By is present when a grouping was asked for.
	By []StatesGroup `json:"by,omitempty"`
	// ObservedNS, Dwell and Left are present when it was asked how long sockets stand in
	// their states; Left and Loss are of the time watched.
	ObservedNS  *int64        `json:"observed_ns,omitempty"`
	Dwell       []Dwell       `json:"dwell,omitempty"`
	Left        []Left        `json:"left,omitempty"`
	Loss        *LossCounts   `json:"loss,omitempty"`
	UnreadNetns []UnreadNetns `json:"unread_netns,omitempty"`
}

// Established is what the kernel counts as established (CurrEstab, which ss -s shows).
type Established struct {
	CurrEstab uint64 `json:"curr_estab"`
	// CloseWait is how many of them are in CLOSE_WAIT: none on kernels that do not count
	// these as established (before 6.10, if it was not fixed there), null where that cannot
	// be told.
	CloseWait *uint64 `json:"close_wait"`
	// Netns are the namespaces that have any of them, the most first.
	Netns []NetnsEstablished `json:"netns"`
}

// NetnsEstablished is Established for one namespace, which is all that ss -s sees.
type NetnsEstablished struct {
	Netns     uint32  `json:"netns"`
	NetnsName string  `json:"netns_name,omitempty"`
	CurrEstab uint64  `json:"curr_estab"`
	CloseWait *uint64 `json:"close_wait"`
}

// StatesGroup is one group. Only the key that was asked for is present, and not even
// that for the sockets it is not known of.
type StatesGroup struct {
	Pid       uint32 `json:"pid,omitzero"`
	Comm      string `json:"comm,omitempty"`
	Container string `json:"container,omitempty"`
	// Names of the container, where its runtime tells them.
	Names
	Netns     uint32 `json:"netns,omitzero"`
	NetnsName string `json:"netns_name,omitempty"`
	// Unknown: it is not known to whom the sockets belong. A group by container that has
	// neither this nor a container is of processes in none.
	Unknown bool        `json:"unknown,omitempty"`
	Total   uint64      `json:"total"`
	States  StateCounts `json:"states"`
}

// Dwell is how long sockets have stood in a state that they pass through or must not stay in.
type Dwell struct {
	State string `json:"state"`
	// Orphaned tells sockets that no program has any more from those that one has, in the
	// states where both kinds are; absent in the others.
	Orphaned *bool  `json:"orphaned,omitempty"`
	Sockets  uint64 `json:"sockets"`
	// OldestNS is the longest time in the state that is known of one of them.
	OldestNS    *int64 `json:"oldest_ns,omitempty"`
	OldestBound Word   `json:"oldest_bound"`
	// LimitNS is when the kernel ends it by itself, by the setting LimitBy; absent where it
	// does not. LimitMaxNS is there where namespaces differ.
	LimitNS    *int64 `json:"limit_ns,omitempty"`
	LimitMaxNS *int64 `json:"limit_max_ns,omitempty"`
	LimitBy    string `json:"limit_by,omitempty"`
	// OverLimit have stood longer for certain.
	OverLimit uint64 `json:"over_limit"`
	// Meaning is present where there are sockets.
	Meaning string `json:"meaning,omitempty" csv:"-"`
}

// Left are the sockets that left a state while it was watched, and the times that they had been
// in it. A mini-socket leaves its state unseen.
type Left struct {
	State string `json:"state"`
	N     uint64 `json:"n"`
	// AtLeast of them had been there before the watching began: their times are lower bounds.
	AtLeast  uint64 `json:"at_least"`
	MedianNS int64  `json:"median_ns"`
	P99NS    int64  `json:"p99_ns"`
	MaxNS    int64  `json:"max_ns"`
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
