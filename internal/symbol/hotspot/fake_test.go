package hotspot

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// fakeBase is the address of a fake process's memory, and fakeText that of libjvm's code.
const (
	fakeBase = 0x10000
	fakeText = 0x7f0000000000
)

// fakeMemory is a process with one piece of memory. It counts what is read of it.
type fakeMemory struct {
	bytes        []byte
	calls, total int
}

func (f *fakeMemory) ReadAt(buf []byte, addr uint64) (int, error) {
	f.calls++
	f.total += len(buf)
	if addr < fakeBase || addr-fakeBase >= uint64(len(f.bytes)) {
		return 0, errors.New("bad address")
	}
	n := copy(buf, f.bytes[addr-fakeBase:])
	if n < len(buf) {
		return n, errors.New("bad address")
	}
	return n, nil
}

// alloc makes room and returns its address.
func (f *fakeMemory) alloc(size int) uint64 {
	addr := fakeBase + uint64(len(f.bytes))
	f.bytes = append(f.bytes, make([]byte, (size+7)&^7)...)
	return addr
}

func (f *fakeMemory) words(values ...uint64) uint64 {
	addr := f.alloc(len(values) * pointerSize)
	for i, v := range values {
		f.put(addr+uint64(i)*pointerSize, v)
	}
	return addr
}

func (f *fakeMemory) put(addr, v uint64) {
	binary.LittleEndian.PutUint64(f.bytes[addr-fakeBase:], v)
}

func (f *fakeMemory) put32(addr uint64, v uint32) {
	binary.LittleEndian.PutUint32(f.bytes[addr-fakeBase:], v)
}

func (f *fakeMemory) put16(addr uint64, v uint16) {
	binary.LittleEndian.PutUint16(f.bytes[addr-fakeBase:], v)
}

func (f *fakeMemory) text(s string) uint64 {
	addr := f.alloc(len(s) + 1)
	copy(f.bytes[addr-fakeBase:], s)
	return addr
}

// fakeJVM is a JVM made by hand, with one Method and code compiled from it.
type fakeJVM struct {
	fakeMemory
	exports exports
	// fields, sizes and ints are what the tables will say.
	fields map[string]vmField
	sizes  map[string]uint64
	ints   map[string]uint64

	version, queue, heaps             uint64 // addresses of variables
	method, constMethod, pool, symbol uint64
	blob, code, scopeData             uint64
}

// The fake heap: one, in the fake memory.
const (
	fakeSegmentLog2 = 7
	fakeHeapSize    = 16 << fakeSegmentLog2
	fakeBlobName    = blobNmethod
	// fakeCall is where the fake code returns to, from its start.
	fakeCall = 24
)

// newFakeJVM builds it as JDK 25 is.
func newFakeJVM() *fakeJVM {
	j := &fakeJVM{
		exports: exports{}, fields: map[string]vmField{}, sizes: map[string]uint64{}, ints: map[string]uint64{},
	}
	j.version, j.queue, j.heaps = j.words(25), j.words(0), j.words(0)
	for name, offset := range map[string]uint64{
		"GrowableArrayBase._len": 0, "GrowableArray<int>._data": 8,
		"CodeHeap._memory": 0, "CodeHeap._segmap": 112, "CodeHeap._log2_segment_size": 248,
		"VirtualSpace._low": 16, "VirtualSpace._high_boundary": 8,
		"HeapBlock::Header._length": 0, "HeapBlock::Header._used": 4,
		"StubQueue._stub_buffer": 8, "StubQueue._buffer_limit": 20,
		"Method._constMethod": 8, "ConstMethod._constants": 8, "ConstMethod._constMethod_size": 24,
		"ConstMethod._flags._flags": 28, "ConstMethod._code_size": 34, "ConstMethod._name_index": 36,
		"ConstantPool._tags": 8, "ConstantPool._pool_holder": 24, "ConstantPool._length": 60,
		"ConstantPool._source_file_name_index": 54, "Array<u1>._data": 4, "Klass._name": 24,
		"Symbol._hash_and_refcount": 0, "Symbol._length": 4, "Symbol._body": 6,
		"CodeBlob._name": 8, "CodeBlob._frame_size": 44, "CodeBlob._code_offset": 36,
		"CodeBlob._mutable_data": 16, "CodeBlob._relocation_size": 28,
		"nmethod._method": 80, "nmethod._compile_id": 212, "nmethod._immutable_data": 96,
		"nmethod._immutable_data_size": 160, "nmethod._scopes_pcs_offset": 196, "nmethod._scopes_data_offset": 200,
		"nmethod._deopt_handler_offset": 176,
		"PcDesc._pc_offset":             0, "PcDesc._scope_decode_offset": 4,
	} {
		j.fields[name] = vmField{offset: offset}
	}
	j.fields["Abstract_VM_Version._vm_major_version"] = vmField{address: j.version}
	j.fields["CodeCache._heaps"] = vmField{address: j.heaps}
	j.fields["AbstractInterpreter._code"] = vmField{address: j.queue}
	j.sizes = map[string]uint64{"HeapBlock": 8, "ConstMethod": 56, "ConstantPool": 72, "PcDesc": 16, "nmethod": 224}
	j.ints = map[string]uint64{"ConstMethodFlags::_misc_has_linenumber_table": 1}
	j.makeMethod()
	j.makeCode()
	return j
}

func (j *fakeJVM) newSymbol(s string) uint64 {
	addr := j.alloc(6 + len(s))
	j.put16(addr+4, uint16(len(s)))
	copy(j.bytes[addr-fakeBase+6:], s)
	return addr
}

