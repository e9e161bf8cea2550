package python

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// offsets are where one version of CPython keeps what is read of a process, in bytes.
type offsets struct {
	frames event.PythonLayout
	// interpreter is in the thread state and leads back to the interpreter.
	interpreter uint32
	code        codeOffsets
	// ascii and compact are the sizes of the headers of strings: there the text starts.
	ascii, compact uint64
}

// codeOffsets are in the code object.
type codeOffsets struct {
	firstLine, file, qualname, lines uint32
	// traceable holds the index of the instruction before which a frame is not complete.
	traceable uint32
	// instructions is the end of the header.
	instructions uint32
}

// What all supported versions share, from object.h, unicodeobject.h and bytesobject.h.
const (
	typeOffset      = 8  // PyObject.ob_type
	sizeOffset      = 16 // PyVarObject.ob_size, PyASCIIObject.length
	textStateOffset = 32 // PyASCIIObject.state
	bytesDataOffset = 32 // PyBytesObject.ob_sval
)

// The order of the last members of PyCodeObject: int _co_firsttraceable; void *co_extra;
// char co_code_adaptive[]. Offsets from the last.
const traceableBeforeInstructions = 16

// Values of _PyInterpreterFrame.owner: a frame that is none, made where C code calls Python.
// The name changed in 3.14 (FRAME_OWNED_BY_CSTACK before), the value did not.
const ownedByInterpreter = 3

// offsets311 is 3.11, where a frame itself says that it was called from C (is_entry). Checked
// with offsetof on the headers of 3.11.7.
var offsets311 = offsets{
	frames: event.PythonLayout{
		InterpretersHead: 0x28, ThreadsHead: 0x10, ThreadNext: 0x8, ThreadID: 0x98,
		CFrame: 0x38, CurrentFrame: 0x8,
		Previous: 0x30, Code: 0x20, Instruction: 0x38,
		Entry: 0x44, EntryMask: 1, EntryValue: 1,
	},
	interpreter: 0x10,
	code: codeOffsets{
		firstLine: 0x48, file: 0x70, qualname: 0x80, lines: 0x88, traceable: 0xa8,
		instructions: 0xb8,
	},
	ascii: 48, compact: 72,
}

// offsets312 is 3.12, the first with frames that are none. Checked with the headers of
// 3.12.1.
var offsets312 = offsets{
	frames: event.PythonLayout{
		InterpretersHead: 0x28, ThreadsHead: 0x48, ThreadNext: 0x8, ThreadID: 0x88,
		CFrame: 0x38, CurrentFrame: 0x0,
		Previous: 0x8, Code: 0x0, Instruction: 0x38,
		Entry: 0x46, EntryMask: 0xff, EntryValue: ownedByInterpreter,
	},
	interpreter: 0x10,
	code: codeOffsets{
		firstLine: 0x44, file: 0x70, qualname: 0x80, lines: 0x88, traceable: 0xb0,
		instructions: 0xc0,
	},
	ascii: 40, compact: 56,
}

// From 3.13 on _PyRuntime begins with a description of itself for debuggers,
// _Py_DebugOffsets (pycore_debug_offsets.h).

// debugCookie is how the description begins.
var debugCookie = [8]byte{'x', 'd', 'e', 'b', 'u', 'g', 'p', 'y'}

type debugPrefix struct {
	Cookie                [8]byte
	Version, FreeThreaded uint64
	Runtime               struct{ Size, Finalizing, InterpretersHead uint64 }
}

type debugThread struct {
	Size, Prev, Next, Interpreter, CurrentFrame, ThreadID uint64
	NativeID, Chunk, Status                               uint64
}

type debugFrame struct{ Size, Previous, Executable, Instruction, Locals, Owner uint64 }

type debugCode struct {
	Size, File, Name, Qualname, Lines, FirstLine uint64
	Arguments, LocalNames, LocalKinds, Code      uint64
}

type debugUnicode struct{ Size, State, Length, ASCIISize uint64 }

// debug313 is the description of 3.13; blank are those we do not read.
type debug313 struct {
	debugPrefix
	Interpreter struct {
		Size, ID, Next, ThreadsHead uint64
		_                           [9]uint64
	}
	Thread  debugThread
	Frame   debugFrame
	Code    debugCode
	_       [23]uint64 // pyobject to bytes_object
	Unicode debugUnicode
}

// debug314 is that of 3.14.
type debug314 struct {
	debugPrefix
	Interpreter struct {
		Size, ID, Next, ThreadsHead uint64
		_                           [12]uint64
	}
	Thread  debugThread
	Frame   debugFrame
	_       [2]uint64 // interpreter_frame.stackpointer, tlbc_index
	Code    debugCode
	_       [28]uint64 // code_object.co_tlbc to bytes_object
	Unicode debugUnicode
}

