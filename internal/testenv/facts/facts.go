// Package facts holds the lines that the leaker prints: what truly happened, by
// which the tests judge.
package facts

// Events of a line.
const (
	EventReady  = "ready"
	EventSocket = "socket"
	EventClosed = "closed"
	// EventFull: no descriptors left, from here on nothing is accepted.
	EventFull = "full"
)

// Line is one line of the leaker's output. Times are CLOCK_MONOTONIC in nanoseconds,
// as event.KTime.
type Line struct {
	Event string `json:"event"`
	// Ready is set for EventReady, the first line.
	*Ready
	// Socket is set for EventSocket (a new leaked socket) and EventClosed.
	Socket *Socket `json:"socket,omitempty"`
	// CloseBefore and CloseAfter bracket the leaker's own close(), for EventClosed.
	CloseBefore int64 `json:"close_before_ns,omitempty"`
	CloseAfter  int64 `json:"close_after_ns,omitempty"`
	// At is when a call first failed for want of a descriptor, for EventFull.
	At int64 `json:"at_ns,omitempty"`
}

// Ready says that the sockets are there and the kernel agreed.
type Ready struct {
	// Cause is what was asked for, Expect what tcpwaitd must call it.
	Cause  string `json:"cause"`
	Expect string `json:"expect"`
	// Pid is the process that has the sockets, 0 for in_flight. Leader is the process
	// that was started (accepted or connected them); it differs after a hand-over. Peer
	// is the other end: blaming it is wrong.
	Pid    int `json:"pid"`
	Leader int `json:"leader_pid"`
	Peer   int `json:"peer_pid"`
	N      int `json:"n"`
	// Lport is the port of the listening side. It is the local port of the sockets, but for
	// out_eof, where it is the remote one.
	Lport uint16 `json:"lport"`
	Netns uint32 `json:"netns"`
	// Mptcp: both ends speak it, so the sockets are MPTCP sockets.
	Mptcp   bool     `json:"mptcp"`
	Entered []Socket `json:"entered"`
}

// Socket is one leaked socket, seen from the leaking side.
type Socket struct {
	// Cookie is 0 where nobody has a descriptor to ask with.
	Cookie uint64 `json:"cookie,omitempty"`
	// FD is the number in the process Pid, -1 none.
	FD    int    `json:"fd"`
	Lport uint16 `json:"lport"`
	Rport uint16 `json:"rport"`
	// Before and After bracket the peer's close() or shutdown(). The socket cannot have
	// entered CLOSE_WAIT before Before; on loopback it normally has by After.
	Before int64 `json:"before_ns"`
	After  int64 `json:"after_ns"`
	// Seen is when the leaker found it in CLOSE_WAIT, 0 if it could not look by
	// descriptor: it certainly had entered.
	Seen int64 `json:"seen_ns,omitempty"`
}
