package record

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Ends are other ends of connections that are alike: N of them with the same process, in the
// same state and place.
type Ends struct {
	Pid   uint32 `json:"pid,omitzero"`
	Comm  string `json:"comm,omitempty"`
	State string `json:"state,omitempty"`
	Gone  bool   `json:"gone,omitzero"`
	// Closed: no process has a descriptor of them any more.
	Closed bool `json:"closed,omitzero"`
	// Netns is theirs if it is another than that of this end.
	Netns     uint32 `json:"netns,omitzero"`
	NetnsName string `json:"netns_name,omitempty"`
	N         int    `json:"n"`
}

// AddEnd counts the other end of one more connection, whose near end is in that namespace.
// One that is not on this host has no state.
func AddEnd(all []Ends, p *Peer, near uint32) []Ends {
	e := Ends{
		Pid: p.Pid, Comm: p.Comm, State: p.State, Gone: p.Gone, Closed: p.Holders != nil && len(p.Holders) == 0, N: 1,
	}
	if p.Netns != 0 && p.Netns != near {
		e.Netns, e.NetnsName = p.Netns, p.NetnsName
	}
	return addEnds(all, &e)
}

func addEnds(all []Ends, more *Ends) []Ends {
	for i := range all {
		same := *more
		if same.N = all[i].N; all[i] == same {
			all[i].N += more.N
			return all
		}
	}
	return append(all, *more)
}

// endsOf counts the other ends of cases that are on this host.
func endsOf(cases []*diagnosis.Case, f *Facts) []Ends {
	var all []Ends
	for _, c := range cases {
		if p, ok := f.Peers[c.Cookie]; ok {
			all = AddEnd(all, &p, c.Flow.Netns)
		}
	}
	slices.SortStableFunc(all, func(a, b Ends) int { return b.N - a.N })
	return all
}

// otherEnd is what endings ask of the peer.
func otherEnd(f *Facts, cookie event.Cookie) *diagnosis.OtherEnd {
	p, known := f.Peers[cookie]
	if !known {
		return &diagnosis.OtherEnd{}
	}
	state, _ := event.ParseState(cmp.Or(p.State, event.Close.String()))
	o := &diagnosis.OtherEnd{
		Known: true, Gone: p.Gone, State: state, Cookie: event.Cookie(p.Cookie),
		Held: len(p.Holders) > 0, HeldKnown: p.Holders != nil,
	}
	if p.Pid != 0 {
		o.Who = fmt.Sprintf("pid %d (%s)", p.Pid, p.Comm)
	}
	return o
}
