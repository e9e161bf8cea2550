package symbol

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"strings"
	"testing"
)

// tinyELF makes an ELF file of the sections given, and one executable segment over all of
// it. Its addresses are its offsets.
func tinyELF(sections []section, contents ...string) []byte {
	var out bytes.Buffer
	out.Write(make([]byte, headerSize+segmentSize))
	names := "\x00"
	sections = append([]section{{}}, sections...)
	contents = append([]string{""}, contents...)
	sections = append(sections, section{name: ".shstrtab", kind: elf.SHT_STRTAB})
	var heads []elf.Section64
	for i, s := range sections {
		h := elf.Section64{Name: uint32(len(names)), Type: uint32(s.kind), Flags: uint64(s.flags), Link: s.link}
		if i == 0 {
			h.Name = 0
		} else {
			names += s.name + "\x00"
		}
		data := names
		if i < len(contents) {
			data = contents[i]
		}
		for out.Len()%8 != 0 {
			out.WriteByte(0)
		}
		h.Off, h.Addr, h.Size = uint64(out.Len()), uint64(out.Len()), uint64(len(data))
		out.WriteString(data)
		heads = append(heads, h)
	}
	at := out.Len()
	_ = binary.Write(&out, binary.LittleEndian, heads)
	raw := out.Bytes()
	head := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: headerSize, Shoff: uint64(at),
		Ehsize: headerSize, Phentsize: segmentSize, Phnum: 1, Shentsize: sectionSize, Shnum: uint16(len(heads)), Shstrndx: uint16(len(heads) - 1),
	}
	copy(head.Ident[:], "\x7fELF\x02\x01\x01")
	var front bytes.Buffer
	_ = binary.Write(&front, binary.LittleEndian, head)
	_ = binary.Write(&front, binary.LittleEndian, elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W | elf.PF_X), Filesz: uint64(len(raw)), Memsz: uint64(len(raw)),
	})
	copy(raw, front.Bytes())
	return raw
}

func symtabOf(symbols ...elf.Sym64) string {
	var out bytes.Buffer
	_ = binary.Write(&out, binary.LittleEndian, append([]elf.Sym64{{}}, symbols...))
	return out.String()
}

func function64(name uint32, addr, size uint64) elf.Sym64 {
	return elf.Sym64{Name: name, Info: elf.ST_INFO(elf.STB_GLOBAL, elf.STT_FUNC), Shndx: 1, Value: addr, Size: size}
}

func tinySymbols() []byte {
	return tinyELF([]section{
		{name: ".note.gnu.build-id", kind: elf.SHT_NOTE},
		{name: ".symtab", kind: elf.SHT_SYMTAB, link: 3},
		{name: ".strtab", kind: elf.SHT_STRTAB},
		{name: ".gnu_debuglink", kind: elf.SHT_PROGBITS},
	}, "\x04\x00\x00\x00\x04\x00\x00\x00\x03\x00\x00\x00GNU\x00\x01\x02\x03\x04",
		symtabOf(function64(1, 64, 16), function64(5, 70, 4), function64(9, 64, 16)), "\x00one\x00two\x00_ZN3net5serveEv\x00", "x.debug\x00")
}

func TestTinyELF(t *testing.T) {
	raw := tinySymbols()
	f, err := parseELF(bytes.NewReader(raw), uint64(len(raw)))
	if err != nil || f.buildID != "01020304" || f.debugLink() != "x.debug" {
		t.Fatalf("got %+v, %v", f, err)
	}
	m := &image{path: "tiny"}
	m.take(f)
	for off, want := range map[uint64]string{63: "", 64: "one", 69: "one", 70: "two", 73: "two", 74: "one", 79: "one", 80: ""} {
		if got := m.frames(off, false, nil); got[0].Function != want {
			t.Errorf("%d: got %+v, want %q", off, got, want)
		}
	}
}

