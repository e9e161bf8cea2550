//go:build amd64

package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"testing"
)

// goTables returns the .gopclntab of a Go program.
func goTables(tb testing.TB, path string) []byte {
	tb.Helper()
	f, err := elf.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	data, err := f.Section(pclntab).Data()
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func TestCheckPclntabAcceptsGo(t *testing.T) {
	data := goTables(t, buildGo(t))
	if err := checkPclntab(data); err != nil {
		t.Errorf("a Go program's: %v", err)
	}
	p, err := parsePclntab(data)
	if err != nil {
		t.Fatal(err)
	}
	steps := 0
	for i := range p.n {
		n, err := p.depthSteps(i, maxDepthSteps)
		if err != nil {
			t.Fatalf("function %d: %v", i, err)
		}
		steps += n
	}
	// A function has some 3 steps; far from it the walk went wrong.
	if n := int(p.n); n < 500 || steps < n || steps > 20*n {
		t.Errorf("%d functions, %d steps", n, steps)
	}
}

// hostilePclntab makes a table of n functions that share one list of as many steps.
func hostilePclntab(n int) []byte {
	const header, pair, word, before = 8 + 8*8, 8, 4, 12
	names := append(bytes.Repeat([]byte("f\x00"), 4), 0)
	units, files := []byte{0, 0, 0, 0}, []byte("f.s\x00")
	depths := append(bytes.Repeat([]byte{2, 1}, n), 0)
	funcs := make([]byte, (n+1)*pair)
	for i := range n {
		binary.LittleEndian.PutUint32(funcs[i*pair+4:], uint32(len(funcs)))
	}
	funcs = append(funcs, make([]byte, word+before+32)...)

	out := make([]byte, header)
	binary.LittleEndian.PutUint32(out, pclntabMagic120)
	out[6], out[7] = 1, 8 // alignment, pointer size
	binary.LittleEndian.PutUint64(out[8:], uint64(n))
	binary.LittleEndian.PutUint64(out[24:], 0x401000)
	for i, part := range [][]byte{names, units, files, depths, funcs} {
		binary.LittleEndian.PutUint64(out[32+8*i:], uint64(len(out)))
		out = append(out, part...)
	}
	return out
}

// TestCheckPclntabBoundsSharedLists: a table of 80 kB would become 100 million rows.
func TestCheckPclntabBoundsSharedLists(t *testing.T) {
	if err := checkPclntab(hostilePclntab(100)); err != nil {
		t.Errorf("100 functions: %v", err)
	}
	if err := checkPclntab(hostilePclntab(10_000)); !errors.Is(err, ErrLimit) {
		t.Errorf("10,000 functions with 10,000 steps: %v, want %v", err, ErrLimit)
	}
}

func TestCheckPclntabRefuses(t *testing.T) {
	good := hostilePclntab(10)
	patch := func(off int, v uint64) []byte {
		p := slices.Clone(good)
		binary.LittleEndian.PutUint64(p[off:], v)
		return p
	}
	for name, data := range map[string][]byte{
		"empty": nil, "short": good[:60], "Go 1.2": patch(0, 0x0801_0000_fffffffb),
		"many functions": patch(8, 1<<61-1), "all functions": patch(8, ^uint64(0)),
		"names outside": patch(32, 1<<40), "overlap": patch(40, 0), "funcs outside": patch(64, 1<<63),
		"description outside": func() []byte {
			p := slices.Clone(good)
			funcs := binary.LittleEndian.Uint64(p[64:])
			binary.LittleEndian.PutUint32(p[funcs+4:], ^uint32(0))
			return p
		}(),
	} {
		if err := checkPclntab(data); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestReadGoWithoutGoTables: a Go table that the library cannot read leaves the rest.
func TestReadGoWithoutGoTables(t *testing.T) {
	path := buildGo(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(data[f.Section(pclntab).Offset:], 0xfffffffb) // Go 1.2
	table, err := Read(bytes.NewReader(data), int64(len(data)), NewRules())
	if err != nil || len(table.Rows) > 10 {
		t.Errorf("%+v, %v, want next to no rows", table, err)
	}
}
