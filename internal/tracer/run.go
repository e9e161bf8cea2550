package tracer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

const (
	// pollEvery is how often the ring is looked at: the kernel does not wake the reader for a
	// single event, which would cost twenty times the event.
	pollEvery = 13 * time.Millisecond
	// After so many looks at an empty ring the reader sleeps until the kernel wakes it, but
	// for the caller's sake not longer than this at a time.
	quietLooks  = 31
	sleepAtMost = 10 * pollEvery
)

// Run hands every transition to emit, in the ring's order, until ctx ends (nil), emit or
// idle fails (their error) or Close is called (ErrClosed). idle, if not nil, is called
// whenever the ring is empty: the time to flush what emit buffered, and the one
// place from which Drain and Snapshot may be called. The event is reused after
// emit returns.
func (t *Tracer) Run(ctx context.Context, emit func(*event.Transition) error, idle func() error) error {
	if idle == nil {
		idle = func() error { return nil }
	}
	if t.reader == nil {
		return errSnapshotOnly
	}
	// With stacks there is other work to be done at once, and it would wait for another thread.
	if !t.cfg.wakes() {
		defer boost()()
	}
	for ctx.Err() == nil {
		if err := t.next(emit); err != nil {
			return err
		}
		if err := idle(); err != nil {
			return err
		}
	}
	return nil
}

// next waits until it is time to look at the rings, and hands over what is there.
func (t *Tracer) next(emit func(*event.Transition) error) error {
	var deadline time.Time
	t.quiet++
	switch {
	case t.rings.waiting(t.reader)+t.rings.waiting(t.overflow) >= maxBatch/2:
		deadline = past
	case t.quiet > quietLooks:
		// The kernel wakes us with the first record.
		if err := t.set("reader_sleeps", flag(true)); err != nil {
			return err
		}
		deadline = time.Now().Add(sleepAtMost)
	case t.cfg.wakes():
		deadline = time.Now().Add(pollEvery)
	default:
		time.Sleep(pollEvery)
		deadline = past
		if !t.rings.closed() && t.rings.waiting(t.reader) == 0 && t.rings.waiting(t.overflow) == 0 {
			return nil
		}
	}
	if err := t.readLate(emit); err != nil {
		return err
	}
	if err := t.read(t.reader, deadline, maxBatch, emit); err != nil {
		return err
	}
	return t.readOverflow(emit)
}

// rings says what is in the rings while somebody may close them.
type rings struct {
	mu   sync.Mutex
	done bool
}

// waiting is the number of bytes to be read, 0 once closed.
func (r *rings) waiting(in *ringbuf.Reader) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done {
		return 0
	}
	return in.AvailableBytes()
}

func (r *rings) closed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done
}

func (r *rings) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = true
}

// Drain hands over what is in the rings now, without waiting for more. What is written
// meanwhile is left, so that it ends however busy the host is.
func (t *Tracer) Drain(emit func(*event.Transition) error) error {
	if t.reader == nil {
		return errSnapshotOnly
	}
	if err := t.readLate(emit); err != nil {
		return err
	}
	// In this order: what came before the last of these in the overflow is among those in the ring.
	over := t.rings.waiting(t.overflow)
	if err := t.read(t.reader, past, t.rings.waiting(t.reader), emit); err != nil {
		return err
	}
	if over == 0 {
		return nil
	}
	if err := t.read(t.overflow, past, over, emit); err != nil {
		return err
	}
	return t.leaveOverflow()
}

// readOverflow hands over what did not find room in the ring, once that has been read. The second
// round finds what was written during the first, and so on: less each time, while we are faster.
func (t *Tracer) readOverflow(emit func(*event.Transition) error) error {
	for range overflowRounds {
		waiting := t.rings.waiting(t.overflow)
		if waiting == 0 || t.rings.waiting(t.reader) > 0 {
			return nil
		}
		if err := t.read(t.overflow, past, waiting, emit); err != nil {
			return err
		}
		if err := t.leaveOverflow(); err != nil {
			return err
		}
	}
	return nil
}

