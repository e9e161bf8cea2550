package v8

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
)

// node20 are the constants of Node.js 20.
var node20 = constants{
	heapObjectMap: 0, mapInstanceType: 12,
	functionShared: 24, sharedName: 16, sharedScript: 32, scriptName: 16,
	stringLength: 12, oneByteChars: 16, twoByteChars: 16,
	consFirst: 16, consSecond: 24, thinActual: 16, slicedParent: 16, slicedOffset: 24,
	scopeLocals: 2, scopeFirst: 3,
	typeFunction: 0x812, typeMap: 0xff, typeScript: 0xa7, typeScope: 0x105,
	typeShared: 0x106, typeOddball: 0x83,
	notStringMask: -0x80, representationMask: 7, encodingMask: 8,
	sequential: 0, cons: 1, sliced: 3, thin: 5, oneByte: 8,
	heapObjectTag: 1, heapObjectMask: 3, taggedSize: 8, smiShift: 31, smiTagSize: 1,
}

const (
	typeExternal = 2    // StringShape: the representation of strings the embedder keeps
	typeString   = 0x20 // not internalized
	imageBase    = 1 << 20
)

// image is a heap of V8's that exists only here: bytes from imageBase on.
type image struct {
	data []byte
	maps map[int32]value
}

// ReadAt implements object.Memory.
func (m *image) ReadAt(buf []byte, addr uint64) (int, error) {
	if addr < imageBase || addr-imageBase > uint64(len(m.data)) {
		return 0, errors.New("not mapped")
	}
	n := copy(buf, m.data[addr-imageBase:])
	if n < len(buf) {
		return n, errors.New("ends there")
	}
	return n, nil
}

// words adds words and returns where they are as a tagged value.
func (m *image) words(words ...value) value {
	at := value(imageBase + len(m.data) + 1)
	for _, w := range words {
		m.data = binary.LittleEndian.AppendUint64(m.data, uint64(w))
	}
	return at
}

func smi(i int) value { return value(i) << 32 }

// shape returns the map of a type.
func (m *image) shape(t int32) value {
	if m.maps == nil {
		m.maps = map[int32]value{}
	}
	if m.maps[t] == 0 {
		meta := value(imageBase + len(m.data) + 1) // the map of maps is its own
		if t != node20.typeMap {
			meta = m.shape(node20.typeMap)
		}
		m.maps[t] = m.words(meta, value(t)<<32, 0)
	}
	return m.maps[t]
}

// object adds an object of a type.
func (m *image) object(t int32, words ...value) value {
	shape := m.shape(t)
	return m.words(append([]value{shape}, words...)...)
}

// oneByte and twoByte add strings as they are; header is hash and length.
func (m *image) oneByte(s string) value {
	return m.chars(typeString|node20.oneByte, []byte(s), len(s))
}

func (m *image) twoByte(s string) value {
	var data []byte
	chars := utf16.Encode([]rune(s))
	for _, c := range chars {
		data = binary.LittleEndian.AppendUint16(data, c)
	}
	return m.chars(typeString, data, len(chars))
}

func (m *image) chars(t int32, data []byte, length int) value {
	v := m.object(t, smi(length))
	m.data = append(m.data, data...)
	for len(m.data)%wordSize != 0 {
		m.data = append(m.data, 0)
	}
	return v
}

func (m *image) runtime() *Runtime {
	r := &Runtime{known: map[value]function{}}
	r.heap.constants, r.heap.memory = node20, m
	return r
}

func frame(v value) *event.Frame { return &event.Frame{Kind: event.FrameAnon, Aux: uint64(v)} }

// function adds a function with that name_or_scope_info.
func (m *image) function(name value) value {
	undefined := m.object(node20.typeOddball, 0, 0, 0, 0)
	script := m.object(node20.typeScript, undefined, m.oneByte("/srv/\xe9.js"))
	shared := m.object(node20.typeShared, undefined, name, undefined, script, 0, 0)
	return m.object(node20.typeFunction, undefined, undefined, shared)
}

