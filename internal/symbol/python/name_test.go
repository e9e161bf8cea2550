package python

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
)

// image is the memory of a process that exists only here: bytes from imageBase on.
type image []byte

const imageBase = 0x10000

// ReadAt implements object.Memory.
func (m image) ReadAt(buf []byte, addr uint64) (int, error) {
	if addr < imageBase || addr-imageBase > uint64(len(m)) {
		return 0, errors.New("not mapped")
	}
	n := copy(buf, m[addr-imageBase:])
	if n < len(buf) {
		return n, errors.New("ends there")
	}
	return n, nil
}

// Where the objects of the image are; types are only compared, they are nowhere.
const (
	codeAt     = imageBase
	qualnameAt = imageBase + 0x200
	fileAt     = imageBase + 0x300
	linesAt    = imageBase + 0x400
	imageEnd   = imageBase + 0x500

	codeType, unicodeType, bytesType, noneAt = 0x1000, 0x1100, 0x1200, 0x1300
)

// States of strings: bytes of a character << 2, compact, ASCII.
const (
	stateASCII = 1<<kindShift | compactBit | asciiBit
	stateWide  = 2<<kindShift | compactBit
)

func (m image) put64(at uint64, values ...uint64) {
	for i, v := range values {
		binary.LittleEndian.PutUint64(m[at-imageBase+8*uint64(i):], v)
	}
}

func (m image) putText(at, start uint64, state uint32, length int, data string) {
	m.put64(at, 1, unicodeType, uint64(length))
	binary.LittleEndian.PutUint32(m[at-imageBase+textStateOffset:], state)
	copy(m[at-imageBase+start:], data)
}

// newImage holds a function of 4 code units in line 10, in 3.11.
func newImage() image {
	m := make(image, imageEnd-imageBase)
	o := &offsets311
	m.put64(codeAt, 1, codeType, 4)
	m.put64(codeAt+uint64(o.code.file), fileAt)
	m.put64(codeAt+uint64(o.code.qualname), qualnameAt)
	m.put64(codeAt+uint64(o.code.lines), linesAt)
	binary.LittleEndian.PutUint32(m[o.code.firstLine:], 10)
	binary.LittleEndian.PutUint32(m[o.code.traceable:], 1)
	m.putText(qualnameAt, o.compact, stateWide, 3, "\xac\x4e\x2e\x00f\x00") // 京.f
	m.putText(fileAt, o.ascii, stateASCII, 6, "/kyo.p")
	m.put64(linesAt, 1, bytesType, 2)
	copy(m[linesAt-imageBase+bytesDataOffset:], []byte{0x80 | 3, 0})
	return m
}

func newRuntime(m image) *Runtime {
	return &Runtime{
		memory: memory{m}, offsets: offsets311,
		types: types{code: codeType, unicode: unicodeType, bytes: bytesType, none: noneAt},
	}
}

// instruction is the address of a code unit of the image's function.
func instruction(i int) uint64 {
	return codeAt + uint64(offsets311.code.instructions) + uint64(i*instructionSize)
}

