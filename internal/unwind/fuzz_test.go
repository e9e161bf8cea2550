//go:build amd64

package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// tinyFrames is a .eh_frame at address with one description, of the 64 bytes of code at
// text: push %rbp; mov %rsp,%rbp.
func tinyFrames(address, text uint64) []byte {
	entry := func(id uint32, body ...byte) []byte {
		for len(body)%8 != 4 { // with the id a multiple of 8
			body = append(body, 0)
		}
		b := binary.LittleEndian.AppendUint32(nil, uint32(len(body)+4))
		return append(binary.LittleEndian.AppendUint32(b, id), body...)
	}
	// Version 1, augmentation "zR": pointers relative, 4 bytes signed. Factors 1 and -8,
	// return address in column 16; CFA rsp+8, return address at CFA-8.
	out := entry(0, 1, 'z', 'R', 0, 1, 0x78, 16, 1, 0x1b, 0x0c, 7, 8, 0x90, 1)
	body := binary.LittleEndian.AppendUint32(nil, uint32(text-(address+uint64(len(out))+8)))
	body = append(body, 64, 0, 0, 0, 0, 0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6)
	out = append(out, entry(uint32(len(out)+4), body...)...)
	return append(out, 0, 0, 0, 0)
}

// tinyELF is a program with code and the sections given; all in one segment at address 0x1000,
// file offset 0.
func tinyELF(sections map[string][]byte) []byte {
	const base, textAt, textSize = 0x1000, 0x100, 0x100
	h := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: base + textAt, Ehsize: 64, Phentsize: 56, Phnum: 1, Phoff: 64, Shentsize: 64,
	}
	content := make([]byte, textSize)
	copy(content, []byte{0x31, 0xed, 0x48, 0x89, 0xe7, 0xe8, 0, 0, 0, 0, 0xf4}) // an entry without description
	names := []byte{0}
	headers := []elf.Section64{{}}
	add := func(name string, data []byte) {
		headers = append(headers, elf.Section64{
			Name: uint32(len(names)), Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_ALLOC),
			Addr: base + textAt + uint64(len(content)), Off: textAt + uint64(len(content)), Size: uint64(len(data)),
		})
		names = append(append(names, name...), 0)
		content = append(content, data...)
	}
	for _, name := range []string{ehFrame, debugFrame, pclntab, goModule} {
		if data, ok := sections[name]; ok {
			add(name, data)
		}
	}
	names = append(names, ".shstrtab\x00"...)
	headers = append(headers, elf.Section64{
		Name: uint32(len(names) - len(".shstrtab\x00")), Type: uint32(elf.SHT_STRTAB),
		Off: textAt + uint64(len(content)), Size: uint64(len(names)),
	})
	content = append(content, names...)
	h.Shnum, h.Shstrndx, h.Shoff = uint16(len(headers)), uint16(len(headers)-1), textAt+uint64(len(content))
	load := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base,
		Filesz: h.Shoff, Memsz: h.Shoff,
	}
	out := append(encode(h), encode(load)...)
	out = append(out, make([]byte, textAt-len(out))...)
	return append(append(out, content...), encode(headers)...)
}

// tinyFramesAt is where tinyELF puts its first section; 64 bytes of its code follow 0x1140.
const (
	tinyFramesAt = 0x1200
	tinyText     = 0x1140
)

func TestReadTinyELF(t *testing.T) {
	rules := NewRules()
	data := tinyELF(map[string][]byte{ehFrame: tinyFrames(tinyFramesAt, tinyText)})
	table, err := Read(bytes.NewReader(data), int64(len(data)), rules)
	if err != nil {
		t.Fatal(err)
	}
	checkTable(t, table, rules)
	for _, c := range []struct {
		off  uint32
		want Rule
	}{
		{0x100, Rule{Flags: FlagCommand, Param: CommandStop}},
		{0x109, Rule{Flags: FlagCommand, Param: CommandStop}},
		{0x10a, ruleInvalid},
		{0x13f, ruleInvalid},
		{0x140, Rule{Base: RegSP, Param: 8}},
		{0x141, Rule{Base: RegSP, Param: 16, Aux: RegCFA, AuxParam: -16}},
		{0x144, Rule{Base: RegFP, Param: 16, Aux: RegCFA, AuxParam: -16}},
		{0x17f, Rule{Base: RegFP, Param: 16, Aux: RegCFA, AuxParam: -16}},
		{0x180, ruleInvalid},
	} {
		rule, ok := table.Find(c.off)
		if got := rules.At(rule); !ok || got != c.want {
			t.Errorf("%#x: %+v, %v, want %+v", c.off, got, ok, c.want)
		}
	}
}

