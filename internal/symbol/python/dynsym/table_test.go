package dynsym

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/symbol/python/proctest"
)

// libraries returns what is mapped by a program that every system has: the C library at least.
func libraries(t *testing.T) (pid int, files []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	// It is mapped when its standard library is.
	for {
		var mapped []string
		for _, m := range proctest.Process(t, cmd.Process.Pid).Maps {
			if m.Object != nil && !slices.Contains(mapped, m.Object.Path) {
				mapped = append(mapped, m.Object.Path)
			}
		}
		if slices.ContainsFunc(mapped, func(path string) bool {
			ok, _ := filepath.Match("*libc.*", filepath.Base(path))
			return ok
		}) {
			return cmd.Process.Pid, mapped
		}
	}
}

// TestLookup finds every symbol that debug/elf lists, and none that a file only wants.
func TestLookup(t *testing.T) {
	_, files := libraries(t)
	for _, path := range files {
		f, err := elf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		symbols, err := f.DynamicSymbols()
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		table, err := Open(file)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		checkSymbols(t, path, table, symbols)
		_ = file.Close()
	}
}

func checkSymbols(t *testing.T, path string, table *Table, symbols []elf.Symbol) {
	t.Helper()
	// A name can have several versions.
	defined := map[string][]uint64{}
	for _, s := range symbols {
		if s.Section != elf.SHN_UNDEF {
			defined[s.Name] = append(defined[s.Name], s.Value)
		}
	}
	for name, values := range defined {
		if at, ok := table.Lookup(name); !ok || !slices.Contains(values, at) {
			t.Errorf("%s: %s is at %#x, %v, want %#x", path, name, at, ok, values)
		}
	}
	wanted := 0
	for _, s := range symbols {
		if s.Section == elf.SHN_UNDEF && defined[s.Name] == nil {
			wanted++
			if at, ok := table.Lookup(s.Name); ok {
				t.Errorf("%s: has %s at %#x", path, s.Name, at)
			}
		}
	}
	t.Logf("%s: %d symbols, %d wanted of others", path, len(defined), wanted)
}

// TestAddress compares the code of a function in a process with that in the file.
func TestAddress(t *testing.T) {
	pid, _ := libraries(t)
	p := proctest.Process(t, pid)
	const name = "qsort"
	for _, m := range Modules(p) {
		at, ok := m.Address(name)
		if !ok {
			continue
		}
		if first, _ := Resolve(Modules(p), name); first != at {
			t.Errorf("Resolve: %#x, want %#x", first, at)
		}
		var want, got [64]byte
		if _, err := p.Memory.ReadAt(got[:], at); err != nil {
			t.Fatal(err)
		}
		if err := m.table.read(want[:], at-m.Bias); err != nil {
			t.Fatal(err)
		}
		if got != want || m.Bias == 0 {
			t.Errorf("code of %s at %#x: % x, want % x", name, at, got, want)
		}
		return
	}
	t.Error("no library has " + name)
}

// tiny is an ELF file that exports one symbol. change, if not nil, gets its hash table.
func tiny(name string, value uint64, change func(hash []uint32)) []byte {
	const (
		headers = 64 + 2*56 // ELF header and 2 program headers
		dynamic = headers
		hash    = dynamic + 5*dynSize
		symbols = hash + 10*hashSize
		names   = symbols + 2*symSize
	)
	h := gnuHash(name)
	// Buckets, first hashed symbol, words of the Bloom filter and its shift; one word that
	// says yes to everything; one bucket; one chain.
	table := []uint32{1, 1, 1, 6, 0xffffffff, 0xffffffff, 1, h | 1, 0, 0}
	if change != nil {
		change(table)
	}
	size := uint64(names + 1 + len(name) + 1)
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1},
			Type:  uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1,
			Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2,
		},
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_X | elf.PF_R), Filesz: size, Memsz: size},
		elf.Prog64{Type: uint32(elf.PT_DYNAMIC), Off: dynamic, Vaddr: dynamic, Filesz: 5 * dynSize},
		elf.Dyn64{Tag: int64(elf.DT_SYMTAB), Val: symbols},
		elf.Dyn64{Tag: int64(elf.DT_STRTAB), Val: names},
		elf.Dyn64{Tag: int64(elf.DT_STRSZ), Val: uint64(len(name) + 2)},
		elf.Dyn64{Tag: int64(dtGNUHash), Val: hash},
		elf.Dyn64{},
		table,
		elf.Sym64{},
		elf.Sym64{Name: 1, Shndx: 1, Value: value},
		[]byte("\x00" + name + "\x00"),
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

