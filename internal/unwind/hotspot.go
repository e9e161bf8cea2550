package unwind

import (
	"encoding/binary"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Bounds of what a frame of HotSpot can be, as on the kernel side.
const (
	maxHops          = 64      // back to the start of a code block
	maxLocals        = 1 << 20 // bytes between an interpreted frame and its caller's
	maxCompiledWords = 4096
)

// stepHotSpot goes on from code that HotSpot made. It is false where the frame pointer is
// the way to go on.
func (w *walker) stepHotSpot(at uint64) bool {
	h := &w.s.Runtime.HotSpot
	frame := &w.res.Frames[len(w.res.Frames)-1]
	if at >= h.InterpreterLow && at < h.InterpreterHigh {
		w.stepInterpreted(frame)
		return true
	}
	blob, words, ok := w.blob(at)
	if !ok {
		return false
	}
	if frame.Aux = blob; words == 0 || words > maxCompiledWords {
		return false // a stub
	}
	// The process has gone on: the block may be another one by now.
	w.guessed = true
	frame.Kind = event.FrameCompiled
	cfa := w.regs[RegSP] + 8*uint64(words)
	fp, ok := w.word(cfa - 16)
	if !ok {
		w.stop(event.ReasonUnreadable)
		return true
	}
	w.regs[RegFP] = fp
	w.stepCFA(cfa, false)
	return true
}

// stepInterpreted goes on from the interpreter. The caller's stack pointer was saved before
// room was made for the locals; three words below the frame pointer is the Method*.
func (w *walker) stepInterpreted(frame *event.Frame) {
	fp := w.regs[RegFP]
	if fp < w.regs[RegSP] {
		w.stop(event.ReasonBadFrame)
		return
	}
	method, ok := w.word(fp - 24)
	sender, ok2 := w.word(fp - 8)
	saved, ok3 := w.word(fp)
	ra, ok4 := w.word(fp + 8)
	if !ok || !ok2 || !ok3 || !ok4 {
		w.stop(event.ReasonUnreadable)
		return
	}
	frame.Kind, frame.Aux = event.FrameInterpreted, method
	if sender < fp+16 || sender >= fp+maxLocals {
		sender = fp + 16
	}
	w.regs[RegFP] = saved
	w.enter(ra, sender)
}

// blob returns the CodeBlob that the code at addr belongs to and the size of its frames in
// words. The segment map of a heap has a byte for each segment: how many segments to go
// back, 0 at the start of a block.
func (w *walker) blob(addr uint64) (blob uint64, words uint32, ok bool) {
	const free = 0xff
	h := &w.s.Runtime.HotSpot
	for _, heap := range h.Heaps {
		if addr < heap.Low || addr >= heap.High {
			continue
		}
		segment := (addr - heap.Low) >> (h.SegmentLog2 % 64)
		for range maxHops {
			var b [1]byte
			if !w.read(b[:], heap.Segmap+segment) || b[0] == free || uint64(b[0]) > segment {
				return 0, 0, false
			}
			if b[0] == 0 {
				blob = heap.Low + segment<<(h.SegmentLog2%64) + uint64(h.BlockHeader)
				var size [4]byte
				ok = w.read(size[:], blob+uint64(h.FrameSize))
				return blob, binary.LittleEndian.Uint32(size[:]), ok
			}
			segment -= uint64(b[0])
		}
	}
	return 0, 0, false
}
