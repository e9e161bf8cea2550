package hotspot

import (
	"fmt"
	"strings"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
)

// The names of blobs that are methods.
const (
	blobNmethod = "nmethod"
	// blobNative is what calls a native method.
	blobNative = "native nmethod"
)

const (
	// maxBlobName bounds the name of a blob, in bytes.
	maxBlobName = 128
	// maxCompiled bounds the places in compiled code that are remembered: some 500 bytes
	// each, 6 KiB where as much is inlined as can be.
	maxCompiled = 2048
)

// blob is a piece of code in a code heap.
type blob struct {
	addr uint64
	// code is the address of its instructions.
	code uint64
	// head is a copy of its start, with all fields that are read.
	head view
	// name is the address of its name, a constant of libjvm.
	name uint64
}

// compiled is what is known of a place in compiled code.
type compiled struct {
	// name and id tell whether the code is still the one that was read: no two methods
	// that were compiled have the same id.
	name   uint64
	id     uint32
	frames []symbol.Frame
}

// nameCompiled names a frame in a CodeBlob. If the process is gone, what was read before
// is still true.
func (r *Runtime) nameCompiled(f *event.Frame) []symbol.Frame {
	known := r.compiled[*f]
	b := r.blob(f)
	switch {
	case b == nil && known != nil && r.gone():
		return known.frames
	case b == nil:
		return nil
	case known != nil && known.name == b.name && known.id == r.compileID(b):
		return known.frames
	}
	frames := r.nameBlob(b, f)
	if frames == nil {
		return nil
	}
	if len(r.compiled) >= maxCompiled {
		clear(r.compiled)
	}
	r.compiled[*f] = &compiled{name: b.name, id: r.compileID(b), frames: frames}
	return frames
}

// compileID is meaningful for methods only; it is stable for everything else, which is
// never freed.
func (r *Runtime) compileID(b *blob) uint32 { return b.head.u32(r.offsets.nmethodCompileID) }

// blob reads the CodeBlob of a frame. It is nil if there is none now: the block is free,
// is not at the start of a block, or does not reach the place of the frame.
func (r *Runtime) blob(f *event.Frame) *blob {
	o := r.offsets
	heap := heapOf(&r.layout, f.Aux)
	if heap == nil || f.Aux < heap.Low+o.blockHeader {
		return nil
	}
	start := f.Aux - o.blockHeader
	if (start-heap.Low)%(1<<r.layout.SegmentLog2) != 0 || f.Addr < f.Aux {
		return nil
	}
	block, err := r.memory.read(start, int(o.blockHeader))
	if err != nil || block.u8(o.blockUsed) != 1 {
		return nil
	}
	segments := block.u64(o.blockLength)
	if o.blockUsed < o.blockLength+pointerSize {
		segments = uint64(block.u32(o.blockLength)) // JDK 25: no longer a size_t
	}
	if segments > maxCodeHeap>>r.layout.SegmentLog2 || f.Addr-start > segments<<r.layout.SegmentLog2 {
		return nil
	}
	head, err := r.memory.read(f.Aux, int(min(o.nmethodSize, segments<<r.layout.SegmentLog2)))
	if err != nil {
		return nil
	}
	b := &blob{addr: f.Aux, head: head, name: head.u64(o.blobName), code: head.u64(o.blobCode)}
	if o.blobCodeIsOffset {
		b.code = b.addr + uint64(head.u32(o.blobCode))
	}
	if f.Addr < b.code {
		return nil
	}
	return b
}

// nameBlob names a place in a blob.
func (r *Runtime) nameBlob(b *blob, f *event.Frame) []symbol.Frame {
	name, err := newPages(r.memory, maxBlobName/pageSize+2).text(b.name, maxBlobName)
	if err != nil || !isBlobName(name) {
		return nil
	}
	switch name {
	case blobNmethod:
		return r.nameNmethod(b, f)
	case blobNative:
		if m := r.method(b.head.u64(r.offsets.nmethodMethod)); m != nil {
			return []symbol.Frame{m.frame(place(f), 0)}
		}
		return nil
	default:
		return []symbol.Frame{{Function: fmt.Sprintf("[stub %s]", name), Offset: place(f), Kind: symbol.Native}}
	}
}

// isBlobName: the names are constants of libjvm, of printable ASCII.
func isBlobName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) < 0
}
