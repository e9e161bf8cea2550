package python

import (
	"bytes"

	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// trampolines are the code of the perf trampoline (Python/asm_trampoline.S) of 3.12 and 3.13,
// built without and with branch protection: [endbr64]; sub $8,%rsp; call *%rcx; add $8,%rsp;
// ret. CPython fills memory with copies of it.
var trampolines = [][]byte{
	{0x48, 0x83, 0xec, 0x08, 0xff, 0xd1, 0x48, 0x83, 0xc4, 0x08, 0xc3},
	{0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83, 0xec, 0x08, 0xff, 0xd1, 0x48, 0x83, 0xc4, 0x08, 0xc3},
}

// hasTrampoline reports whether some executable memory without a file begins with one.
func hasTrampoline(p *object.Process) bool {
	for i := range p.Maps {
		m := &p.Maps[i]
		if m.Object != nil || m.Key != (object.Key{}) {
			continue
		}
		var start [16]byte
		if (memory{p.Memory}).read(start[:], m.Start) != nil {
			continue
		}
		for _, t := range trampolines {
			if bytes.HasPrefix(start[:], t) {
				return true
			}
		}
	}
	return false
}