// FuzzELF reads anything as an object: its headers, symbols, MiniDebugInfo, Go tables and
// lines.
func FuzzELF(f *testing.F) {
	f.Add(tinySymbols())
	f.Add(tinyELF(nil))
	f.Add(tinyELF([]section{{name: ".gopclntab", kind: elf.SHT_PROGBITS}, {name: ".go.module", kind: elf.SHT_PROGBITS}},
		"\xf1\xff\xff\xff\x00\x00\x01\x08"+strings.Repeat("\x01\x00\x00\x00\x00\x00\x00\x00", 20), strings.Repeat("\x80\x00\x00\x00\x00\x00\x00\x00", goModuleWords)))
	f.Add(tinyELF([]section{{name: ".go.buildinfo", kind: elf.SHT_PROGBITS}, {name: ".data", kind: elf.SHT_PROGBITS}},
		"", "\xf1\xff\xff\xff\x00\x00\x01\x08"+strings.Repeat("\x08\x00\x00\x00\x00\x00\x00\x00", 20)))
	f.Add(tinyELF([]section{{name: ".debug_line", kind: elf.SHT_PROGBITS, flags: elf.SHF_COMPRESSED}},
		"\x01\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00x\x9c\x03\x00\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := parseELF(bytes.NewReader(raw), uint64(len(raw)))
		if err != nil {
			return
		}
		m := &image{path: "fuzz", lines: true}
		m.take(e)
		for _, off := range []uint64{0, 1, 64, 65, 128, 200, uint64(len(raw)), ^uint64(0)} {
			for _, fr := range m.frames(off, off%2 == 1, nil) {
				if len(fr.Function) > maxName {
					t.Errorf("a name of %d bytes", len(fr.Function))
				}
			}
			if start, end, ok := m.bounds(off, nil); ok && end < start {
				t.Errorf("a function from %#x to %#x", start, end)
			}
		}
	})
}

// FuzzGoTable reads anything as the function table of a Go program.
func FuzzGoTable(f *testing.F) {
	// The head of this program's own table, cut short.
	if exe, err := os.Open("/proc/self/exe"); err == nil {
		if size, err := fileSize(exe); err == nil {
			if e, err := parseELF(exe, size); err == nil && e.section(".gopclntab") != nil {
				if raw, err := e.bytes(e.section(".gopclntab").off, 4096, 4096); err == nil {
					f.Add(raw, uint64(1), uint64(8))
				}
			}
		}
		_ = exe.Close()
	}
	table := func(words ...uint64) []byte {
		raw := []byte("\xf1\xff\xff\xff\x00\x00\x01\x08")
		for _, w := range words {
			raw = binary.LittleEndian.AppendUint64(raw, w)
		}
		return raw
	}
	// One function with everything, a few bytes each.
	small := table(1, 1, 0, 72, 80, 84, 90, 100)
	small = append(small, "\x00main\x00\x00\x00\x00\x00\x00\x00\x00\x00a.go\x00\x00\x02\x10\x00\x02\x02\x10\x00\x00\x00"...)
	small = append(small, "\x00\x00\x00\x00\x0c\x00\x00\x00\x10\x00\x00\x00"...)
	small = append(small, "\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x04\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04"...)
	small = append(small, make([]byte, 64)...)
	f.Add(small, uint64(1), uint64(8))
	f.Add(table(1<<61-1, 0, 0, 72, 72, 72, 72, 72), uint64(1), uint64(8))
	f.Fuzz(func(t *testing.T, raw []byte, text, gofunc uint64) {
		e := &elfFile{
			r: bytes.NewReader(raw), size: uint64(len(raw)), machine: elf.EM_X86_64,
			segments: []segment{{filesz: uint64(len(raw)), memsz: 1 << 40, exec: true}},
			sections: []section{{name: ".gopclntab", kind: elf.SHT_PROGBITS, size: uint64(len(raw))}},
		}
		g, err := openGo(e)
		if err != nil {
			return
		}
		g.text, g.gofunc = text, gofunc
		for _, addr := range []uint64{text, text + 1, text + 8, text + 100, gofunc, ^uint64(0)} {
			for _, fr := range first(g.frames(addr)) {
				if len(fr.Function) > maxName {
					t.Errorf("a name of %d bytes", len(fr.Function))
				}
			}
		}
	})
}

func first[T, U any](v T, _ U) T { return v }

