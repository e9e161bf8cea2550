package record

import (
	"cmp"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Group is sockets of one process that wait for the same reason at the same place.
type Group struct {
	Cause     Word `json:"cause"`
	Direction Word `json:"direction"`
	// Lport is set for accepted, Rport for connected sockets.
	Lport       uint16 `json:"lport,omitzero"`
	Rport       uint16 `json:"rport,omitzero"`
	N           int    `json:"n"`
	Stuck       int    `json:"stuck"`
	OldestNS    *int64 `json:"oldest_ns,omitempty"`
	OldestBound Word   `json:"oldest_bound"`
	// Ends are the other ends that are on this host.
	Ends []Ends `json:"ends,omitempty" csv:"-"`
	// StackKind says at which moment the stack was taken: open, last_read, eof or close.
	StackKind string  `json:"stack_kind,omitempty"`
	Frames    []Frame `json:"frames,omitempty"`
	Quality   string  `json:"quality,omitempty"`
	Reason    string  `json:"reason,omitempty"`
}

func groupOf(g *diagnosis.Group, f *Facts) Group {
	r := Group{
		Cause: Word(g.Cause), Direction: Word(g.Site.Direction.String()), N: g.N, Stuck: g.Stuck,
		OldestNS: boundNS(int64(g.Oldest), g.OldestBound), OldestBound: Word(g.OldestBound.String()),
		Ends: endsOf(g.Cases, f),
	}
	if g.Site.Direction == event.Out {
		r.Rport = g.Site.Port
	} else {
		r.Lport = g.Site.Port
	}
	if kind, st := f.Stacks[g.OldestCookie].Telling(r.Cause); st != nil {
		r.StackKind, r.Frames, r.Quality, r.Reason = kind, st.Frames, st.Quality, st.Reason
	}
	return r
}

// groupsOf builds the groups, the biggest first. Stacks that differ only in what nobody
// can see (addresses inside the same functions, compiled and interpreted code) make
// one group.
func groupsOf(groups []diagnosis.Group, f *Facts) []Group {
	all := make([]Group, 0, len(groups))
	index := make(map[string]int, len(groups))
	var key []byte
	for i := range groups {
		g := groupOf(&groups[i], f)
		key = g.appendKey(key[:0])
		at, seen := index[string(key)]
		if !seen {
			index[string(key)] = len(all)
			all = append(all, g)
			continue
		}
		all[at].merge(&g)
	}
	slices.SortStableFunc(all, func(a, b Group) int { return cmp.Compare(b.N, a.N) })
	return all
}

func (g *Group) appendKey(dst []byte) []byte {
	for _, word := range []string{string(g.Cause), string(g.Direction), g.StackKind, g.Quality, g.Reason} {
		dst = append(append(dst, word...), 0)
	}
	dst = append(dst, byte(g.Lport>>8), byte(g.Lport), byte(g.Rport>>8), byte(g.Rport))
	return appendPlace(dst, g.Frames)
}

func (g *Group) merge(o *Group) {
	g.N += o.N
	g.Stuck += o.Stuck
	for i := range o.Ends {
		g.Ends = addEnds(g.Ends, &o.Ends[i])
	}
	if o.OldestNS != nil && (g.OldestNS == nil || *o.OldestNS > *g.OldestNS) {
		g.OldestNS, g.OldestBound = o.OldestNS, o.OldestBound
	}
}

// SocketGroup is a group of a list.
type SocketGroup struct {
	Pid   uint32 `json:"pid,omitzero"`
	Comm  string `json:"comm,omitempty"`
	State string `json:"state"`
	Group
}

// Groups is one look at the sockets, put together by process, state, cause, site and
// stack.
type Groups struct {
	Head
	Time Time `json:"time"`
	// Sockets is how many there are in all groups.
	Sockets     int           `json:"sockets"`
	ThresholdNS int64         `json:"threshold_ns"`
	Groups      []SocketGroup `json:"groups"`
	Loss        LossCounts    `json:"loss"`
	UnreadNetns []UnreadNetns `json:"unread_netns,omitempty"`
}

// NewGroups groups cases that are explained, the biggest group first.
func NewGroups(cases []diagnosis.Case, threshold time.Duration, f *Facts, loss event.Loss, unread map[uint32]string) Groups {
	type owned struct {
		pid   uint32
		ticks uint64
		state event.State
	}
	index := make(map[owned][]*diagnosis.Case)
	for i := range cases {
		c := &cases[i]
		key := owned{c.Blamed.Pid, c.Blamed.Start.Ticks(), c.State}
		index[key] = append(index[key], c)
	}
	r := Groups{
		Head: head(KindGroups), Time: Time{f.Clock.Wall.UTC()}, Sockets: len(cases), ThresholdNS: int64(threshold),
		Groups: []SocketGroup{}, Loss: LossOf(loss), UnreadNetns: UnreadOf(unread),
	}
	for key, of := range index {
		slices.SortFunc(of, func(a, b *diagnosis.Case) int { return cmp.Compare(a.Cookie, b.Cookie) })
		who := taskOf(&of[0].Blamed)
		for _, g := range groupsOf(diagnosis.Groups(of, threshold), f) {
			r.Groups = append(r.Groups, SocketGroup{Pid: who.Pid, Comm: who.Comm, State: key.state.String(), Group: g})
		}
	}
	slices.SortFunc(r.Groups, biggestFirst)
	return r
}

// biggestFirst is a whole order, for the groups come out of a map.
func biggestFirst(a, b SocketGroup) int {
	return cmp.Or(
		cmp.Compare(b.N, a.N), cmp.Compare(a.Pid, b.Pid), cmp.Compare(a.Comm, b.Comm), cmp.Compare(a.State, b.State),
		cmp.Compare(string(a.appendKey(nil)), string(b.appendKey(nil))),
	)
}