// leaveOverflow sends the kernel back to the ring, if nothing is left in the overflow: what a socket
// did later comes later.
func (t *Tracer) leaveOverflow() error {
	if t.rings.waiting(t.overflow) > 0 {
		return nil
	}
	return t.set("overflowing", flag(false))
}

// readLate hands over what was written to the overflow by a program that had begun to before the
// kernel was sent back to the ring. What the socket did next is in the ring.
func (t *Tracer) readLate(emit func(*event.Transition) error) error {
	waiting := t.rings.waiting(t.overflow)
	if waiting == 0 {
		return nil
	}
	var overflowing uint8
	if err := t.maps.Variables["overflowing"].Get(&overflowing); err != nil {
		return fmt.Errorf("read overflowing: %w", err)
	}
	if overflowing != 0 {
		return nil
	}
	return t.read(t.overflow, past, waiting, emit)
}

// kindOf reads enum ring_kind; what is empty counts as a transition and is dropped.
func kindOf(raw []byte) uint8 {
	if len(raw) == 0 {
		return ringTransition
	}
	return raw[0]
}

const (
	// maxBatch bounds the work between two calls of idle: bytes of the ring.
	maxBatch       = 512 << 10
	overflowRounds = 7
	// ringHeader is what the kernel puts before a record, whose length it rounds up to eight.
	ringHeader = 8
)

var errSnapshotOnly = errors.New("read transitions: the tracer was opened for snapshots only")

// past is a deadline that does not wait.
var past = time.Unix(1, 0)

// read waits for the deadline, or for the ring to fill up, then reads until the ring is
// empty or left bytes of it were handed over, if there is a whole number of records in these.
func (t *Tracer) read(from *ringbuf.Reader, deadline time.Time, left int, emit func(*event.Transition) error) error {
	var rec ringbuf.Record
	var tr event.Transition
	from.SetDeadline(deadline)
	for left > 0 {
		err := from.ReadInto(&rec)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case errors.Is(err, ringbuf.ErrClosed):
			return ErrClosed
		case err != nil:
			return fmt.Errorf("read ring: %w", err)
		}
		left -= ringHeader + (len(rec.RawSample)+7)&^7
		t.quiet = 0
		if kind := kindOf(rec.RawSample); kind != ringTransition {
			// A stack that cannot be read is missing, nothing else.
			if t.takeStack(kind, rec.RawSample) != nil {
				t.stacksDropped.Add(1)
			}
			continue
		}
		if err := t.hand(rec.RawSample, &tr, emit); err != nil {
			return err
		}
	}
	return nil
}

// hand decodes one record and hands over the one or two transitions in it.
func (t *Tracer) hand(raw []byte, tr *event.Transition, emit func(*event.Transition) error) error {
	flags, ok := t.decode(raw, tr)
	if !ok {
		return nil
	}
	if tr.Owner.Known() {
		t.comms.learn(&tr.Owner, flags&transitionMore != 0)
	}
	t.received.Add(1)
	if flags&(transitionBorn|transitionTimeWait) == 0 {
		return emit(tr)
	}
	t.received.Add(1)
	if first := before(tr, flags); t.wantsStates(&first) {
		if err := emit(&first); err != nil {
			return err
		}
	}
	if !t.wantsStates(tr) {
		return nil
	}
	return emit(tr)
}

// decode counts what it cannot read.
func (t *Tracer) decode(raw []byte, tr *event.Transition) (flags uint16, ok bool) {
	flags, err := decodeTransition(raw, tr)
	if err != nil {
		t.dropped.Add(1)
	}
	return flags, err == nil
}

// wantsStates chooses among the two transitions of a record; the kernel chose records.
func (t *Tracer) wantsStates(tr *event.Transition) bool {
	want := t.cfg.Filter.States
	return want == 0 || want.Has(tr.Old) || want.Has(tr.New)
}
