package pipeline

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// dwellOf says of each state that sockets pass through how long they stand in it. wanted are
// the states chosen, 0 for all.
func dwellOf(cases []diagnosis.Case, wanted event.StateSet, spaces map[uint32]stateSpace) []record.Dwell {
	var rows []*standing
	index := map[standing]*standing{}
	for _, s := range diagnosis.Passing() {
		if wanted != 0 && !wanted.Has(s) {
			continue
		}
		for _, orphaned := range []bool{false, true} {
			if orphaned && !diagnosis.CanBeOrphaned(s) {
				continue
			}
			row := &standing{state: s, orphaned: orphaned}
			index[*row] = row
			rows = append(rows, row)
		}
	}
	for i := range cases {
		c := &cases[i]
		row := index[standing{state: c.State, orphaned: diagnosis.CanBeOrphaned(c.State) && orphaned(c)}]
		if row != nil {
			row.add(c, spaces[c.Flow.Netns].patience)
		}
	}
	all := make([]record.Dwell, 0, len(rows))
	for _, row := range rows {
		all = append(all, row.record(spaces))
	}
	return all
}

// orphaned: the last descriptor is closed. A subflow has none of its own.
func orphaned(c *diagnosis.Case) bool {
	if c.Subflow {
		return c.HoldersKnown && c.Parent != 0 && len(c.Holders) == 0
	}
	return c.Inode == 0
}

// standing is one row in the making.
type standing struct {
	state       event.State
	orphaned    bool
	sockets     uint64
	over        uint64
	oldest      time.Duration
	bound       event.Bound
	least, most time.Duration
	by          string
}

func (r *standing) add(c *diagnosis.Case, p *diagnosis.Patience) {
	r.sockets++
	if c.Bound != event.BoundUnknown {
		if d := c.Dwell(); r.bound == event.BoundUnknown || d > r.oldest || d == r.oldest && c.Bound == event.Exact {
			r.oldest, r.bound = d, c.Bound
		}
	}
	if p == nil {
		return
	}
	limit, by := p.Limit(r.state, r.orphaned)
	r.limit(limit, by)
	// Timers come late, never early.
	if limit > 0 && c.Bound != event.BoundUnknown && c.Dwell() > limit+timersLate(limit) {
		r.over++
	}
}

// timersLate is what a kernel timer may be late: it is kept in levels that get coarser with
// the time (an eighth at most, kernel/time/timer.c), and starts on a tick.
func timersLate(d time.Duration) time.Duration { return d/8 + 100*time.Millisecond }

func (r *standing) limit(limit time.Duration, by string) {
	if limit == 0 {
		return
	}
	if r.by == "" {
		r.least = limit
	}
	r.least, r.most, r.by = min(r.least, limit), max(r.most, limit), by
}

// record: where there are no sockets, the limits are those of all namespaces.
func (r *standing) record(spaces map[uint32]stateSpace) record.Dwell {
	if r.sockets == 0 {
		for _, s := range spaces {
			if s.patience != nil {
				r.limit(s.patience.Limit(r.state, r.orphaned))
			}
		}
	}
	d := record.Dwell{
		State: r.state.String(), Sockets: r.sockets, OldestBound: record.Word(r.bound.String()),
		LimitBy: r.by, OverLimit: r.over,
	}
	if diagnosis.CanBeOrphaned(r.state) {
		d.Orphaned = &r.orphaned
	}
	if r.bound != event.BoundUnknown {
		d.OldestNS = new(int64(r.oldest))
	}
	if r.by != "" {
		d.LimitNS = new(int64(r.least))
	}
	if r.most > r.least {
		d.LimitMaxNS = new(int64(r.most))
	}
	if r.sockets > 0 {
		d.Meaning = diagnosis.Meaning(r.state, r.orphaned)
	}
	return d
}

// departures are the sockets that leave their states while it is watched. Not followed are
// SYN_RECV and TIME_WAIT, which mini-sockets leave unseen, and CLOSE, in which new sockets are.
type departures struct {
	query *StatesQuery
	from  [len(record.StateCounts{})]left
}

// maxTimes is how many times are kept of each state: of more, a fair sample.
const maxTimes = 1 << 16

// left is one state's.
type left struct {
	n, atLeast uint64
	most       time.Duration
	times      []time.Duration
}

func (d *departures) watch(ctx context.Context, t *tracer.Tracer) error {
	ctx, cancel := context.WithTimeout(ctx, d.query.For)
	defer cancel()
	if err := t.Run(ctx, d.transition, nil); err != nil {
		return err
	}
	return t.Drain(d.transition)
}

func (d *departures) transition(t *event.Transition) error {
	// The transition to TIME_WAIT comes beside the one that ends the socket.
	if !d.query.ByFlow || t.New == event.TimeWait || t.InBound == event.BoundUnknown || t.Flow.Protocol == event.MPTCP {
		return nil
	}
	// The filter takes a transition that merely leads to a chosen state, too.
	if states := d.query.Filter.States(); states != 0 && !states.Has(t.Old) {
		return nil
	}
	if followed.Has(t.Old) && d.query.Filter.MatchTransition(t, record.Cgroup{}) {
		d.from[t.Old].add(t)
	}
	return nil
}

var followed = event.SetOf(event.SynSent, event.FinWait1, event.FinWait2, event.CloseWait, event.LastAck, event.Closing)

func (l *left) add(t *event.Transition) {
	l.n++
	if t.InBound == event.AtLeast {
		l.atLeast++
	}
	l.most = max(l.most, t.InState)
	if len(l.times) < maxTimes {
		l.times = append(l.times, t.InState)
		return
	}
	if at := rand.Uint64N(l.n); at < maxTimes {
		l.times[at] = t.InState
	}
}

func (d *departures) record() []record.Left {
	all := []record.Left{}
	for _, s := range diagnosis.Passing() {
		l := &d.from[s]
		if l.n == 0 {
			continue
		}
		slices.Sort(l.times)
		// The smallest time that so many percent do not exceed.
		percentile := func(p int) int64 { return int64(l.times[(len(l.times)*p+99)/100-1]) }
		all = append(all, record.Left{
			State: s.String(), N: l.n, AtLeast: l.atLeast,
			MedianNS: percentile(50), P99NS: percentile(99), MaxNS: int64(l.most),
		})
	}
	return all
}