// FuzzDebugdata unpacks anything as MiniDebugInfo.
func FuzzDebugdata(f *testing.F) {
	f.Add([]byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F\x02\x00!\x01\x16\x00\x00\x00t/\xe5\xa3\x01\x00\x04hello\x00\x00\x00"))
	f.Add([]byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F\x02\x00!\x01\x28\x00\x00\x00t/\xe5\xa3\xe0\xff\xff\xff\xff\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		const limit = 1 << 16
		if out, err := unxz(raw, limit); err == nil && len(out) > limit {
			t.Errorf("%d bytes", len(out))
		}
	})
}

// FuzzLines reads anything as line programs.
func FuzzLines(f *testing.F) {
	// Version 4, one file, one sequence.
	program := "\x00\x09\x02\x00\x10\x00\x00\x00\x00\x00\x00\x03\x05\x01\x02\x04\x00\x01\x01"
	head := "\x01\x01\x01\xfb\x0e\x0d\x00\x01\x01\x01\x01\x00\x00\x00\x01\x00\x00\x01src\x00\x00a.c\x00\x01\x00\x00\x00"
	f.Add(withLengths("\x04\x00", head, program), []byte("src\x00a.c\x00"))
	// Version 5.
	head = "\x01\x01\x01\xfb\x0e\x0d\x00\x01\x01\x01\x01\x00\x00\x00\x01\x00\x00\x01\x01\x01\x1f\x01\x00\x00\x00\x00\x02\x01\x1f\x02\x0b\x01\x04\x00\x00\x00\x00"
	f.Add(withLengths("\x05\x00\x08\x00", head, program), []byte("src\x00a.c\x00"))
	f.Fuzz(func(t *testing.T, line, texts []byte) {
		e := &elfFile{sections: []section{
			{name: ".debug_line", size: uint64(len(line))}, {name: ".debug_line_str", off: uint64(len(line)), size: uint64(len(texts))},
		}}
		e.r, e.size = bytes.NewReader(append(append([]byte{}, line...), texts...)), uint64(len(line)+len(texts))
		lines, err := readLines(e, func(uint64) bool { return true })
		if err != nil {
			return
		}
		for _, s := range lines.sequences {
			for _, addr := range []uint64{s.low, s.low + 1, s.high - 1, s.high} {
				if file, line := lines.find(addr); len(file) > maxPathBytes || file == "" && line != 0 {
					t.Errorf("%#x: got %q:%d", addr, file, line)
				}
			}
		}
	})
}

// withLengths makes a unit of a line table.
func withLengths(version, head, program string) []byte {
	body := version + string(binary.LittleEndian.AppendUint32(nil, uint32(len(head)))) + head + program
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// FuzzPerfMap reads anything as a perf map, in two pieces.
func FuzzPerfMap(f *testing.F) {
	f.Add([]byte("1000 10 one\n1008 4 two\n"), 15)
	f.Add([]byte("ffffffffffffffff ffffffff end\n0 1 zero\n"), 3)
	f.Fuzz(func(t *testing.T, raw []byte, cut int) {
		if cut < 0 || cut > len(raw) {
			return
		}
		var m, whole perfMap
		m.add(raw[:cut])
		m.add(raw[m.read:])
		whole.add(raw)
		for _, e := range append(whole.entries, perfEntry{start: 0x1000}, perfEntry{}) {
			for _, addr := range []uint64{e.start, e.start + uint64(e.size) - 1, e.start + uint64(e.size)} {
				if got, want := m.find(addr), whole.find(addr); got != want {
					t.Errorf("%#x: got %q in two pieces, %q in one", addr, got, want)
				}
			}
		}
	})
}

// FuzzName demangles anything.
func FuzzName(f *testing.F) {
	f.Add("_ZN3net6Server5serveERKSt6vectorINSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEESaIS7_EE")
	f.Add("_RINvCsblPwUE8TsQq_4rsrv9read_someNtNtNtCsjrHSEGnQ3l9_3std3net3tcp9TcpStreamEB2_")
	f.Add("_ZN4rsrv11accept_loop17h9638ea54c4aa0ee2E.llvm.12")
	f.Add("_Z1fI" + strings.Repeat("S_", 50) + "E")
	f.Add("serve.part.0.cold@@GLIBC_2.2.5")
	f.Fuzz(func(t *testing.T, name string) {
		if got := readable(name); len(got) > maxName {
			t.Errorf("a name of %d bytes", len(got))
		}
	})
}
