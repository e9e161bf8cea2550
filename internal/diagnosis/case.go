package diagnosis

import "github.com/tcpwaitd/tcpwaitd/internal/event"

// Case is one socket with everything known of it.
type Case struct {
	event.Socket
	// Holders are the descriptors that refer to the socket now.
	Holders []event.Holder
	// HoldersKnown: somebody looked, so an empty Holders means nobody has it.
	HoldersKnown bool
	// Listeners hold the listening socket in whose accept queue this one waits.
	Listeners []event.Holder
	// Passed are the messages nobody has received yet that refer to it, Fixed the slots of
	// io_uring's fixed files (FD is the slot). Looked for where nobody holds a descriptor.
	Passed []event.Passed
	Fixed  []event.Holder

	// Cause, Blamed and Evidence are set by Explain. A zero Blamed is "nobody known".
	Cause    Cause
	Blamed   event.Task
	Evidence event.Evidence
}

// Where says where a socket is that no process holds: "message" (a unix-socket message
// nobody has received), "io_uring" (a fixed file), "kernel" (the kernel made it for itself),
// "" unknown.
func (c *Case) Where() string {
	switch {
	case len(c.Passed) > 0:
		return "message"
	case len(c.Fixed) > 0:
		return "io_uring"
	case c.Kernel:
		return "kernel"
	default:
		return ""
	}
}

// Telling lists the moments of which stacks are taken, the one first that says most about
// why a socket with this cause is not closed: that nearest to the missing close(). The
// caller changes nothing in it.
func Telling(c Cause) []event.StackSlot {
	if c == ZombieFD {
		return shutDown[:]
	}
	return waiting[:]
}

var (
	waiting = [event.StackSlots]event.StackSlot{event.StackEOF, event.StackLastRead, event.StackOpen, event.StackClose}
	// shutDown: the shutdown() is the place where the close() is missing.
	shutDown = [event.StackSlots]event.StackSlot{event.StackClose, event.StackEOF, event.StackLastRead, event.StackOpen}
)

// Stack is the stack that says most about why the socket is not closed, 0 if there is none.
func (c *Case) Stack() event.StackID {
	for _, slot := range Telling(c.Cause) {
		if id := c.Stacks[slot]; id != 0 {
			return id
		}
	}
	return 0
}
