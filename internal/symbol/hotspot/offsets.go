package hotspot

import (
	"fmt"
	"strings"
)

// oldestVersion is the oldest JDK whose structures are read.
const oldestVersion = 17

// maxOffset bounds the offset of a field, in bytes. The largest structure that is read is
// an nmethod, of 352 bytes in JDK 17.
const maxOffset = 4096

// offsets are the places of the fields that are read: byte offsets in their type unless
// said otherwise.
type offsets struct {
	version uint32 // major version of the JDK

	// Where code is. codeHeaps and interpreter are addresses of pointers.
	codeHeaps, interpreter           uint64
	arrayLength, arrayData           uint64 // GrowableArray
	heapMemory, heapSegmap, heapLog2 uint64 // CodeHeap
	spaceLow, spaceHighBoundary      uint64 // VirtualSpace
	blockLength, blockUsed           uint64 // HeapBlock
	blockHeader                      uint64 // size of a HeapBlock
	stubBuffer, stubLimit            uint64 // StubQueue

	// Methods and their names.
	methodConst                                     uint64 // Method
	constPool, constNameIndex, constCodeSize        uint64 // ConstMethod
	constFlags, hasLines                            uint64 // ... and a bit of its flags
	constSize, constWords                           uint64 // ... its size, and that with its code
	poolTags, poolHolder, poolLength, poolSource    uint64 // ConstantPool
	poolSize                                        uint64 // ... its size: where the slots start
	tagsData                                        uint64 // Array<u1>
	klassName, symbolHash, symbolLength, symbolBody uint64 // Klass, Symbol

	// Code.
	blobName, blobFrameSize, blobCode uint64 // CodeBlob
	// blobCodeIsOffset: blobCode is where the offset of the code is, not its address.
	blobCodeIsOffset                bool
	nmethodMethod, nmethodCompileID uint64 // nmethod
	// deoptHandlers: likewise the places of return addresses that were replaced.
	deoptHandlers                    []uint64
	scopes                           scopeOffsets
	nmethodSize                      uint64
	pcDescSize, pcDescPC, pcDescBody uint64 // PcDesc
}

// scopeOffsets says where an nmethod keeps what it knows about its calls. JDK 17 to 22
// keep it in the nmethod itself, at offsets from its start. 25 has two blocks outside of
// it, of which the nmethod has the addresses; 23 and 24 are on the way there, and none of
// both.
type scopeOffsets struct {
	// known: one of the two it is.
	known bool
	// outside: it is the second.
	outside bool
	// pcs, pcsEnd, data and metadata: fields with an offset. dataBegin has an address.
	pcs, pcsEnd, data, dataBegin, metadata uint64
	// immutable and mutable: fields with the address of the blocks.
	immutable, immutableSize, mutable uint64
}

// finder looks up fields and remembers which it has not found.
type finder struct {
	*vmStructs
	missing []string
}

// offset finds one of several names of a field.
func (f *finder) offset(names ...string) uint64 {
	for _, n := range names {
		if field, ok := f.fields[n]; ok && field.offset <= maxOffset {
			return field.offset
		}
	}
	f.missing = append(f.missing, names[0])
	return 0
}

func (f *finder) address(name string) uint64 {
	if field, ok := f.fields[name]; ok && field.address != 0 {
		return field.address
	}
	f.missing = append(f.missing, name)
	return 0
}

func (f *finder) size(name string) uint64 {
	if size := f.sizes[name]; size != 0 && size <= maxOffset {
		return size
	}
	f.missing = append(f.missing, "sizeof "+name)
	return 0
}

// has reports whether all these fields exist.
func (f *finder) has(names ...string) bool {
	for _, n := range names {
		if field, ok := f.fields[n]; !ok || field.offset > maxOffset {
			return false
		}
	}
	return true
}

// newOffsets finds all fields that are read.
func newOffsets(m memory, v *vmStructs) (*offsets, error) {
	f := &finder{vmStructs: v}
	o := &offsets{}
	version := f.address("Abstract_VM_Version._vm_major_version")
	if version != 0 {
		var err error
		if o.version, err = m.u32(version); err != nil {
			return nil, fmt.Errorf("read version: %w", err)
		}
	}
	if o.version == 0 {
		return nil, fmt.Errorf("%w: no version yet", ErrStarting)
	}
	if o.version < oldestVersion {
		return nil, fmt.Errorf("HotSpot %d is older than %d", o.version, oldestVersion)
	}
	o.findHeaps(f)
	o.findMethods(f)
	o.findBlobs(f)
	if len(f.missing) != 0 {
		return nil, fmt.Errorf("HotSpot %d does not describe %s", o.version, strings.Join(f.missing, ", "))
	}
	return o, nil
}

