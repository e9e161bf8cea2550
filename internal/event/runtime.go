package event

// Runtime tells the kernel side how to read the frames of a language's runtime in one
// process. The zero value is a process without one.
type Runtime struct {
	Python  PythonLayout
	HotSpot HotSpotLayout
	// V8: frames without a rule carry a JSFunction.
	V8 bool
	// PythonTrampoline: anonymous code is CPython's perf trampoline (-X perf): its frames
	// are 16 bytes.
	PythonTrampoline bool
}

// PythonLayout is where CPython keeps its frames: an address and byte offsets.
type PythonLayout struct {
	// Runtime is the address of _PyRuntime, 0 if there is no Python.
	Runtime uint64
	// InterpretersHead is in _PyRuntime, ThreadsHead in the interpreter, ThreadNext and
	// ThreadID (the value of %fs) in the thread state.
	InterpretersHead, ThreadsHead, ThreadNext, ThreadID uint32
	// CFrame is in the thread state and CurrentFrame in the structure it leads to; with
	// NoCFrame, CurrentFrame is in the thread state itself.
	CFrame, CurrentFrame uint32
	NoCFrame             bool
	// Previous, Code, Instruction and Entry are in the frame. Entry is the byte that, where
	// (byte & EntryMask) == EntryValue, says that C code called the frame.
	Previous, Code, Instruction, Entry uint32
	EntryMask, EntryValue              uint8
}

// MaxCodeHeaps is how many code heaps a HotSpot has.
const MaxCodeHeaps = 4

// CodeHeap is one code heap of HotSpot: addresses.
type CodeHeap struct{ Low, High, Segmap uint64 }

// HotSpotLayout is where HotSpot keeps its code.
type HotSpotLayout struct {
	// Heaps with High == 0 are none.
	Heaps [MaxCodeHeaps]CodeHeap
	// InterpreterLow and InterpreterHigh bound the interpreter's code.
	InterpreterLow, InterpreterHigh uint64
	// SegmentLog2 is the size of a segment, BlockHeader that of the header of a heap block,
	// FrameSize the offset of CodeBlob::_frame_size (in words).
	SegmentLog2, BlockHeader, FrameSize uint32
}

// Present reports whether the process has a HotSpot.
func (h *HotSpotLayout) Present() bool { return h.Heaps[0].High != 0 }