func TestName(t *testing.T) {
	function := symbol.Frame{Function: "京.f", File: "/kyo.p", Line: 10, Kind: symbol.Python}
	for name, test := range map[string]struct {
		frame event.Frame
		want  symbol.Frame
		ok    bool
	}{
		"first":        {event.Frame{Addr: codeAt, Aux: instruction(1)}, function, true},
		"last":         {event.Frame{Addr: codeAt, Aux: instruction(3)}, function, true},
		"none":         {event.Frame{Addr: noneAt}, symbol.Frame{Kind: symbol.Python}, true},
		"not begun":    {event.Frame{Addr: codeAt, Aux: instruction(-1)}, symbol.Frame{Kind: symbol.Python}, true},
		"not complete": {event.Frame{Addr: codeAt, Aux: instruction(0)}, symbol.Frame{Kind: symbol.Python}, true},

		"native":         {event.Frame{Kind: event.FrameFile, Addr: codeAt, Aux: instruction(1)}, symbol.Frame{}, false},
		"before":         {event.Frame{Addr: codeAt, Aux: instruction(-2)}, symbol.Frame{}, false},
		"after":          {event.Frame{Addr: codeAt, Aux: instruction(4)}, symbol.Frame{}, false},
		"odd":            {event.Frame{Addr: codeAt, Aux: instruction(1) + 1}, symbol.Frame{}, false},
		"elsewhere":      {event.Frame{Addr: codeAt, Aux: 0}, symbol.Frame{}, false},
		"not aligned":    {event.Frame{Addr: codeAt + 1, Aux: instruction(1)}, symbol.Frame{}, false},
		"nothing there":  {event.Frame{Addr: 0, Aux: instruction(1)}, symbol.Frame{}, false},
		"not user space": {event.Frame{Addr: ^uint64(7), Aux: instruction(1)}, symbol.Frame{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if test.frame.Kind == event.FrameNone {
				test.frame.Kind = event.FramePython
			}
			got, ok := newRuntime(newImage()).Name(&test.frame)
			if got != test.want || ok != test.ok {
				t.Errorf("got %+v, %v, want %+v, %v", got, ok, test.want, test.ok)
			}
		})
	}
}

// TestNameBroken: what is not what it should be has no name.
func TestNameBroken(t *testing.T) {
	o := &offsets311
	for name, change := range map[string]func(m image){
		"code of another type":      func(m image) { m.put64(codeAt+typeOffset, unicodeType) },
		"no instructions":           func(m image) { m.put64(codeAt+sizeOffset, 0) },
		"too many instructions":     func(m image) { m.put64(codeAt+sizeOffset, 1<<40) },
		"name of another type":      func(m image) { m.put64(qualnameAt+typeOffset, bytesType) },
		"empty name":                func(m image) { m.put64(qualnameAt+sizeOffset, 0) },
		"name too long":             func(m image) { m.put64(qualnameAt+sizeOffset, maxText+1) },
		"name past the end":         func(m image) { m.put64(qualnameAt+sizeOffset, maxText) },
		"characters of 3 bytes":     func(m image) { m[qualnameAt-imageBase+textStateOffset] = 3<<kindShift | compactBit },
		"text elsewhere":            func(m image) { m[qualnameAt-imageBase+textStateOffset] = 1 << kindShift },
		"name not mapped":           func(m image) { m.put64(codeAt+uint64(o.code.qualname), imageEnd) },
		"name in the last bytes":    func(m image) { m.put64(codeAt+uint64(o.code.qualname), imageEnd-8) },
		"file nowhere":              func(m image) { m.put64(codeAt+uint64(o.code.file), 0) },
		"file not in user space":    func(m image) { m.put64(codeAt+uint64(o.code.file), 1<<63) },
		"file where nothing can be": func(m image) { m.put64(codeAt+uint64(o.code.file), fileAt+4) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newImage()
			change(m)
			f := event.Frame{Kind: event.FramePython, Addr: codeAt, Aux: instruction(1)}
			if got, ok := newRuntime(m).Name(&f); ok || got != (symbol.Frame{}) {
				t.Errorf("named %+v", got)
			}
		})
	}
}

// TestNameNoLine: a table that cannot be read costs the line, not the name.
func TestNameNoLine(t *testing.T) {
	m := newImage()
	m.put64(linesAt+sizeOffset, maxLineTable+1)
	f := event.Frame{Kind: event.FramePython, Addr: codeAt, Aux: instruction(1)}
	got, ok := newRuntime(m).Name(&f)
	if !ok || got.Function != "京.f" || got.Line != 0 {
		t.Errorf("named %+v, %v", got, ok)
	}
}

