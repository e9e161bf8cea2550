package record

import (
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
	Sockets     []Socket      `json:"sockets"`
	Notes       []string      `json:"notes,omitempty"`
	Loss        LossCounts    `json:"loss"`
	UnreadNetns []UnreadNetns `json:"unread_netns,omitempty"`
}

// NewExplanation builds the record without notes and losses.
func NewExplanation(p *diagnosis.Process, cases []*diagnosis.Case, states StateCounts, f *Facts, observed, threshold time.Duration) Explanation {
	r := Explanation{
		Head: head(KindExplain), Time: Time{f.Clock.Wall.UTC()}, ObservedNS: int64(observed), ThresholdNS: int64(threshold),
		Process: suspectOf(p, f), States: states, Sockets: make([]Socket, 0, len(cases)),
	}
	for _, c := range cases {
		s := FromCase(c, f)
		s.Schema = ""
		r.Sockets = append(r.Sockets, s)
	}
	return r
}