// makeMethod makes a.B.read of B.java, with line 5 for all its code.
func (j *fakeJVM) makeMethod() {
	const (
		name = iota + 1
		source
		slots
	)
	table := j.words(fakeText)
	tags := j.alloc(4 + slots)
	copy(j.bytes[tags-fakeBase+4:], []byte{0, tagUTF8, tagUTF8})
	klass := j.alloc(32)
	j.symbol = j.newSymbol("a/B")
	j.put(klass+24, j.symbol)
	nameSymbol, sourceSymbol := j.newSymbol("read"), j.newSymbol("B.java")
	j.pool = j.alloc(72 + slots*pointerSize)
	j.put(j.pool, table)
	j.put(j.pool+8, tags)
	j.put(j.pool+24, klass)
	j.put32(j.pool+60, slots)
	j.put16(j.pool+54, source)
	j.put(j.pool+72+name*pointerSize, nameSymbol)
	j.put(j.pool+72+source*pointerSize, sourceSymbol)
	j.constMethod = j.alloc(56 + 16)
	j.put(j.constMethod+8, j.pool)
	j.put32(j.constMethod+24, (56+16)/pointerSize)
	j.put32(j.constMethod+28, 1)
	j.put16(j.constMethod+34, 8) // bytes of code; a line number follows
	j.put16(j.constMethod+36, name)
	j.bytes[j.constMethod-fakeBase+56+8] = 0<<3 | 5
	j.method = j.words(table, j.constMethod)
}

// makeCode makes a heap with a block that is code of the method, and one with the
// interpreter.
func (j *fakeJVM) makeCode() {
	name := j.text(fakeBlobName)
	heap := j.alloc(256)
	segmap := j.alloc(fakeHeapSize >> fakeSegmentLog2)
	low := j.alloc(fakeHeapSize)
	j.put(heap+16, low)
	j.put(heap+8, low+fakeHeapSize)
	j.put(heap+112+16, segmap)
	j.put32(heap+248, fakeSegmentLog2)
	j.put(j.heaps, j.words(1, j.words(heap)))
	j.put32(low, 4) // segments
	j.bytes[low-fakeBase+4] = 1
	j.blob = low + 8
	j.code = j.blob + 256
	j.put(j.blob+8, name)
	j.put32(j.blob+36, 256)
	j.put(j.blob+80, j.method)
	j.put32(j.blob+212, 1)
	queue := j.alloc(24)
	j.put(queue+8, low+fakeHeapSize/2)
	j.put32(queue+20, fakeHeapSize/2)
	j.put(j.queue, queue)

	// One place, with two scopes: at 1 the method itself, inlined into itself at 4.
	j.put(j.blob+16, j.words(j.method))
	data := j.alloc(64)
	j.put(j.blob+96, data)
	j.put32(j.blob+160, 64)
	j.put32(j.blob+200, 48)
	j.scopeData = data + 48
	copy(j.bytes[j.scopeData-fakeBase:], []byte{0, 1 + 4, 1 + 1, 1 + 1, 1 + 0, 1 + 1, 1 + 1})
	j.put32(data, 1<<32-1)
	j.put32(data+16, fakeCall)
	j.put32(data+20, 1)
	j.put32(data+32, 1<<31-1)
}

// writeTables writes what gHotSpotVMStructs and the others point to. It always writes the
// same: what a fuzzer finds must stay true.
func (j *fakeJVM) writeTables() {
	variable := func(name string, v uint64) { j.exports[name] = j.words(v) }
	var entries []uint64
	for _, name := range slices.Sorted(maps.Keys(j.fields)) {
		f := j.fields[name]
		dot := strings.LastIndex(strings.TrimSuffix(name, "._flags"), ".")
		entries = append(entries, j.text(name[:dot]), j.text(name[dot+1:]), f.offset, f.address)
	}
	variable("gHotSpotVMStructs", j.words(append(entries, make([]uint64, 4)...)...))
	variable("gHotSpotVMStructEntryArrayStride", 32)
	for i, column := range []string{"TypeName", "FieldName", "Offset", "Address"} {
		variable("gHotSpotVMStructEntry"+column+"Offset", uint64(i)*pointerSize)
	}
	entries = nil
	for _, name := range slices.Sorted(maps.Keys(j.sizes)) {
		entries = append(entries, j.text(name), 0, j.sizes[name])
	}
	variable("gHotSpotVMTypes", j.words(append(entries, make([]uint64, 3)...)...))
	variable("gHotSpotVMTypeEntryArrayStride", 24)
	for i, column := range []string{"TypeName", "SuperclassName", "Size"} {
		variable("gHotSpotVMTypeEntry"+column+"Offset", uint64(i)*pointerSize)
	}
	entries = nil
	for _, name := range slices.Sorted(maps.Keys(j.ints)) {
		entries = append(entries, j.text(name), j.ints[name])
	}
	variable("gHotSpotVMIntConstants", j.words(append(entries, 0, 0)...))
	variable("gHotSpotVMIntConstantEntryArrayStride", 16)
	variable("gHotSpotVMIntConstantEntryNameOffset", 0)
	variable("gHotSpotVMIntConstantEntryValueOffset", 8)
	j.alloc(pageSize) // strings are read by pages
}

// runtime does what Detect does once it has the exports.
func (j *fakeJVM) runtime() (*Runtime, error) {
	return readRuntime(memory{&j.fakeMemory}, j.exports, object.VMA{Start: fakeText, End: fakeText + pageSize})
}

// compiledFrame is the frame that returns to the call.
func (j *fakeJVM) compiledFrame() *event.Frame {
	return &event.Frame{Kind: event.FrameCompiled, Return: true, Addr: j.code + fakeCall, Aux: j.blob}
}
