package unwind

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// What a Go program's table may hold. The library keeps a map entry for each assembly
// file, for each reference to one, and for some function names, and makes rows of the
// stack depths of every function, whose lists a hostile file can share among functions:
// the rows would be the square of the size. On the right what golangci-lint 2.15 has, a
// program of 52 MB.
const (
	maxAssemblyFiles = 1 << 16  // 41
	maxUnitTable     = 8 << 20  // bytes; 257 kB
	maxFuncNames     = 32 << 20 // bytes; 2.5 MB
	maxDepthSteps    = 8 << 20  // 291,449
)

// First words of a table, see internal/abi/symtab.go of Go: of Go 1.16, 1.18 and 1.20.
const (
	pclntabMagic116 = 0xfffffffa
	pclntabMagic118 = 0xfffffff0
	pclntabMagic120 = 0xfffffff1
)

var errPclntab = errors.New("unknown or broken Go table")

// checkPclntab walks the table of a Go program in the way the library will, and fails if
// that is too much (ErrLimit), or if the library could not do it.
func checkPclntab(data []byte) error {
	p, err := parsePclntab(data)
	if err != nil {
		return err
	}
	switch {
	case bytes.Count(p.files, []byte(".s\x00")) > maxAssemblyFiles:
		return limit("assembly files", maxAssemblyFiles)
	case len(p.units) > maxUnitTable:
		return limit("size of unit table in bytes", maxUnitTable)
	case len(p.names) > maxFuncNames:
		return limit("size of function names in bytes", maxFuncNames)
	}
	steps := 0
	for i := range p.n {
		n, err := p.depthSteps(i, maxDepthSteps-steps)
		if err != nil {
			return err
		}
		if steps += n; steps >= maxDepthSteps {
			return limit("steps of stack depth", maxDepthSteps)
		}
	}
	return nil
}

// goTable is the layout of a pclntab. funcs starts with n pairs of words {start of the
// function, offset of its description in funcs}.
type goTable struct {
	names, units, files, depths, funcs []byte
	n                                  uint64
	// word is the size of the words in a pair and of the one before the description.
	word uint64
}

// parsePclntab reads the header, struct pcHeader of Go's runtime/symtab.go: magic,
// alignment, pointer size, number of functions and of files, the start of the code if
// the version has it, and the five offsets.
func parsePclntab(data []byte) (goTable, error) {
	const fixed, words = 8, 8
	if len(data) < fixed+words*8 {
		return goTable{}, errPclntab
	}
	p := goTable{word: 4}
	var w [words]uint64
	for i := range w {
		w[i] = binary.LittleEndian.Uint64(data[fixed+8*i:])
	}
	offsets := w[3:]
	switch binary.LittleEndian.Uint32(data) {
	case pclntabMagic116:
		p.word, offsets = 8, w[2:]
	case pclntabMagic118, pclntabMagic120:
	default:
		return goTable{}, errPclntab
	}
	parts := []*[]byte{&p.names, &p.units, &p.files, &p.depths, &p.funcs}
	for i, part := range parts {
		end := uint64(len(data))
		if i+1 < len(parts) {
			end = offsets[i+1]
		}
		if offsets[i] >= end || end > uint64(len(data)) {
			return goTable{}, errPclntab
		}
		*part = data[offsets[i]:end]
	}
	// One more pair tells where the last function ends.
	if p.n = w[0]; p.n >= uint64(len(p.funcs))/(2*p.word) {
		return goTable{}, errPclntab
	}
	return p, nil
}

// depthSteps counts the entries of function i's list of stack depths, up to most. An
// entry is two variable-length numbers; a zero byte in place of the first ends the list.
func (p *goTable) depthSteps(i uint64, most int) (int, error) {
	// The list's offset follows name, argument size and frame size, 4 bytes each.
	const before, size = 12, 4
	at := p.uint(p.funcs[2*p.word*i+p.word:])
	if n := uint64(len(p.funcs)); at > n || n-at < p.word+before+size {
		return 0, errPclntab
	}
	list := uint64(binary.LittleEndian.Uint32(p.funcs[at+p.word+before:]))
	if list > uint64(len(p.depths)) {
		return 0, errPclntab
	}
	rest := p.depths[list:]
	for n := range most {
		if len(rest) == 0 || rest[0] == 0 { // the library takes the end of the data for one, too
			return n, nil
		}
		rest = afterNumber(afterNumber(rest))
	}
	return most, nil
}

// uint reads one word.
func (p *goTable) uint(b []byte) uint64 {
	if p.word == 4 {
		return uint64(binary.LittleEndian.Uint32(b))
	}
	return binary.LittleEndian.Uint64(b)
}

// afterNumber returns what follows a variable-length number: bytes with the top bit set,
// and one without.
func afterNumber(b []byte) []byte {
	for i, c := range b {
		if c < 0x80 {
			return b[i+1:]
		}
	}
	return nil
}