func TestText(t *testing.T) {
	m := &image{}
	latin, wide := m.oneByte("caf\xe9"), m.twoByte("京𠀀")
	both := m.object(typeString|node20.cons, smi(7), latin, wide)
	thin := m.object(typeString|node20.thin, smi(7), both)
	loop := m.object(typeString|node20.cons, smi(8), latin, latin)
	at := uint64(loop) - 1 - imageBase
	binary.LittleEndian.PutUint64(m.data[at+uint64(node20.consFirst):], uint64(loop))
	for name, test := range map[string]struct {
		v    value
		want string // "" is refused
	}{
		"one byte":           {latin, "café"},
		"two bytes":          {wide, "京𠀀"},
		"two parts":          {both, "café京𠀀"},
		"thin":               {thin, "café京𠀀"},
		"a part":             {m.object(typeString|node20.sliced, smi(3), thin, smi(3)), "é京\ufffd"},
		"a part of a part":   {m.object(typeString|node20.sliced, smi(1), m.object(typeString|node20.sliced, smi(2), latin, smi(2)), smi(1)), "é"},
		"part out of it":     {m.object(typeString|node20.sliced, smi(3), latin, smi(2)), ""},
		"part before it":     {m.object(typeString|node20.sliced, smi(3), latin, smi(-1)), ""},
		"of itself":          {loop, ""},
		"too long":           {m.oneByte(strings.Repeat("a", maxChars+1)), ""},
		"of negative length": {m.object(typeString|node20.oneByte, smi(-1)), ""},
		"past the end":       {m.object(typeString|node20.oneByte, smi(maxChars)), ""},
		"external":           {m.object(typeString|typeExternal, smi(1), 0, 0), ""},
		"unknown":            {m.object(typeString|7, smi(1), latin), ""},
		"no string":          {m.object(node20.typeOddball, smi(1)), ""},
		"a number":           {smi(4), ""},
		"weak":               {latin + 2, ""},
		"not mapped":         {1<<40 + 1, ""},
		"moved":              {m.words(latin-1, smi(1)), ""},
		"a map of no map":    {m.words(latin, smi(1)), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := m.runtime().heap.text(test.v)
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

func TestName(t *testing.T) {
	m := &image{}
	undefined := m.object(node20.typeOddball, 0, 0, 0, 0)
	own, inferred := m.oneByte("own"), m.oneByte("a.inferred")
	empty, local := m.oneByte(""), m.oneByte("local")
	outer := m.object(node20.typeScope, smi(0), smi(0), smi(0), 0, 0, own)
	scope := func(words ...value) value {
		return m.object(node20.typeScope, append([]value{smi(0), smi(0)}, words...)...)
	}
	many := []value{smi(inlineLocals), undefined}
	for range inlineLocals {
		many = append(many, smi(7))
	}
	for name, test := range map[string]struct {
		info value
		want string // "" is refused
	}{
		"string":          {own, "own"},
		"none":            {0, anonymous},
		"empty":           {empty, anonymous},
		"own":             {scope(smi(0), own, smi(1), inferred, smi(0), smi(9), outer), "own"},
		"inferred":        {scope(smi(0), inferred, smi(0), smi(9), outer), "a.inferred"},
		"empty, inferred": {scope(smi(0), empty, smi(1), inferred, outer), "a.inferred"},
		"undefined":       {scope(smi(0), undefined, smi(0), smi(9), outer), anonymous},
		"of the outer":    {scope(smi(0), smi(0), smi(9), outer, own), anonymous},
		"local":           {scope(smi(1), local, smi(7), own, smi(1), outer), "own"},
		"many locals":     {scope(append(many, own, smi(1), outer)...), "own"},
		"too many":        {scope(smi(maxLocals+1), own), ""},
		"negative":        {scope(smi(-1), own), ""},
		"no count":        {scope(own, own), ""},
		"something else":  {undefined, ""},
		"broken":          {scope(smi(0), m.words(own, 0, 0)), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := m.runtime().Name(frame(m.function(test.info)))
			want := symbol.Frame{Function: test.want, File: "/srv/é.js", Kind: symbol.JS}
			if test.want == "" {
				want = symbol.Frame{}
			}
			if got != want || ok != (test.want != "") {
				t.Errorf("got %+v, %v, want %+v", got, ok, want)
			}
		})
	}
}

// TestNameNone: what holds no function has no name.
func TestNameNone(t *testing.T) {
	m := &image{}
	own := m.oneByte("own")
	f := m.function(own)
	shared := m.object(node20.typeShared, 0, own, 0, own, 0, 0)
	for name, test := range map[string]event.Frame{
		"of another kind": {Kind: event.FramePython, Aux: uint64(f)},
		"no object":       {Kind: event.FrameAnon},
		"a number":        {Kind: event.FrameAnon, Aux: 1 << 32},
		"kernel address":  {Kind: event.FrameAnon, Aux: 0xffffff0000000001},
		"no function":     {Kind: event.FrameAnon, Aux: uint64(own)},
		"shared":          {Kind: event.FrameAnon, Aux: uint64(shared)},
		"of another type": {Kind: event.FrameFile, Aux: uint64(m.object(node20.typeFunction+functionTypes, 0, 0, shared))},
		"not compiled":    {Kind: event.FrameFile, Aux: uint64(m.object(node20.typeFunction, 0, 0, own))},
		"moved":           {Kind: event.FrameAnon, Aux: uint64(m.words(f-1, 0, 0, shared))},
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := m.runtime().Name(&test); ok || got != (symbol.Frame{}) {
				t.Errorf("named %+v", got)
			}
		})
	}
}

