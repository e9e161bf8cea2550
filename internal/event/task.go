package event

import "bytes"

// Comm is a kernel task name, NUL padded. Its bytes come from the process:
// they can be anything, escape before printing.
type Comm [16]byte

// String returns the bytes before the first NUL, unescaped.
func (c *Comm) String() string {
	if i := bytes.IndexByte(c[:], 0); i >= 0 {
		return string(c[:i])
	}
	return string(c[:])
}

// MakeComm cuts s to the 15 bytes the kernel keeps.
func MakeComm(s string) Comm {
	var c Comm
	copy(c[:len(c)-1], s)
	return c
}

// Task is a thread as the kernel knows it. Pid is the thread group id. Start is
// the start time of the group leader and tells a reused pid apart.
type Task struct {
	Pid, Tid uint32
	Start    BootTime
	Comm     Comm
}

// Known reports whether the task was recorded at all.
func (t *Task) Known() bool { return t.Pid != 0 }

// Evidence names the fact by which a process is held to own a socket.
type Evidence uint8

// Ordered by the kernel's numbers in bpf/events.h.
const (
	EvidenceNone    Evidence = iota
	EvidenceAccept           // its accept() returned the socket
	EvidenceConnect          // it called connect()
	EvidenceRead             // it read from the socket
	EvidenceWrite            // it wrote to the socket
	EvidenceListen           // it called listen()
	EvidenceClose            // it called close() or shutdown()
	EvidenceScan             // it holds a descriptor now
)

var evidenceNames = [...]string{"none", "accept", "connect", "read", "write", "listen", "close", "scan"}

// String returns the word used in records.
func (e Evidence) String() string {
	if int(e) < len(evidenceNames) {
		return evidenceNames[e]
	}
	return "none"
}
