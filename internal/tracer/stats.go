package tracer

import (
	"fmt"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Stats are monotonic totals since Open. After a Drain with nothing happening,
// Made = Received + Dropped + Lost.
type Stats struct {
	// Made are transitions that passed the kernel's filter, Filtered those that did
	// not.
	Made, Filtered uint64
	// Received were handed to emit, Dropped could not be decoded.
	Received, Dropped uint64
	// Lost: the ring was full.
	Lost uint64
	// RecordFailed: the kernel had no memory for a socket's record.
	RecordFailed uint64
	// The kernel runs no program twice at a time on a CPU. Nested are transitions that
	// came in the middle of another and were made up for; they are among Made. Refused
	// are those that nothing made up for. RefusedOthers are refused runs of other
	// programs: evidence of an owner or of EOF that is missing.
	Nested, Refused, RefusedOthers uint64
	// Stacks were taken. Not taken were those beyond a process's share (StacksLimited)
	// and those in the middle of another (StacksBusy). StacksLost were taken, but their
	// frames did not arrive.
	Stacks, StacksLimited, StacksBusy, StacksLost uint64
	// RelativesLost are processes that Family does not name, for want of room.
	RelativesLost uint64
}

// Loss is the part of Stats that users are told of.
func (s Stats) Loss() event.Loss {
	return event.Loss{Lost: s.Lost, Dropped: s.Dropped, Missed: s.RecordFailed + s.Refused + s.RelativesLost}
}

// Stats reads the kernel's counters.
func (t *Tracer) Stats() (Stats, error) {
	s := Stats{Received: t.received.Load(), Dropped: t.dropped.Load()}
	for counter, to := range map[bpfCounter]*uint64{
		bpfCounterCOUNTER_MADE:           &s.Made,
		bpfCounterCOUNTER_LOST:           &s.Lost,
		bpfCounterCOUNTER_FILTERED:       &s.Filtered,
		bpfCounterCOUNTER_RECORD_FAILED:  &s.RecordFailed,
		bpfCounterCOUNTER_NESTED:         &s.Nested,
		bpfCounterCOUNTER_STACKS:         &s.Stacks,
		bpfCounterCOUNTER_STACKS_LIMITED: &s.StacksLimited,
		bpfCounterCOUNTER_STACKS_BUSY:    &s.StacksBusy,
		bpfCounterCOUNTER_STACKS_LOST:    &s.StacksLost,
		bpfCounterCOUNTER_RELATIVES_LOST: &s.RelativesLost,
	} {
		var perCPU []uint64
		if err := t.maps.Maps["counters"].Lookup(uint32(counter), &perCPU); err != nil {
			return s, fmt.Errorf("read counter %d: %w", counter, err)
		}
		for _, n := range perCPU {
			*to += n
		}
	}
	if err := t.countedHere(&s); err != nil {
		return s, err
	}
	s.StacksLost += t.stacksDropped.Load()
	for _, coll := range t.progs {
		for name, prog := range coll.Programs {
			// Kernels before 5.12 do not count.
			if st, err := prog.Stats(); err == nil && name == "state" {
				s.Refused += st.RecursionMisses
			} else if err == nil {
				s.RefusedOthers += st.RecursionMisses
			}
		}
	}
	s.Refused -= min(s.Refused, s.Nested)
	return s, nil
}

// Loss returns what did not reach the reader so far.
func (t *Tracer) Loss() (event.Loss, error) {
	s, err := t.Stats()
	return s.Loss(), err
}

// countedHere adds what the state program counted, which a tracer for snapshots has not.
func (t *Tracer) countedHere(s *Stats) error {
	latest := t.maps.Maps["latest"]
	if latest == nil {
		return nil
	}
	var here []bpfHandled
	if err := latest.Lookup(uint32(0), &here); err != nil {
		return fmt.Errorf("read counters of the state program: %w", err)
	}
	for i := range here {
		s.Made += here[i].Made
		s.Filtered += here[i].Filtered
	}
	return nil
}
