package object

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// ProcessMemory reads the memory of a running process without stopping it.
type ProcessMemory struct{ pid int }

// OpenMemory prepares reading. It needs no descriptor; whether the process is still the
// same one is for the caller to know.
func OpenMemory(pid uint32) *ProcessMemory { return &ProcessMemory{int(pid)} }

// ReadAt implements Memory. What it read before an unmapped page is in buf.
func (m *ProcessMemory) ReadAt(buf []byte, addr uint64) (int, error) {
	if len(buf) == 0 {
		return 0, nil
	}
	local := []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(buf)}}
	n, err := unix.ProcessVMReadv(m.pid, local, remote, 0)
	switch {
	case err != nil:
		return 0, fmt.Errorf("read %d bytes at %#x of process %d: %w", len(buf), addr, m.pid, err)
	case n < len(buf):
		return n, fmt.Errorf("read %d bytes at %#x of process %d: got %d", len(buf), addr, m.pid, n)
	}
	return n, nil
}