func (o *offsets) findHeaps(f *finder) {
	o.codeHeaps = f.address("CodeCache._heaps")
	o.interpreter = f.address("AbstractInterpreter._code")
	o.arrayLength = f.offset("GrowableArrayBase._len")
	o.arrayData = f.offset("GrowableArray<int>._data")
	o.heapMemory = f.offset("CodeHeap._memory")
	o.heapSegmap = f.offset("CodeHeap._segmap")
	o.heapLog2 = f.offset("CodeHeap._log2_segment_size")
	o.spaceLow = f.offset("VirtualSpace._low")
	o.spaceHighBoundary = f.offset("VirtualSpace._high_boundary")
	o.blockLength = f.offset("HeapBlock::Header._length")
	o.blockUsed = f.offset("HeapBlock::Header._used")
	o.blockHeader = f.size("HeapBlock")
	o.stubBuffer = f.offset("StubQueue._stub_buffer")
	o.stubLimit = f.offset("StubQueue._buffer_limit")
}

func (o *offsets) findMethods(f *finder) {
	o.methodConst = f.offset("Method._constMethod")
	o.constPool = f.offset("ConstMethod._constants")
	o.constNameIndex = f.offset("ConstMethod._name_index")
	o.constCodeSize = f.offset("ConstMethod._code_size")
	o.constFlags = f.offset("ConstMethod._flags", "ConstMethod._flags._flags")
	o.constSize = f.size("ConstMethod")
	o.constWords = f.offset("ConstMethod._constMethod_size")
	for _, n := range []string{"ConstMethod::_has_linenumber_table", "ConstMethodFlags::_misc_has_linenumber_table"} {
		// Without either there is no bit to find, and no line: no reason to give up.
		o.hasLines |= uint64(uint16(f.ints[n]))
	}
	o.poolTags = f.offset("ConstantPool._tags")
	o.poolHolder = f.offset("ConstantPool._pool_holder")
	o.poolLength = f.offset("ConstantPool._length")
	o.poolSource = f.offset("ConstantPool._source_file_name_index")
	o.poolSize = f.size("ConstantPool")
	o.tagsData = f.offset("Array<u1>._data")
	o.klassName = f.offset("Klass._name")
	o.symbolHash = f.offset("Symbol._hash_and_refcount")
	o.symbolLength = f.offset("Symbol._length")
	o.symbolBody = f.offset("Symbol._body")
}

func (o *offsets) findBlobs(f *finder) {
	o.blobName = f.offset("CodeBlob._name")
	o.blobFrameSize = f.offset("CodeBlob._frame_size")
	o.blobCode = f.offset("CodeBlob._code_offset", "CodeBlob._code_begin")
	o.blobCodeIsOffset = f.has("CodeBlob._code_offset")
	o.nmethodMethod = f.offset("nmethod._method", "CompiledMethod._method")
	o.nmethodCompileID = f.offset("nmethod._compile_id")
	o.pcDescSize = f.size("PcDesc")
	o.pcDescPC = f.offset("PcDesc._pc_offset")
	o.pcDescBody = f.offset("PcDesc._scope_decode_offset")
	for _, n := range []string{"_deopt_handler", "_deopt_mh_handler"} {
		// What is not described is not recognised: such frames stay without a name.
		for _, field := range []string{"nmethod." + n + "_offset", "CompiledMethod." + n + "_begin"} {
			if f.has(field) {
				o.deoptHandlers = append(o.deoptHandlers, f.offset(field))
			}
		}
	}
	o.nmethodSize = f.size("nmethod")
	s := &o.scopes
	switch {
	case f.has("nmethod._immutable_data", "nmethod._immutable_data_size", "nmethod._scopes_pcs_offset",
		"nmethod._scopes_data_offset", "CodeBlob._mutable_data", "CodeBlob._relocation_size"):
		s.known, s.outside = true, true
		s.immutable = f.offset("nmethod._immutable_data")
		s.immutableSize = f.offset("nmethod._immutable_data_size")
		s.pcs = f.offset("nmethod._scopes_pcs_offset")
		s.data = f.offset("nmethod._scopes_data_offset")
		s.mutable = f.offset("CodeBlob._mutable_data")
		s.metadata = f.offset("CodeBlob._relocation_size")
	case f.has("nmethod._scopes_pcs_offset", "nmethod._dependencies_offset",
		"CompiledMethod._scopes_data_begin", "nmethod._metadata_offset"):
		s.known = true
		s.pcs = f.offset("nmethod._scopes_pcs_offset")
		s.pcsEnd = f.offset("nmethod._dependencies_offset")
		s.dataBegin = f.offset("CompiledMethod._scopes_data_begin")
		s.metadata = f.offset("nmethod._metadata_offset")
	}
}
