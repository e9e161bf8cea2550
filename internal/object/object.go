// Package object knows the files that code is mapped from, and the processes that map
// them. A file is known by what the kernel side sees of it (Key), opened once through
// the process's map_files, and kept open: it can be read when it was deleted, when it
// is in another mount namespace and when its processes are gone.
package object

import (
	"os"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Key identifies the content of a file: inode numbers are used again, and files are
// overwritten, so the change time belongs to it.
type Key struct {
	Ino   uint64
	Ctime uint64 // ns
	Dev   uint32 // as the kernel numbers it, not as stat(2) does
}

// VMA is one executable mapping of a process.
type VMA struct {
	Start, End uint64
	// Offset is the file offset of Start.
	Offset uint64
	// Key is zero for memory without a file.
	Key Key
}

// Object is a file with code.
type Object struct {
	ID  event.ObjectID
	Key Key
	// Path is the file's name as a process that maps it sees it, " (deleted)" cut off.
	Path string
	// File is open for reading; the registry owns it.
	File *os.File
}

// Mapped is a VMA and the file behind it; Object is nil for memory without a file and
// for files that could not be opened.
type Mapped struct {
	VMA
	Object *Object
}

// Process is what unwinding and naming need of one process.
type Process struct {
	Pid uint32
	// Start tells a reused pid apart.
	Start event.BootTime
	// Maps are the executable mappings, by address.
	Maps []Mapped
	// Memory reads the process.
	Memory Memory
}

// Memory reads the memory of a process.
type Memory interface {
	// ReadAt fills buf from addr on. It returns how many bytes it read, and an error
	// where these are not all: the process is gone, the address is not mapped.
	ReadAt(buf []byte, addr uint64) (int, error)
}