func TestTiny(t *testing.T) {
	for name, test := range map[string]struct {
		change func(hash []uint32)
		found  bool
	}{
		"whole":               {nil, true},
		"another hash":        {func(h []uint32) { h[7] ^= 2 }, false},
		"chain without end":   {func(h []uint32) { h[7] = 0 }, false},
		"symbol out of table": {func(h []uint32) { h[6] = 1 << 31 }, false},
		"symbol not hashed":   {func(h []uint32) { h[1] = 2 }, false},
		"filter says no":      {func(h []uint32) { h[4], h[5] = 0, 0 }, false},
		"large filter":        {func(h []uint32) { h[2] = 1 << 31 }, false},
		"many buckets":        {func(h []uint32) { h[0] = 1 << 31 }, false},
		"large shift":         {func(h []uint32) { h[3] = 1 << 31 }, true},
	} {
		t.Run(name, func(t *testing.T) {
			table, err := Open(bytes.NewReader(tiny("answer", 42, test.change)))
			if err != nil {
				t.Fatal(err)
			}
			if at, ok := table.Lookup("answer"); ok != test.found || ok && at != 42 {
				t.Errorf("answer: %d, %v", at, ok)
			}
			if _, ok := table.Lookup("question"); ok {
				t.Error("found what is not there")
			}
		})
	}
}

func TestOpenNothing(t *testing.T) {
	program, err := os.Executable() // Go links this without libraries
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"exports nothing": text,
		"empty":           nil,
		"no ELF":          []byte("#!/bin/sh\n"),
		"no buckets":      tiny("a", 1, func(h []uint32) { h[0] = 0 }),
		"no filter":       tiny("a", 1, func(h []uint32) { h[2] = 0 }),
		"cut off":         tiny("a", 1, nil)[:250],
	} {
		if table, err := Open(bytes.NewReader(data)); err == nil {
			t.Errorf("%s: opened: %+v", name, table)
		}
	}
}

func TestBias(t *testing.T) {
	const page = 0x1000
	table := Table{loads: []elf.ProgHeader{
		{Flags: elf.PF_R, Off: 0, Vaddr: 0x400000, Filesz: 0x1080},
		{Flags: elf.PF_R | elf.PF_X, Off: 0x1080, Vaddr: 0x402080, Filesz: 0x2000},
	}}
	for _, test := range []struct {
		start, offset, bias uint64
		ok                  bool
	}{
		{0x402000, page, 0, true},
		{0x7f0000402000, page, 0x7f0000000000, true},
		{0x403000, 2 * page, 0, true}, // only part of it is mapped there
		{0x400000, 0, 0, false},       // not code
		{0x402000, 4 * page, 0, false},
	} {
		if bias, ok := table.Bias(test.start, test.offset); bias != test.bias || ok != test.ok {
			t.Errorf("%#x+%#x: %#x, %v, want %#x", test.start, test.offset, bias, ok, test.bias)
		}
	}
}

func FuzzLookup(f *testing.F) {
	f.Add(tiny("answer", 42, nil), "answer")
	f.Add(tiny("", 0, func(h []uint32) { h[7] = 0 }), "")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		table, err := Open(bytes.NewReader(data))
		if err != nil {
			return
		}
		// What is found is named in the file.
		if _, ok := table.Lookup(name); ok && !bytes.Contains(data, append([]byte(name), 0)) {
			t.Errorf("found %q", name)
		}
		table.Bias(0, uint64(len(data)))
	})
}
