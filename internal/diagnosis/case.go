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

	// Cause, Blamed and Evidence are set by Explain. A zero Blamed is "nobody known".
	Cause    Cause
	Blamed   event.Task
	Evidence event.Evidence
}
