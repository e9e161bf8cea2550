package record

import (
	"cmp"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
)

// Explanation is everything known of one process.
type Explanation struct {
	Head
	Time        Time  `json:"time"`
	ObservedNS  int64 `json:"observed_ns"`
	ThresholdNS int64 `json:"threshold_ns"`
	// Process is judged as in a diagnosis.
	Process Suspect `json:"process"`
	// States counts its sockets in every state.
	States StateCounts `json:"states"`
	// Sockets are those in CLOSE_WAIT, and closed ones it still holds, the oldest first.
	Sockets []Socket `json:"sockets"`
	// Shared are the other processes that hold some of these sockets.
	Shared []Shared `json:"shared"`
	// Timeline and Endings are those of the oldest socket.
	Timeline []Step   `json:"timeline"`
	Endings  []string `json:"endings"`
	// Commands and Advice are those of the process, and of the oldest socket if it is clean.
	Commands    []string      `json:"commands"`
	Advice      []string      `json:"advice"`
	Notes       []string      `json:"notes,omitempty"`
	Loss        LossCounts    `json:"loss"`
	UnreadNetns []UnreadNetns `json:"unread_netns,omitempty"`
}

// Shared is a process that holds N of another one's sockets.
type Shared struct {
	Pid  uint32 `json:"pid"`
	Comm string `json:"comm"`
	N    int    `json:"n"`
}

// NewExplanation builds the record without notes and losses.
func NewExplanation(p *diagnosis.Process, cases []*diagnosis.Case, states StateCounts, f *Facts, a diagnosis.Access, observed, threshold time.Duration) Explanation {
	r := Explanation{
		Head: head(KindExplain), Time: Time{f.Clock.Wall.UTC()}, ObservedNS: int64(observed), ThresholdNS: int64(threshold),
		Process: suspectOf(p, f), States: states, Sockets: make([]Socket, 0, len(cases)), Shared: SharedOf(cases, p.Task.Pid),
		Timeline: []Step{}, Endings: []string{},
	}
	for _, c := range cases {
		s := FromCase(c, f)
		s.Schema = ""
		r.Sockets = append(r.Sockets, s)
	}
	r.Commands, r.Advice = r.Process.Commands, r.Process.Advice
	if len(cases) == 0 {
		return r
	}
	oldest := NewSocketExplanation(cases[0], f, a)
	r.Timeline, r.Endings = oldest.Timeline, oldest.Endings
	if len(r.Commands) == 0 {
		r.Commands = oldest.Commands
	}
	if len(r.Advice) == 0 {
		r.Advice = oldest.Advice
	}
	return r
}

// SharedOf counts who else holds the sockets of a process, the most first.
func SharedOf(cases []*diagnosis.Case, pid uint32) []Shared {
	all := []Shared{}
	index := map[uint32]int{}
	for _, c := range cases {
		last := pid
		for i := range c.Holders { // sorted by pid
			h := &c.Holders[i]
			if h.Pid == pid || h.Pid == last {
				continue
			}
			last = h.Pid
			at, seen := index[h.Pid]
			if !seen {
				at = len(all)
				index[h.Pid] = at
				all = append(all, Shared{Pid: h.Pid, Comm: Escape(h.Comm.String())})
			}
			all[at].N++
		}
	}
	slices.SortFunc(all, func(a, b Shared) int { return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Pid, b.Pid)) })
	return all
}

// SocketExplanation is everything known of one socket.
type SocketExplanation struct {
	Socket
	Timeline []Step   `json:"timeline"`
	Endings  []string `json:"endings"`
	Commands []string `json:"commands"`
	Advice   []string `json:"advice"`
	Notes    []string `json:"notes,omitempty"`
}

// NewSocketExplanation builds the record.
func NewSocketExplanation(c *diagnosis.Case, f *Facts, a diagnosis.Access) SocketExplanation {
	other := otherEnd(f, c.Cookie)
	return SocketExplanation{
		Socket: FromCase(c, f), Timeline: Timeline(c, f), Endings: orEmpty(diagnosis.Endings(c, other)),
		Commands: orEmpty(diagnosis.SocketCommands(c, other, a)), Advice: orEmpty(diagnosis.SocketAdvice(c)),
	}
}
