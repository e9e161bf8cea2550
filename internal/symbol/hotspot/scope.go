package hotspot

import (
	"slices"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
)

const (
	// maxPCDescs bounds the places that a method knows: 1 MiB of them.
	maxPCDescs = 1 << 16
	// maxInlined bounds how deep methods are inlined. C2 stops at 15, and a few more for
	// what must be inlined.
	maxInlined = 64
	// maxMetadata bounds the index of a method among those that compiled code names.
	maxMetadata = 1 << 16
	// maxScopeBytes is what three compressed numbers can have.
	maxScopeBytes = 15
	// invocationBCI is added to what is written of a bytecode index: -1 is the entry of a
	// method.
	invocationBCI = -1
)

// scopes is where an nmethod keeps what it knows about its calls: addresses.
type scopes struct {
	// pcs..pcsEnd are PcDescs, in the order of the code.
	pcs, pcsEnd uint64
	// data..dataEnd is what they point into; metadata are the methods that it names.
	data, dataEnd, metadata uint64
}

// nameNmethod names a place in a compiled method. Where the method knows its calls, a
// return address must be one of them: if it is not, other code was here.
func (r *Runtime) nameNmethod(b *blob, f *event.Frame) []symbol.Frame {
	outer := b.head.u64(r.offsets.nmethodMethod)
	m := r.method(outer)
	if m == nil {
		return nil
	}
	plain := []symbol.Frame{m.frame(place(f), 0)}
	s, ok := r.scopes(b)
	if !ok {
		return plain
	}
	at, ok := r.findPC(s, uint32(f.Addr-b.code))
	switch {
	case ok:
		if frames := r.inlined(s, at, outer, place(f)); frames != nil {
			return frames
		}
		return plain
	case f.Return && !r.deoptimized(b, f.Addr):
		return nil
	default:
		return plain
	}
}

// deoptimized reports whether a return address was replaced by that of the code which
// turns the frame into interpreted ones: the frame is the method's, the place is lost.
func (r *Runtime) deoptimized(b *blob, addr uint64) bool {
	o := r.offsets
	for _, field := range o.deoptHandlers {
		handler := b.head.u64(field)
		if o.blobCodeIsOffset {
			handler = b.addr + uint64(b.head.u32(field))
		}
		if addr == handler {
			return true
		}
	}
	return false
}

// scopes reports false if it is not known how this JVM keeps them.
func (r *Runtime) scopes(b *blob) (scopes, bool) {
	o := &r.offsets.scopes
	field := func(off uint64) uint64 { return uint64(b.head.u32(off)) }
	switch {
	case !o.known:
		return scopes{}, false
	case o.outside:
		block := b.head.u64(o.immutable)
		size, pcs, data := field(o.immutableSize), field(o.pcs), field(o.data)
		s := scopes{
			pcs: block + pcs, pcsEnd: block + size, data: block + data, dataEnd: block + size,
			metadata: b.head.u64(o.mutable) + field(o.metadata),
		}
		if pcs < data {
			s.pcsEnd = s.data
		} else {
			s.dataEnd = s.pcs
		}
		return s, block != 0
	default:
		pcs := b.addr + field(o.pcs)
		return scopes{
			pcs: pcs, pcsEnd: b.addr + field(o.pcsEnd), data: b.head.u64(o.dataBegin), dataEnd: pcs,
			metadata: b.addr + field(o.metadata),
		}, true
	}
}

// findPC looks for the PcDesc of a return address, given from the start of the code, and
// returns the place in the data that it leads to.
func (r *Runtime) findPC(s scopes, offset uint32) (at uint32, ok bool) {
	o := r.offsets
	if s.pcsEnd < s.pcs+2*o.pcDescSize {
		return 0, false
	}
	// The first and the last one are guards, below and above all code.
	low, high := uint64(1), min((s.pcsEnd-s.pcs)/o.pcDescSize, maxPCDescs)-1
	for low < high {
		mid := (low + high) / 2
		desc, err := r.memory.read(s.pcs+mid*o.pcDescSize, int(o.pcDescSize))
		if err != nil {
			return 0, false
		}
		switch pc := int32(desc.u32(o.pcDescPC)); {
		case pc == int32(offset):
			return desc.u32(o.pcDescBody), true
		case pc < int32(offset):
			low = mid + 1
		default:
			high = mid
		}
	}
	return 0, false
}

// inlined lists the methods that a place stands for, innermost first. Each scope names
// the one that it was inlined into, the last must be the method that was compiled. It
// returns nil where that does not come out.
func (r *Runtime) inlined(s scopes, at uint32, outer, addr uint64) []symbol.Frame {
	var frames []symbol.Frame
	for at != 0 {
		scope, ok := r.scope(s, at)
		if !ok || len(frames) == maxInlined {
			return nil
		}
		m := r.method(scope.method)
		if m == nil || scope.caller == 0 && scope.method != outer {
			return nil
		}
		frames = append(frames, m.frame(addr, r.line(m, scope.bci)))
		at = scope.caller
	}
	return slices.Clip(frames)
}

// scope is a method at the place of a call.
type scope struct {
	// method is the address of the Method, caller the place of the scope that it was
	// inlined into, 0 for none.
	method uint64
	caller uint32
	bci    int32
}

func (r *Runtime) scope(s scopes, at uint32) (scope, bool) {
	start := s.data + uint64(at)
	if start < s.data || start >= s.dataEnd {
		return scope{}, false
	}
	data, err := r.memory.read(start, int(min(maxScopeBytes, s.dataEnd-start)))
	if err != nil {
		return scope{}, false
	}
	u := r.offsets.unsigned5(data)
	caller, index, bci := u.next(), u.next(), u.next()
	if u.bad || index == 0 || index > maxMetadata {
		return scope{}, false
	}
	method, err := r.memory.u64(s.metadata + uint64(index-1)*pointerSize)
	return scope{method: method, caller: caller, bci: int32(bci) + invocationBCI}, err == nil
}