func FuzzRead(f *testing.F) {
	frames := tinyFrames(tinyFramesAt, tinyText)
	for _, s := range []map[string][]byte{
		nil,
		{ehFrame: frames},
		{debugFrame: frames},
		{pclntab: hostilePclntab(20), goModule: make([]byte, 256)},
		{ehFrame: frames, pclntab: hostilePclntab(3)},
	} {
		f.Add(tinyELF(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		rules := NewRules()
		table, err := Read(bytes.NewReader(data), int64(len(data)), rules)
		if err != nil {
			return
		}
		checkTable(t, table, rules)
		// No part of a table takes less room in a file than its row: but a Go list is shared.
		if n := len(table.Rows); n > 2*len(data)+maxDepthSteps {
			t.Errorf("%d rows of %d bytes", n, len(data))
		}
	})
}

func FuzzCheckPclntab(f *testing.F) {
	f.Add(hostilePclntab(1))
	f.Add(hostilePclntab(50))
	f.Fuzz(func(t *testing.T, data []byte) {
		if checkPclntab(data) != nil {
			return
		}
		p, err := parsePclntab(data)
		if err != nil || p.n > uint64(len(data)) {
			t.Errorf("%d functions in %d bytes: %v", p.n, len(data), err)
		}
	})
}

// fuzzMemory has the same bytes over and over again at every address.
type fuzzMemory []byte

func (m fuzzMemory) ReadAt(buf []byte, addr uint64) (int, error) {
	if len(m) == 0 {
		return 0, io.EOF
	}
	for i := range buf {
		buf[i] = m[(addr+uint64(i))%uint64(len(m))]
	}
	return len(buf), nil
}

// FuzzUnwind walks arbitrary stacks with arbitrary registers, through rules and through
// code made of arbitrary bytes.
func FuzzUnwind(f *testing.F) {
	f.Add(words(atPlain, stackStart, 0), words(0, atStop+4), []byte{0xc3}, byte(0))
	f.Add(words(atFP, stackStart, stackStart+16), words(1, 2, stackStart+32, atByFP+8, 0, atPLT), []byte{0xc9, 0xc3}, byte(1))
	f.Add(words(unknownStart, stackStart, stackStart), words(unknownStart+5, unknownStart+9, anonStart+7), []byte{0xe8, 0, 0, 0, 0, 0xc3, 0xff, 0xd0}, byte(2))
	f.Add(words(atSignal, stackStart, 0), words(signalFrame(atDeref, stackStart, stackStart)...), []byte{0x5d, 0xc3, 0xeb, 0xfe}, byte(3))
	f.Add(words(anonStart, stackStart, stackStart+24), words(1, 2, 3, stackStart+24, anonStart+0x200, 4, 5, anonStart+8), []byte{0, 0, 1, 0}, byte(4))
	u := fakeUnwinder(f)
	f.Fuzz(func(t *testing.T, regs, stack, code []byte, runtime byte) {
		s := &Snapshot{Stack: stack[:min(len(stack), rawBytes)]}
		s.Runtime = event.Runtime{V8: runtime&1 != 0, PythonTrampoline: runtime&2 != 0}
		if runtime&4 != 0 {
			s.Runtime.HotSpot = event.HotSpotLayout{
				Heaps:          [event.MaxCodeHeaps]event.CodeHeap{{Low: anonStart, High: anonStart + codeSize, Segmap: anonStart}},
				InterpreterLow: anonStart, InterpreterHigh: anonStart + 0x100,
				SegmentLog2: uint32(runtime), BlockHeader: 16, FrameSize: 8,
			}
		}
		for i := 0; i < RegMax-int(RegPC) && 8*i+8 <= len(regs); i++ {
			s.Regs[int(RegPC)+[]int{0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 3, 11, 12, 13}[i]] = binary.LittleEndian.Uint64(regs[8*i:])
		}
		r := u.Unwind(s, fakeProcess(fuzzMemory(code)))
		if len(r.Frames) > MaxFrames || len(r.PCs) != len(r.Frames) {
			t.Errorf("%d frames, %d PCs", len(r.Frames), len(r.PCs))
		}
		switch r.Quality {
		case event.QualityComplete:
			if r.Reason != event.ReasonNone {
				t.Errorf("complete, and %v", r.Reason)
			}
		case event.QualityTruncated:
			if r.Reason == event.ReasonNone {
				t.Error("truncated without a reason")
			}
		case event.QualityGuessed:
		default:
			t.Errorf("quality %d", r.Quality)
		}
	})
}