// Limits of what offsets can be: the interpreter state of 3.14 has 225,864 bytes.
const (
	maxStateOffset  = 1 << 20
	maxObjectOffset = 1 << 12
)

// offsets returns those of a version whose _PyRuntime is at an address.
func (m memory) offsets(v version, runtime uint64) (offsets, error) {
	unsupported := fmt.Errorf("CPython %v: not supported", v)
	if v.major() != 3 || !v.stable() {
		return offsets{}, unsupported
	}
	switch v.minor() {
	case 11:
		return offsets311, nil
	case 12:
		return offsets312, nil
	case 13, 14:
		return m.describedOffsets(v, runtime)
	default:
		return offsets{}, unsupported
	}
}

// describedOffsets reads the description at the start of _PyRuntime.
func (m memory) describedOffsets(v version, runtime uint64) (offsets, error) {
	data := make([]byte, max(binary.Size(debug313{}), binary.Size(debug314{})))
	if err := m.read(data, runtime); err != nil {
		return offsets{}, fmt.Errorf("CPython %v: read debug offsets: %w", v, err)
	}
	o, err := parseOffsets(v, data)
	if err != nil {
		return offsets{}, fmt.Errorf("CPython %v: %w", v, err)
	}
	return o, nil
}

// parseOffsets takes the description of 3.13 or 3.14.
func parseOffsets(v version, data []byte) (offsets, error) {
	var d debug313
	var err error
	if v.minor() == 13 {
		_, err = binary.Decode(data, binary.LittleEndian, &d)
	} else {
		var d314 debug314
		_, err = binary.Decode(data, binary.LittleEndian, &d314)
		d.debugPrefix, d.Thread, d.Frame = d314.debugPrefix, d314.Thread, d314.Frame
		d.Code, d.Unicode = d314.Code, d314.Unicode
		d.Interpreter.ThreadsHead = d314.Interpreter.ThreadsHead
	}
	switch {
	case err != nil:
		return offsets{}, fmt.Errorf("debug offsets: %w", err)
	case d.Cookie != debugCookie || d.Version != uint64(v):
		return offsets{}, errors.New("no debug offsets of this version")
	case d.FreeThreaded != 0:
		return offsets{}, errors.New("free-threaded build: not supported")
	}
	return d.offsets()
}

// offsets puts what the description says into our order.
func (d *debug313) offsets() (offsets, error) {
	o := offsets{frames: event.PythonLayout{
		NoCFrame: true, EntryMask: 0xff, EntryValue: ownedByInterpreter,
	}}
	if d.Code.Code < objectHeader {
		return offsets{}, fmt.Errorf("debug offsets: code objects of %d bytes", d.Code.Code)
	}
	lastWord := d.Code.Code - 8 + 1
	for _, f := range []struct {
		to           *uint32
		value, limit uint64
	}{
		{&o.frames.InterpretersHead, d.Runtime.InterpretersHead, maxStateOffset},
		{&o.frames.ThreadsHead, d.Interpreter.ThreadsHead, maxStateOffset},
		{&o.frames.ThreadNext, d.Thread.Next, maxObjectOffset},
		{&o.frames.ThreadID, d.Thread.ThreadID, maxObjectOffset},
		{&o.frames.CurrentFrame, d.Thread.CurrentFrame, maxObjectOffset},
		{&o.interpreter, d.Thread.Interpreter, maxObjectOffset},
		{&o.frames.Previous, d.Frame.Previous, maxObjectOffset},
		{&o.frames.Code, d.Frame.Executable, maxObjectOffset},
		{&o.frames.Instruction, d.Frame.Instruction, maxObjectOffset},
		{&o.frames.Entry, d.Frame.Owner, maxObjectOffset},
		{&o.code.instructions, d.Code.Code, maxObjectOffset},
		{&o.code.firstLine, d.Code.FirstLine, lastWord},
		{&o.code.file, d.Code.File, lastWord},
		{&o.code.qualname, d.Code.Qualname, lastWord},
		{&o.code.lines, d.Code.Lines, lastWord},
		{&o.code.traceable, d.Code.Code - traceableBeforeInstructions, lastWord},
	} {
		if f.value >= f.limit {
			return offsets{}, fmt.Errorf("debug offsets: %#x cannot be one", f.value)
		}
		*f.to = uint32(f.value)
	}
	o.ascii = d.Unicode.ASCIISize
	// PyCompactUnicodeObject: Py_ssize_t utf8_length; char *utf8.
	o.compact = o.ascii + 16
	if o.ascii < objectHeader || o.ascii > maxObjectOffset {
		return offsets{}, fmt.Errorf("debug offsets: strings of %d bytes", o.ascii)
	}
	return o, nil
}
