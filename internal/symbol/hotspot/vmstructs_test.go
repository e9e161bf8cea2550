package hotspot

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
)

// TestFakeJVM checks the fake: the tests below mean something only if it is right.
func TestFakeJVM(t *testing.T) {
	j := newFakeJVM()
	j.writeTables()
	r, err := j.runtime()
	if err != nil {
		t.Fatal(err)
	}
	frame := func(addr uint64, line int) symbol.Frame {
		return symbol.Frame{Function: "a.B.read", File: "B.java", Line: line, Offset: addr, Kind: symbol.Java}
	}
	f := j.compiledFrame()
	if got, want := r.Names(f), []symbol.Frame{frame(f.Addr-1, 5), frame(f.Addr-1, 5)}; !slices.Equal(got, want) {
		t.Errorf("compiled: %v, want %v", got, want)
	}
	got := r.Names(&event.Frame{Kind: event.FrameInterpreted, Addr: 7, Aux: j.method})
	if want := []symbol.Frame{frame(7, 0)}; !slices.Equal(got, want) {
		t.Errorf("interpreted: %v, want %v", got, want)
	}
}

// TestRefused: JVMs that cannot be read, each with a reason.
func TestRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		change   func(*fakeJVM)
		want     string
		starting bool
	}{
		"too old":        {func(j *fakeJVM) { j.put(j.version, 11) }, "HotSpot 11 is older than 17", false},
		"no version":     {func(j *fakeJVM) { j.put(j.version, 0) }, "no version yet", true},
		"no interpreter": {func(j *fakeJVM) { j.put(j.queue, 0) }, "no interpreter yet", true},
		"interpreter elsewhere": {
			func(j *fakeJVM) { j.put(j.queue, j.words(0, fakeBase, 1<<32)) }, "cannot be", false,
		},
		"no heap":        {func(j *fakeJVM) { j.put(j.heaps, j.words(0, 0)) }, "0 code heaps", false},
		"too many heaps": {func(j *fakeJVM) { j.put(j.heaps, j.words(5, 0)) }, "5 code heaps", false},
		"heaps unmapped": {func(j *fakeJVM) { j.put(j.heaps, 8) }, "read number of code heaps", false},
		"empty heap": {
			func(j *fakeJVM) { j.put(j.heaps, j.words(1, j.words(j.alloc(256)))) }, "read code heap 0", false,
		},
		"field missing": {func(j *fakeJVM) { delete(j.fields, "Klass._name") }, "does not describe Klass._name", false},
		"field too far": {
			func(j *fakeJVM) { j.fields["Klass._name"] = vmField{offset: maxOffset + 1} }, "does not describe Klass._name", false,
		},
		"size missing": {func(j *fakeJVM) { delete(j.sizes, "PcDesc") }, "does not describe sizeof PcDesc", false},
	} {
		j := newFakeJVM()
		tt.change(j)
		j.writeTables()
		_, err := j.runtime()
		if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, ErrStarting) != tt.starting {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTablesNotReady: tables that are not, or not yet, are a JVM that is starting.
func TestTablesNotReady(t *testing.T) {
	for name, change := range map[string]func(*fakeJVM){
		"not exported":      func(j *fakeJVM) { delete(j.exports, "gHotSpotVMTypes") },
		"not set":           func(j *fakeJVM) { j.put(j.exports["gHotSpotVMStructs"], 0) },
		"no stride":         func(j *fakeJVM) { j.put(j.exports["gHotSpotVMStructEntryArrayStride"], 0) },
		"huge stride":       func(j *fakeJVM) { j.put(j.exports["gHotSpotVMStructEntryArrayStride"], 1<<40) },
		"column outside":    func(j *fakeJVM) { j.put(j.exports["gHotSpotVMStructEntryAddressOffset"], 25) },
		"not relocated":     func(j *fakeJVM) { j.put(j.exports["gHotSpotVMStructs"], 0x1000) },
		"name unmapped":     func(j *fakeJVM) { j.put(j.exports["gHotSpotVMStructs"], j.words(1, 1, 1, 1)) },
		"name without end":  func(j *fakeJVM) { j.put(j.exports["gHotSpotVMTypes"], j.words(j.text(strings.Repeat("x", 300)), 0, 0)) },
		"table without end": func(j *fakeJVM) { j.put(j.exports["gHotSpotVMTypeEntryArrayStride"], 8); j.endless() },
	} {
		j := newFakeJVM()
		j.writeTables()
		change(j)
		j.alloc(pageSize)
		if _, err := j.runtime(); !errors.Is(err, ErrStarting) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// endless makes a table of types that never ends.
func (j *fakeJVM) endless() {
	name := j.text("x")
	entries := slices.Repeat([]uint64{name}, maxEntries+100)
	j.put(j.exports["gHotSpotVMTypes"], j.words(entries...))
	for _, column := range []string{"TypeName", "SuperclassName", "Size"} {
		j.put(j.exports["gHotSpotVMTypeEntry"+column+"Offset"], 0)
	}
}

// TestImplausible: memory that is not what it was has no name.
func TestImplausible(t *testing.T) {
	for name, change := range map[string]func(*fakeJVM){
		"not virtual":        func(j *fakeJVM) { j.put(j.method, j.words(fakeText-1)) },
		"pool not virtual":   func(j *fakeJVM) { j.put(j.pool, 0) },
		"name is no string":  func(j *fakeJVM) { j.put16(j.constMethod+36, 0) },
		"name is outside":    func(j *fakeJVM) { j.put16(j.constMethod+36, 3) },
		"tags are unmapped":  func(j *fakeJVM) { j.put(j.pool+8, 8) },
		"class is unmapped":  func(j *fakeJVM) { j.put(j.pool+24, 8) },
		"class name empty":   func(j *fakeJVM) { j.put16(j.symbol+4, 0) },
		"class name long":    func(j *fakeJVM) { j.put16(j.symbol+4, maxSymbol+1) },
		"class name with 0":  func(j *fakeJVM) { j.put16(j.symbol+4, 4) },
		"class name illegal": func(j *fakeJVM) { copy(j.bytes[j.symbol-fakeBase+6:], "a.B") },
	} {
		j := newFakeJVM()
		j.writeTables()
		r, err := j.runtime()
		if err != nil {
			t.Fatal(err)
		}
		change(j)
		if got := r.Names(&event.Frame{Kind: event.FrameInterpreted, Aux: j.method}); got != nil {
			t.Errorf("%s: interpreted: %v", name, got)
		}
		if got := r.Names(j.compiledFrame()); got != nil {
			t.Errorf("%s: compiled: %v", name, got)
		}
	}
}

// TestReused: a name that was read is not believed when its place serves another method.
func TestReused(t *testing.T) {
	j := newFakeJVM()
	j.writeTables()
	r, err := j.runtime()
	if err != nil {
		t.Fatal(err)
	}
	interpreted := event.Frame{Kind: event.FrameInterpreted, Aux: j.method}
	name := func(f *event.Frame) string {
		s, _ := r.Name(f)
		return s.Function
	}
	if name(&interpreted) != "a.B.read" || name(j.compiledFrame()) != "a.B.read" {
		t.Fatal("no names to begin with")
	}
	// Another class with the same methods, at the same addresses: only the hash tells.
	copy(j.bytes[j.symbol-fakeBase+6:], "a/C")
	j.put16(j.symbol+2, 99)
	if got := name(&interpreted); got != "a.C.read" {
		t.Errorf("class replaced: %q", got)
	}
	if got := name(j.compiledFrame()); got != "a.B.read" {
		t.Errorf("the code, and with it its methods, is still there, but has the name %q", got)
	}
	j.put32(j.blob+212, 2)
	if got := name(j.compiledFrame()); got != "a.C.read" {
		t.Errorf("code replaced: %q", got)
	}
	j.bytes[j.blob-fakeBase-4] = 0
	if got := name(j.compiledFrame()); got != "" {
		t.Errorf("code freed: %q", got)
	}
}

// TestScopesThatLie: inlined methods that do not lead back to the compiled one are left out.
func TestScopesThatLie(t *testing.T) {
	other := func(j *fakeJVM) uint64 { return j.words(j.words(fakeText), j.constMethod) }
	for name, change := range map[string]func(*fakeJVM){
		"in a circle":       func(j *fakeJVM) { j.bytes[j.scopeData-fakeBase+1] = 1 + 1 },
		"outside":           func(j *fakeJVM) { j.bytes[j.scopeData-fakeBase+1] = 1 + 60 },
		"no number":         func(j *fakeJVM) { j.bytes[j.scopeData-fakeBase+3] = 0 },
		"no method":         func(j *fakeJVM) { j.bytes[j.scopeData-fakeBase+2] = 1 },
		"method unmapped":   func(j *fakeJVM) { j.bytes[j.scopeData-fakeBase+2] = 1 + 100 },
		"another at bottom": func(j *fakeJVM) { j.put(j.blob+16, j.words(other(j))) },
	} {
		j := newFakeJVM()
		j.writeTables()
		change(j)
		r, err := j.runtime()
		if err != nil {
			t.Fatal(err)
		}
		got := r.Names(j.compiledFrame())
		if len(got) != 1 || got[0].Function != "a.B.read" || got[0].Line != 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestDeoptHandler: a return address that was replaced by that of the deoptimization.
func TestDeoptHandler(t *testing.T) {
	j := newFakeJVM()
	j.writeTables()
	r, err := j.runtime()
	if err != nil {
		t.Fatal(err)
	}
	f := j.compiledFrame()
	f.Addr = j.code + 40
	if got := r.Names(f); got != nil {
		t.Errorf("a place that is no call: %v", got)
	}
	j.put32(j.blob+176, uint32(f.Addr-j.blob))
	if got := r.Names(f); len(got) != 1 {
		t.Errorf("the deoptimization: %v", got)
	}
}

// FuzzVMStructs reads a JVM that is broken in any places: it must end, without a panic, and
// without reading much. The input are the changes: an offset in the memory, of two bytes,
// and the eight bytes that are there instead.
func FuzzVMStructs(f *testing.F) {
	const change = 2 + pointerSize
	j := newFakeJVM()
	j.writeTables()
	changed := func(addr, value uint64) []byte {
		b := binary.LittleEndian.AppendUint16(nil, uint16(addr-fakeBase))
		return binary.LittleEndian.AppendUint64(b, value)
	}
	f.Add([]byte{})
	f.Add(changed(j.exports["gHotSpotVMStructEntryArrayStride"], 8))
	f.Add(changed(j.exports["gHotSpotVMTypes"], fakeBase))
	f.Add(changed(j.scopeData, 0x0101010101010101))
	f.Add(changed(j.blob+192, 1<<63))
	f.Add(changed(j.symbol, 0xffffffff0000))
	f.Add(slices.Concat(changed(j.pool+56, 1<<63), changed(j.constMethod+32, 1<<63-1), changed(j.constMethod+24, 1<<31)))
	const maxCalls = 4 * maxEntries
	f.Fuzz(func(t *testing.T, changes []byte) {
		m := &fakeMemory{bytes: slices.Clone(j.bytes)}
		for ; len(changes) >= change; changes = changes[change:] {
			at := min(int(binary.LittleEndian.Uint16(changes)), len(m.bytes)-pointerSize)
			copy(m.bytes[at:], changes[2:change])
		}
		r, err := readRuntime(memory{m}, j.exports, object.VMA{Start: fakeText, End: fakeText + pageSize})
		if err == nil {
			low := r.layout.Heaps[0].Low + uint64(r.layout.BlockHeader)
			for _, aux := range []uint64{j.method, j.blob, low, ^uint64(pointerSize)} {
				for _, kind := range []event.FrameKind{event.FrameInterpreted, event.FrameCompiled} {
					r.Names(&event.Frame{Kind: kind, Return: true, Addr: j.code + fakeCall, Aux: aux})
					r.Names(&event.Frame{Kind: kind, Addr: aux + fakeCall, Aux: aux})
				}
			}
		}
		if m.calls > maxCalls || m.total > maxCalls*maxStride+maxStringPages*pageSize {
			t.Errorf("%d reads of %d bytes", m.calls, m.total)
		}
	})
}

// FuzzExports reads any file as a library.
func FuzzExports(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Add(tinyELF())
	f.Fuzz(func(_ *testing.T, file []byte) {
		_, _ = readExports(strings.NewReader(string(file)), &object.VMA{Start: 0x400000, End: 0x401000})
	})
}

// tinyELF is a library with one symbol.
func tinyELF() []byte {
	const (
		header, segment, section = 64, 56, 64
		symbols                  = header + segment + 2*section
		text                     = symbols + 2*24
	)
	name := "\x00gHotSpotVMStructs\x00"
	b := make([]byte, text+len(name))
	le := binary.LittleEndian
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint64(b[32:], header)
	le.PutUint64(b[40:], header+segment)
	le.PutUint16(b[56:], 1)
	le.PutUint16(b[60:], 2)
	le.PutUint32(b[header:], 1) // PT_LOAD
	le.PutUint64(b[header+16:], 0x1000)
	le.PutUint64(b[header+32:], uint64(len(b)))
	dynsym := b[header+segment:]
	le.PutUint32(dynsym[4:], 11) // SHT_DYNSYM
	le.PutUint64(dynsym[24:], symbols)
	le.PutUint64(dynsym[32:], 2*24)
	le.PutUint32(dynsym[40:], 1)
	le.PutUint64(dynsym[section+24:], text)
	le.PutUint64(dynsym[section+32:], uint64(len(name)))
	le.PutUint32(b[symbols+24:], 1)
	le.PutUint64(b[symbols+24+8:], 0x1234)
	copy(b[text:], name)
	return b
}

func TestReadExports(t *testing.T) {
	at := &object.VMA{Start: 0x7f0000001000, End: 0x7f0000002000, Offset: 0}
	e, err := readExports(strings.NewReader(string(tinyELF())), at)
	if want := (exports{"gHotSpotVMStructs": 0x7f0000001234}); err != nil || !maps.Equal(e, want) {
		t.Errorf("%x, %v, want %x", e, err, want)
	}
	at.Offset = 1 << 20
	if _, err := readExports(strings.NewReader(string(tinyELF())), at); err == nil {
		t.Error("a mapping of no segment")
	}
	for size := range tinyELF() {
		if _, err := readExports(strings.NewReader(string(tinyELF()[:size])), at); err == nil {
			t.Errorf("no error with %d bytes of it", size)
		}
	}
}
