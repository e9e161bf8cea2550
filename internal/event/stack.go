package event

// StackID names a stack: the same frames in the same process have the same id. 0 is none.
type StackID uint64

// StackSlot says at which moment in the life of a socket a stack was taken.
type StackSlot uint8

// The moments, as in bpf/events.h. Entry to CLOSE_WAIT is none of them: who runs then is
// the peer or nobody.
const (
	// StackOpen: connect() or accept().
	StackOpen StackSlot = iota
	// StackLastRead: the first read or write by a new owner.
	StackLastRead
	// StackEOF: the read that returned 0.
	StackEOF
	// StackClose: the close() or shutdown() that ended it.
	StackClose

	// StackSlots is how many there are.
	StackSlots
)

var stackSlotNames = [StackSlots]string{"open", "last_read", "eof", "close"}

// String returns the word used in records.
func (s StackSlot) String() string {
	if s >= StackSlots {
		return "unknown"
	}
	return stackSlotNames[s]
}

// Stacks are the stacks of one socket, by slot; 0 where none was taken.
type Stacks [StackSlots]StackID

// Any reports whether there is one at all.
func (s *Stacks) Any() bool { return *s != Stacks{} }

// ObjectID is our number of a file that code is mapped from. 0 is unknown.
type ObjectID uint32

// FrameKind says what Addr and Aux of a frame mean.
type FrameKind uint8

// The kinds, as in bpf/events.h.
const (
	// FrameNone: no frame.
	FrameNone FrameKind = iota
	// FrameFile: code from a file; Addr is the offset in the file Object. In a V8 process
	// Aux is the JSFunction of a built-in, 0 if there is none.
	FrameFile
	// FrameAnon: code in memory without a file; Addr is its address. Aux as in FrameFile.
	FrameAnon
	// FramePython: Addr is the address of the code object, Aux that of the instruction.
	FramePython
	// FrameInterpreted: HotSpot's interpreter at Addr; Aux is the Method*.
	FrameInterpreted
	// FrameCompiled: HotSpot's compiled code or stub at Addr; Aux is the CodeBlob*.
	FrameCompiled
	// FrameUnmapped: code from a file that has no number yet; Addr is its address.
	FrameUnmapped
)

// Frame is one frame of a stack as the kernel side saw it: not yet a name.
type Frame struct {
	Kind FrameKind
	// Return: Addr is a return address, the call is the instruction before it. Of a
	// Python frame: C code called it, the frames that follow belong to another call.
	Return bool
	Object ObjectID
	Addr   uint64
	Aux    uint64
}

// Quality says how far a stack can be believed.
type Quality uint8

// The qualities, as in bpf/events.h; worse ones are larger.
const (
	QualityNone Quality = iota
	// QualityComplete: every frame by a rule, down to a stop rule or a zero return address.
	QualityComplete
	// QualityTruncated: the frames are right, the outer ones are missing.
	QualityTruncated
	// QualityGuessed: some frame was found by looking for return addresses.
	QualityGuessed
	// QualityFPOnly: by frame pointers alone; frames may be missing or wrong.
	QualityFPOnly
)

var qualityNames = [...]string{"", "complete", "truncated", "guessed", "fp-only"}

// String returns the word used in records, "" for none.
func (q Quality) String() string {
	if int(q) >= len(qualityNames) {
		return ""
	}
	return qualityNames[q]
}

// Stack is one stack: frames, innermost first.
type Stack struct {
	ID      StackID
	At      KTime
	Task    Task
	Quality Quality
	// Reason says why it is not complete, 0 if it is.
	Reason UnwindReason
	Frames []Frame
}

// UnwindReason is why a walk ended early; the number is enum unwind_reason in bpf/events.h.
type UnwindReason uint8

// The reasons.
const (
	ReasonNone UnwindReason = iota
	// ReasonNoTable: code from a file whose unwind table was not loaded yet.
	ReasonNoTable
	// ReasonNoRule: no rule for this code, and no frame pointer that leads on.
	ReasonNoRule
	// ReasonUnreadable: the stack memory could not be read.
	ReasonUnreadable
	// ReasonTooDeep: more frames than are kept.
	ReasonTooDeep
	// ReasonMapBusy: the process was changing its mappings.
	ReasonMapBusy
	// ReasonUnmapped: the return address is in no executable mapping.
	ReasonUnmapped
	// ReasonBadFrame: a rule led to a frame that cannot be (not above the last one).
	ReasonBadFrame
	// ReasonNewRuntime: the process's language runtime was not known yet.
	ReasonNewRuntime
	// ReasonThawed: a virtual thread: its outer frames are not on the stack.
	ReasonThawed
	// ReasonNoUnwinder: this kernel lacks what the unwinder needs.
	ReasonNoUnwinder
	// ReasonLost: the ring was full, the frames did not arrive.
	ReasonLost

	reasons
)

var reasonTexts = [reasons]string{
	"", "no unwind table loaded yet", "code without unwind table", "stack memory not readable",
	"deeper than is kept", "mappings were changing", "return address not in any code",
	"frames do not fit together", "language runtime not known yet", "virtual thread",
	"kernel cannot unwind", "frames lost on the way",
}

// String says why in a few words, "" for none.
func (r UnwindReason) String() string {
	if r >= reasons {
		return "unknown"
	}
	return reasonTexts[r]
}
