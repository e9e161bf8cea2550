package event

import "time"

// Transition is one TCP state change as the kernel made it.
type Transition struct {
	At     KTime
	Cookie Cookie
	Flow   Flow
	Old    State
	New    State
	// InState is the time spent in Old; meaningless while InBound is unknown.
	InState   time.Duration
	InBound   Bound
	Direction Direction
	// Owner is what the socket's record knows at this moment; never the current task.
	Owner    Task
	Evidence Evidence
	// Cgroup is the id of the socket's cgroup v2, 0 unknown.
	Cgroup uint64
	// User is the pid that last read or wrote, 0 unknown.
	User uint32
	// RecvQ, SentAfterFin, EOFSeen, EOFWatched and SentKnown are as in Socket, at this moment. Set
	// where Old is CLOSE_WAIT.
	RecvQ, SentAfterFin            uint32
	EOFSeen, EOFWatched, SentKnown bool
	// Closer is the pid of the current task where the change is the doing of a close() or
	// shutdown(), into CLOSING that of the close before; 0 elsewhere. Exiting: it did not call close(), the kernel did when the process
	// ended.
	Closer  uint32
	Exiting bool
	// NoPort: a connect() that failed with EADDRNOTAVAIL sets the state back. It found no port; if
	// there is a local port, bind() had chosen it and it is in use to the destination.
	NoPort bool
	// Stacks are those of the socket so far; Close is that of this transition.
	Stacks Stacks
	// Inferred marks a transition the kernel did not report but which follows
	// from others (TIME_WAIT without fentry).
	Inferred bool
	// Subflow: of a TCP subflow of an MPTCP socket, which has transitions of its own.
	Subflow bool
}

// ShortWait is the most that a wait of ShortWaits lasted.
const ShortWait = time.Millisecond

// ShortWaits are waits of one owner that the kernel counted instead of telling of each. They began
// and ended while it watched.
type ShortWaits struct {
	// Owner is zero where nobody was known.
	Owner     Task
	Direction Direction
	// Port is the remote one of connections that the owner opened, the local one of others.
	Port uint16
	// N have ended since the beginning, and Longest lasted longest, but for others that ended in
	// the same moment.
	N       uint64
	Longest time.Duration
}

// Loss are monotonic totals of what did not reach the reader. Each says which side
// lost it.
type Loss struct {
	// Lost: the kernel could not write it, the ring was full.
	Lost uint64
	// Dropped: user space received and discarded it (unreadable, or sink too slow).
	Dropped uint64
	// Evicted: a table was full and an entry made room.
	Evicted uint64
	// Missed: seen by nobody at the time, found later by a snapshot or counted by the
	// kernel (recursion misses, records that could not be created).
	Missed uint64
}

// Add returns the sum of both.
func (l Loss) Add(o Loss) Loss {
	return Loss{l.Lost + o.Lost, l.Dropped + o.Dropped, l.Evicted + o.Evicted, l.Missed + o.Missed}
}

// Any reports whether anything was lost at all.
func (l Loss) Any() bool { return l != Loss{} }
