package record

import "github.com/tcpwaitd/tcpwaitd/internal/event"

// LossCounts are the monotonic totals inside other records.
type LossCounts struct {
	Lost    uint64 `json:"lost"`
	Dropped uint64 `json:"dropped"`
	Evicted uint64 `json:"evicted"`
	Missed  uint64 `json:"missed"`
}

// Loss is put into a stream when a total has changed.
type Loss struct {
	Head
	Time Time `json:"time"`
	LossCounts
}

// LossOf converts the totals.
func LossOf(l event.Loss) LossCounts {
	return LossCounts{Lost: l.Lost, Dropped: l.Dropped, Evicted: l.Evicted, Missed: l.Missed}
}

// Any reports whether anything was lost at all.
func (l LossCounts) Any() bool { return l != LossCounts{} }

// FromLoss builds the record of a stream.
func FromLoss(l event.Loss, at Time) Loss {
	return Loss{Head: head(KindLoss), Time: at, LossCounts: LossOf(l)}
}
