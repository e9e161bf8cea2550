package event

import "time"

// Socket is one socket as a snapshot found it: kernel facts at one moment, and
// what its record remembers.
type Socket struct {
	// At is the moment this row was read.
	At     KTime
	Cookie Cookie
	// Inode is 0 while the connection waits in the accept queue (or after the last
	// descriptor went).
	Inode     uint64
	Flow      Flow
	State     State
	Direction Direction
	Cgroup    uint64

	// Since is the moment the socket entered State if Bound is Exact; if AtLeast the
	// latest moment it can have entered (so At-Since is a lower bound).
	Since KTime
	Bound Bound
	// Earliest is the first moment it can have entered State, 0 unknown: upper bound
	// of the dwell of a baseline socket.
	Earliest KTime
	// Baseline: the socket was there before us.
	Baseline bool

	// RecvQ and SendQ are the queues of ss, in bytes; RecvQ counts the FIN as one. For
	// LISTEN they are the accept queue's length and its limit.
	RecvQ, SendQ uint32
	// QueuesKnown is false where there are none (mini-sockets): RecvQ and SendQ are then
	// 0 and mean nothing. RecvQ of an MPTCP socket counts data, and one for the end only
	// behind data: 0 leaves open whether the end was read.
	QueuesKnown bool
	// EOFSeen: a recv() returning 0 was watched, at EOFAt by EOFTask.
	EOFSeen bool
	EOFAt   KTime
	EOFTask Task
	// EOFWatched: the reads of this socket were watched since before CLOSE_WAIT, so
	// EOFSeen=false means "not told".
	EOFWatched bool
	// SentAfterFin is bytes written since the peer's FIN, valid if SentKnown.
	SentAfterFin uint64
	SentKnown    bool
	// AckedAfterFin: the peer acknowledged something after its FIN: the sign of
	// half-close on a baseline socket.
	AckedAfterFin bool
	// LastSend and LastAck are the last moments data was sent and an ACK received,
	// to a kernel tick; 0 unknown.
	LastSend, LastAck KTime
	Keepalive         bool
	// Shutdown holds the kernel's RCV_SHUTDOWN (1) and SEND_SHUTDOWN (2).
	Shutdown uint8
	// WasConnected: the socket has been ESTABLISHED.
	WasConnected bool
	// Subflow: a TCP subflow of an MPTCP socket; Parent is the cookie of that socket,
	// 0 unknown.
	Subflow bool
	Parent  Cookie

	// SndNxt and RcvNxt are the sequence numbers that are sent and awaited next; by them
	// the two ends of a connection on this host recognise each other. Valid if SeqKnown.
	SndNxt, RcvNxt uint32
	SeqKnown       bool

	// Stacks were taken while watching.
	Stacks Stacks

	// Owner is the task that accepted, connected or first used the socket.
	Owner    Task
	Evidence Evidence
	// User is the process that last read from it or wrote to it while users were watched,
	// UserEvidence (read or write) how it began to. Zero: nobody, or nobody watched.
	User         Task
	UserEvidence Evidence
	// Listener is the cookie of the listening socket in whose accept queue it was found;
	// 0 if it was found in none.
	Listener Cookie
	// Kernel: the kernel made the socket for itself, and no file refers to it.
	Kernel bool

	// Port says how the local port was taken.
	Port PortChoice
	// Ends is when the kernel removes a mini-socket by itself (one in FIN_WAIT2 can turn to
	// TIME_WAIT before), up to some ticks too early; 0 unknown or none.
	Ends KTime
	// Stamped: the connection had TCP timestamps; known of mini-sockets only.
	Stamped bool
}

// PortChoice says how a local port was taken, and so from whom.
type PortChoice uint8

// Both are facts about the port, not about one socket: what bind() took for one socket, no
// connect() can choose for another one, whatever the destination.
const (
	PortUnknown PortChoice = iota
	// PortByConnect: connect() chose it; to other destinations it is free.
	PortByConnect
	// PortByBind: bind() or listen() took it; connect() does not choose it any more.
	PortByBind
)

// Dwell is the time in State at the moment of the snapshot. Valid unless Bound is
// unknown.
func (s *Socket) Dwell() time.Duration { return max(0, s.At.Sub(s.Since)) }

// DwellMax is the upper bound of a baseline socket's dwell, 0 unknown.
func (s *Socket) DwellMax() time.Duration {
	if s.Earliest == 0 {
		return 0
	}
	return max(0, s.At.Sub(s.Earliest))
}

// Holder is one descriptor of one process that refers to a socket.
type Holder struct {
	Task
	Cookie Cookie
	FD     int32
	State  State
	// Listening is set where State is Listen.
	Listening *Listening
}

// Listening is a listening socket. QueueLen and QueueMax are its accept queue.
type Listening struct {
	Inode              uint64
	Flow               Flow
	QueueLen, QueueMax uint32
}

// Accepts is the listening socket; the zero value where it is none.
func (h *Holder) Accepts() Listening {
	if h.Listening == nil {
		return Listening{}
	}
	return *h.Listening
}

// Passed is a reference to a socket in a unix-socket message that nobody has received yet.
type Passed struct {
	// Cookie and Inode are those of the socket passed.
	Cookie Cookie
	Inode  uint64
	// Receiver is a process that could receive the message, FD its descriptor of the unix
	// socket. Each process that holds that socket has a Passed of its own.
	Receiver Task
	FD       int32
	// Sender is the pid in the message's credentials, 0 unknown.
	Sender uint32
}
