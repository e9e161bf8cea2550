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
	// Nested transitions came in the middle of another on the same CPU; they are
	// among Made. Recursion: runs of our programs that the kernel refused and nothing
	// made up for.
	Nested, Recursion uint64
}

// Loss is the part of Stats that users are told of.
func (s Stats) Loss() event.Loss {
	return event.Loss{Lost: s.Lost, Dropped: s.Dropped, Missed: s.RecordFailed + s.Recursion}
}

// Stats reads the kernel's counters.
func (t *Tracer) Stats() (Stats, error) {
	s := Stats{Received: t.received.Load(), Dropped: t.dropped.Load()}
	for counter, to := range map[bpfCounter]*uint64{
		bpfCounterCOUNTER_MADE:          &s.Made,
		bpfCounterCOUNTER_LOST:          &s.Lost,
		bpfCounterCOUNTER_FILTERED:      &s.Filtered,
		bpfCounterCOUNTER_RECORD_FAILED: &s.RecordFailed,
		bpfCounterCOUNTER_NESTED:        &s.Nested,
	} {
		var perCPU []uint64
		if err := t.maps.Maps["counters"].Lookup(uint32(counter), &perCPU); err != nil {
			return s, fmt.Errorf("read counter %d: %w", counter, err)
		}
		for _, n := range perCPU {
			*to += n
		}
	}
	s.Recursion = t.refused() - min(t.refused(), s.Nested)
	return s, nil
}

// refused counts the runs of our programs that the kernel skipped because the
// program was running on that CPU. Kernels before 5.12 do not count.
func (t *Tracer) refused() uint64 {
	var n uint64
	for _, coll := range t.progs {
		for _, prog := range coll.Programs {
			if st, err := prog.Stats(); err == nil {
				n += st.RecursionMisses
			}
		}
	}
	return n
}

// Loss returns what did not reach the reader so far.
func (t *Tracer) Loss() (event.Loss, error) {
	s, err := t.Stats()
	return s.Loss(), err
}