// TestNameChanged: what was kept of a function is not believed when it changed.
func TestNameChanged(t *testing.T) {
	m := &image{}
	f := m.function(m.oneByte("first"))
	r := m.runtime()
	for _, want := range []string{"first", "second", "third"} {
		if want != "first" {
			shared, err := r.heap.shared(f)
			if err != nil {
				t.Fatal(err)
			}
			name := m.oneByte(want)
			at := uint64(shared) - 1 - imageBase + uint64(node20.sharedName)
			binary.LittleEndian.PutUint64(m.data[at:], uint64(name))
		}
		if got, ok := r.Name(frame(f)); !ok || got.Function != want {
			t.Errorf("named %+v, %v, want %s", got, ok, want)
		}
	}
}

// TestKnownBounded: a program that makes functions for ever does not fill our memory.
func TestKnownBounded(t *testing.T) {
	m := &image{}
	r := m.runtime()
	for range maxKnown + 10 {
		if _, ok := r.Name(frame(m.function(m.oneByte("f")))); !ok {
			t.Fatal("no name")
		}
	}
	if len(r.known) > maxKnown {
		t.Errorf("%d functions kept", len(r.known))
	}
}

// FuzzName gives everything a process can hold where a function should be.
func FuzzName(f *testing.F) {
	m := &image{}
	scope := m.object(node20.typeScope, smi(0), smi(0), smi(0), m.twoByte("京"))
	for _, info := range []value{0, m.oneByte("f"), scope} {
		v := m.function(info)
		f.Add(append([]byte(nil), m.data...), uint64(v))
	}
	f.Fuzz(func(t *testing.T, data []byte, aux uint64) {
		r := (&image{data: data}).runtime()
		got, ok := r.Name(frame(value(aux)))
		if !ok && got != (symbol.Frame{}) {
			t.Errorf("no name, but %+v", got)
		}
		const widest = 4 // bytes of a character in UTF-8
		if ok && got.Function == "" || max(len(got.Function), len(got.File)) > maxChars*widest {
			t.Errorf("name of %d bytes, file of %d", len(got.Function), len(got.File))
		}
	})
}

func TestConstants(t *testing.T) {
	for name, test := range map[string]struct {
		change func(c *constants)
		want   string // in the error; "" is none
	}{
		"node 20":    {func(*constants) {}, ""},
		"compressed": {func(c *constants) { c.taggedSize = 4 }, "compressed"},
		"tags":       {func(c *constants) { c.heapObjectMask = 1 }, "tags"},
		"offset":     {func(c *constants) { c.sharedName = headSize }, "offset 64"},
		"scopes":     {func(c *constants) { c.scopeFirst = maxIndex + 1 }, "ScopeInfo"},
		"negative":   {func(c *constants) { c.scriptName = -1 }, "offset -1"},
	} {
		c := node20
		test.change(&c)
		err := c.check()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}
