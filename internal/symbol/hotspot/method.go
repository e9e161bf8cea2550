package hotspot

import (
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
)

const (
	// tagUTF8 marks a slot of a constant pool that is a Symbol (JVMS 4.4: CONSTANT_Utf8).
	tagUTF8 = 1
	// maxSymbol bounds a name, in bytes. Java allows 65,535; names of classes come from
	// files, whose names have at most 255, and their packages.
	maxSymbol = 2048
	// maxMethods bounds the methods that are remembered: some 200 bytes each, 6 KiB where
	// every name is as long as it can be.
	maxMethods = 4096
	// maxVtables bounds the tables of virtual functions that are remembered. Method and
	// ConstantPool have up to three each: libjvm's, and copies for the shared archives.
	maxVtables = 16
	// symbolHashMask: the other bits of the word count references.
	symbolHashMask = 0xffff0000
)

// method is what is known of a Method.
type method struct {
	key            methodKey
	function, file string
	// lineTable and lineTableEnd are addresses, 0 without line numbers.
	lineTable, lineTableEnd uint64
}

// methodKey tells whether a Method is still the one that was read: the structures that
// lead to its name, and of the last of them, the Symbol of its class, which other classes
// may get when this one is gone, a random number that HotSpot gives it.
type methodKey struct {
	constMethod, pool, holder, className uint64
	nameIndex                            uint16
	classHash                            uint32
}

// methodView are copies of the structures behind a Method.
type methodView struct {
	key               methodKey
	constMethod, pool view
}

// frame is a frame of the method; line 0 is unknown.
func (m *method) frame(addr uint64, line int) symbol.Frame {
	return symbol.Frame{Function: m.function, File: m.file, Line: line, Offset: addr, Kind: symbol.Java}
}

// method reads the Method at an address; nil if there is none. If the process is gone,
// what was read before is still true.
func (r *Runtime) method(addr uint64) *method {
	known := r.methods[addr]
	v := r.viewMethod(addr)
	switch {
	case v == nil && known != nil && r.gone():
		return known
	case v == nil:
		return nil
	case known != nil && known.key == v.key:
		return known
	}
	m := r.newMethod(v)
	if m == nil {
		return nil
	}
	if len(r.methods) >= maxMethods {
		clear(r.methods)
	}
	r.methods[addr] = m
	return m
}

// viewMethod follows the pointers from a Method to the name of its class.
func (r *Runtime) viewMethod(addr uint64) *methodView {
	o := r.offsets
	m, err := r.memory.read(addr, int(o.methodConst+pointerSize))
	if err != nil || !r.virtual(m) {
		return nil
	}
	v := &methodView{key: methodKey{constMethod: m.u64(o.methodConst)}}
	if v.constMethod, err = r.memory.read(v.key.constMethod, int(o.constSize)); err != nil {
		return nil
	}
	v.key.pool = v.constMethod.u64(o.constPool)
	v.key.nameIndex = v.constMethod.u16(o.constNameIndex)
	if v.pool, err = r.memory.read(v.key.pool, int(o.poolSize)); err != nil || !r.virtual(v.pool) {
		return nil
	}
	v.key.holder = v.pool.u64(o.poolHolder)
	if v.key.className, err = r.memory.u64(v.key.holder + o.klassName); err != nil {
		return nil
	}
	s, err := r.memory.read(v.key.className, int(o.symbolBody))
	if err != nil {
		return nil
	}
	v.key.classHash = s.u32(o.symbolHash) & symbolHashMask
	return v
}

// newMethod reads the names; nil if they cannot be names.
func (r *Runtime) newMethod(v *methodView) *method {
	class, ok := r.symbol(v.key.className)
	if !ok {
		return nil
	}
	if class, ok = className(class); !ok {
		return nil
	}
	name, ok := r.poolString(v, v.key.nameIndex)
	if !ok || !isMethodName(name) {
		return nil
	}
	m := &method{key: v.key, function: class + "." + name}
	if source := v.pool.u16(r.offsets.poolSource); source != 0 {
		// A class need not have one.
		m.file, _ = r.poolString(v, source)
	}
	m.lineTable, m.lineTableEnd = r.lineTable(v)
	return m
}

// poolString reads a string of a constant pool.
func (r *Runtime) poolString(v *methodView, index uint16) (string, bool) {
	o := r.offsets
	if index == 0 || uint32(index) >= v.pool.u32(o.poolLength) {
		return "", false
	}
	tag, err := r.memory.read(v.pool.u64(o.poolTags)+o.tagsData+uint64(index), 1)
	if err != nil || tag.u8(0) != tagUTF8 {
		return "", false
	}
	s, err := r.memory.u64(v.key.pool + o.poolSize + uint64(index)*pointerSize)
	if err != nil {
		return "", false
	}
	return r.symbol(s)
}

// symbol reads a Symbol.
func (r *Runtime) symbol(addr uint64) (string, bool) {
	head, err := r.memory.read(addr, int(r.offsets.symbolBody))
	if err != nil {
		return "", false
	}
	length := head.u16(r.offsets.symbolLength)
	if length == 0 || length > maxSymbol {
		return "", false
	}
	body, err := r.memory.read(addr+r.offsets.symbolBody, int(length))
	if err != nil {
		return "", false
	}
	return decodeUTF8(body)
}

// virtual reports whether an object starts with a pointer to a table of functions of
// libjvm, as Method and ConstantPool do.
func (r *Runtime) virtual(object view) bool {
	table := object.u64(0)
	if _, ok := r.vtables[table]; ok {
		return true
	}
	first, err := r.memory.u64(table)
	if err != nil || first < r.text.Start || first >= r.text.End {
		return false
	}
	if len(r.vtables) >= maxVtables {
		clear(r.vtables)
	}
	r.vtables[table] = struct{}{}
	return true
}
