package hotspot

import (
	"errors"
	"fmt"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Bounds of what a layout can be.
const (
	// maxCodeHeap is in bytes: HotSpot refuses a larger ReservedCodeCacheSize.
	maxCodeHeap = 2 << 30
	// maxInterpreter is in bytes; it has some 100 KiB, or a few hundred with debug options.
	maxInterpreter = 16 << 20
	// maxSegmentLog2: -XX:CodeCacheSegmentSize is 64 or 128 and can be up to 1024 bytes.
	maxSegmentLog2 = 10
)

// readLayout reads where the code heaps and the interpreter are. The JVM makes the
// interpreter last: once it is there, the heaps are.
func (o *offsets) readLayout(m memory) (event.HotSpotLayout, error) {
	l := event.HotSpotLayout{BlockHeader: uint32(o.blockHeader), FrameSize: uint32(o.blobFrameSize)}
	interpreter, err := m.u64(o.interpreter)
	if err != nil {
		return event.HotSpotLayout{}, fmt.Errorf("read interpreter: %w", err)
	}
	if interpreter == 0 {
		return event.HotSpotLayout{}, fmt.Errorf("%w: no interpreter yet", ErrStarting)
	}
	heaps, err := o.readHeapArray(m)
	if err != nil {
		return event.HotSpotLayout{}, err
	}
	for i, heap := range heaps {
		log2, err := o.readHeap(m, heap, &l.Heaps[i])
		if err != nil {
			return event.HotSpotLayout{}, fmt.Errorf("read code heap %d: %w", i, err)
		}
		if i > 0 && log2 != l.SegmentLog2 {
			return event.HotSpotLayout{}, errors.New("code heaps with different segments")
		}
		l.SegmentLog2 = log2
	}
	if err := o.readInterpreter(m, interpreter, &l); err != nil {
		return event.HotSpotLayout{}, fmt.Errorf("read interpreter: %w", err)
	}
	return l, nil
}

// readHeapArray reads the addresses of the CodeHeaps.
func (o *offsets) readHeapArray(m memory) ([]uint64, error) {
	array, err := m.u64(o.codeHeaps)
	if err != nil {
		return nil, fmt.Errorf("read code heaps: %w", err)
	}
	length, err := m.u32(array + o.arrayLength)
	if err != nil {
		return nil, fmt.Errorf("read number of code heaps: %w", err)
	}
	if length == 0 || length > event.MaxCodeHeaps {
		return nil, fmt.Errorf("%d code heaps, not 1 to %d", length, event.MaxCodeHeaps)
	}
	data, err := m.u64(array + o.arrayData)
	if err != nil {
		return nil, fmt.Errorf("read list of code heaps: %w", err)
	}
	list, err := m.read(data, int(length)*pointerSize)
	if err != nil {
		return nil, fmt.Errorf("read list of code heaps: %w", err)
	}
	heaps := make([]uint64, length)
	for i := range heaps {
		heaps[i] = list.u64(uint64(i) * pointerSize)
	}
	return heaps, nil
}

// readHeap reads one CodeHeap, and the size of its segments. High is the end of what is
// reserved, not of what is committed: a heap grows up to there and is never moved, so the
// layout stays true. What is not committed has no segment map either: no blob is found.
func (o *offsets) readHeap(m memory, heap uint64, to *event.CodeHeap) (log2 uint32, err error) {
	if to.Low, err = m.u64(heap + o.heapMemory + o.spaceLow); err != nil {
		return 0, err
	}
	if to.High, err = m.u64(heap + o.heapMemory + o.spaceHighBoundary); err != nil {
		return 0, err
	}
	if to.Segmap, err = m.u64(heap + o.heapSegmap + o.spaceLow); err != nil {
		return 0, err
	}
	if log2, err = m.u32(heap + o.heapLog2); err != nil {
		return 0, err
	}
	if to.Low == 0 || to.High <= to.Low || to.High-to.Low > maxCodeHeap || to.Segmap == 0 || log2 > maxSegmentLog2 {
		return 0, fmt.Errorf("%#x-%#x with a map at %#x and segments of 2^%d bytes cannot be",
			to.Low, to.High, to.Segmap, log2)
	}
	return log2, nil
}

// readInterpreter reads the bounds of the interpreter from its queue of stubs.
func (o *offsets) readInterpreter(m memory, queue uint64, l *event.HotSpotLayout) error {
	low, err := m.u64(queue + o.stubBuffer)
	if err != nil {
		return err
	}
	size, err := m.u32(queue + o.stubLimit)
	if err != nil {
		return err
	}
	l.InterpreterLow, l.InterpreterHigh = low, low+uint64(size)
	if size == 0 || size > maxInterpreter || heapOf(l, low) == nil || heapOf(l, l.InterpreterHigh-1) == nil {
		return fmt.Errorf("%d bytes at %#x cannot be", size, low)
	}
	return nil
}

// heapOf returns the heap that an address is in, nil if it is in none.
func heapOf(l *event.HotSpotLayout, addr uint64) *event.CodeHeap {
	for i := range l.Heaps {
		if h := &l.Heaps[i]; addr >= h.Low && addr < h.High {
			return h
		}
	}
	return nil
}
