package event

import "iter"

// Snapshot is one pass over the kernel's sockets and, if asked for, descriptors.
type Snapshot struct {
	// From and To bracket the pass: what changed between may or may not be in it.
	From, To KTime
	Sockets  []Socket
	// Holders are sorted by cookie, then pid, then descriptor. Nil if not asked for.
	Holders []Holder
	// Passed are sorted by cookie; asked for together with the holders.
	Passed []Passed
	// PassedCut: a queue was longer than is looked through, so Passed is not complete.
	PassedCut bool
	// Met counts the sockets that were looked at, in whatever state.
	Met uint64
	// HoldersKnown: the descriptor pass ran, so a socket without holder has none.
	HoldersKnown bool
	// ReadNetns are the namespaces whose sockets were all read. Only there does a socket
	// that is not among Sockets not exist.
	ReadNetns map[uint32]bool
	// UnreadNetns are namespaces that exist but could not be entered, with the
	// reason; their sockets are missing.
	UnreadNetns map[uint32]string
}

// All goes through the sockets.
func (s *Snapshot) All() iter.Seq[*Socket] {
	return func(yield func(*Socket) bool) {
		for i := range s.Sockets {
			if !yield(&s.Sockets[i]) {
				return
			}
		}
	}
}

// Rows are the sockets of a look by number: a million of them may be decoded only when they are
// asked for.
type Rows interface {
	Len() int
	// Socket reads one.
	Socket(i int, to *Socket)
}

// SocketList are sockets that are all there.
type SocketList []Socket

// Len implements Rows.
func (l SocketList) Len() int { return len(l) }

// Socket implements Rows.
func (l SocketList) Socket(i int, to *Socket) { *to = l[i] }

// Hook is one row of the hook table as it came out on this kernel.
type Hook struct {
	// Fact is what the hook is needed for, for example "transitions".
	Fact string `json:"fact"`
	// Hook is the kernel's name of it, Kind the way of attaching (tp_btf, fexit, iter).
	Hook     string `json:"hook"`
	Kind     string `json:"kind"`
	Attached bool   `json:"attached"`
	// Reason says why it was chosen or why not.
	Reason string `json:"reason"`
}