// FuzzName gives everything a process can hold where a code object should be.
func FuzzName(f *testing.F) {
	f.Add([]byte(newImage()), uint64(codeAt), instruction(1))
	f.Add([]byte(newImage()[:0x208]), uint64(codeAt), instruction(1))
	f.Add([]byte{}, uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, data []byte, addr, aux uint64) {
		frame := event.Frame{Kind: event.FramePython, Addr: addr, Aux: aux}
		got, ok := newRuntime(image(data)).Name(&frame)
		if !ok && got != (symbol.Frame{}) {
			t.Errorf("no name, but %+v", got)
		}
		const widest = 4 // bytes of a character in UTF-8
		if max(len(got.Function), len(got.File)) > maxText*widest || got.Line < 0 {
			t.Errorf("name of %d bytes, file of %d, line %d",
				len(got.Function), len(got.File), got.Line)
		}
	})
}

func TestVersion(t *testing.T) {
	for v, want := range map[version]string{
		0x030b02f0: "3.11.2", 0x030d0af0: "3.13.10", 0x030e00c2: "3.14.0rc2",
		0x030f00a1: "3.15.0 before release",
	} {
		if v.String() != want {
			t.Errorf("%#x: %v, want %s", uint32(v), v, want)
		}
	}
}

// describe builds the description of 3.13 or 3.14 as a process has it.
func describe(t *testing.T, change func(d *debug313)) []byte {
	t.Helper()
	d := debug313{debugPrefix: debugPrefix{Cookie: debugCookie, Version: 0x030d00f0}}
	d.Frame.Owner, d.Code.Code, d.Code.Lines, d.Unicode.ASCIISize = 0x46, 0xc8, 0x88, 40
	if change != nil {
		change(&d)
	}
	data, err := binary.Append(nil, binary.LittleEndian, &d)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestOffsets: what is not known is refused, and says why.
func TestOffsets(t *testing.T) {
	for name, test := range map[string]struct {
		version version
		change  func(d *debug313)
		want    string // in the error; "" is none
	}{
		"3.13":          {0x030d00f0, nil, ""},
		"3.11":          {0x030b00f0, nil, ""},
		"3.10":          {0x030a00f0, nil, "CPython 3.10.0: not supported"},
		"3.15":          {0x030f00f0, nil, "CPython 3.15.0: not supported"},
		"4.11":          {0x040b00f0, nil, "not supported"},
		"beta":          {0x030d00b1, nil, "before release: not supported"},
		"other version": {0x030d01f0, nil, "no debug offsets of this version"},
		"no cookie":     {0x030d00f0, func(d *debug313) { d.Cookie[0]++ }, "no debug offsets"},
		"free-threaded": {0x030d00f0, func(d *debug313) { d.FreeThreaded = 1 }, "free-threaded"},
		"wild":          {0x030d00f0, func(d *debug313) { d.Frame.Owner = 1 << 32 }, "0x100000000"},
		"wild code":     {0x030d00f0, func(d *debug313) { d.Code.Code = 8 }, "debug offsets"},
		"wild strings":  {0x030d00f0, func(d *debug313) { d.Unicode.ASCIISize = 1 << 40 }, "strings"},
	} {
		t.Run(name, func(t *testing.T) {
			// Longer than what is read, whatever the version.
			data := append(describe(t, test.change), make([]byte, 0x1000)...)
			_, err := memory{image(data)}.offsets(test.version, imageBase)
			if test.want == "" && err != nil || test.want != "" &&
				(err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func FuzzOffsets(f *testing.F) {
	t := &testing.T{}
	f.Add(uint32(0x030d00f0), describe(t, nil))
	f.Add(uint32(0x030e00f0), append(describe(t, nil), make([]byte, 0x100)...))
	f.Fuzz(func(t *testing.T, v uint32, data []byte) {
		o, err := parseOffsets(version(v), data)
		if err != nil {
			return
		}
		c := []uint32{o.code.firstLine, o.code.file, o.code.qualname, o.code.lines, o.code.traceable}
		if slices.Max(c)+8 > o.code.instructions || o.code.instructions > maxObjectOffset {
			t.Errorf("code offsets %+v", o.code)
		}
	})
}
