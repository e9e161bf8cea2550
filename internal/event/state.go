package event

import (
	"fmt"
	"strings"
)

// State is a TCP state with the kernel's number (include/net/tcp_states.h).
type State uint8

// The states as the kernel numbers them. NewSynRecv is a request socket,
// BoundInactive exists since Linux 6.8.
const (
	StateUnknown State = iota
	Established
	SynSent
	SynRecv
	FinWait1
	FinWait2
	TimeWait
	Close
	CloseWait
	LastAck
	Listen
	Closing
	NewSynRecv
	BoundInactive

	numStates
)

var stateNames = [numStates]string{
	"UNKNOWN", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",
	"TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING",
	"NEW_SYN_RECV", "BOUND_INACTIVE",
}

// String spells the state as the kernel does, for example CLOSE_WAIT.
func (s State) String() string {
	if s >= numStates {
		return fmt.Sprintf("STATE_%d", uint8(s))
	}
	return stateNames[s]
}

// States returns every known state in the kernel's order.
func States() []State {
	all := make([]State, 0, numStates-1)
	for s := Established; s < numStates; s++ {
		all = append(all, s)
	}
	return all
}

// ParseState accepts CLOSE_WAIT, close-wait and close_wait. The error lists
// the valid names.
func ParseState(name string) (State, error) {
	want := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	valid := make([]string, 0, numStates)
	for _, s := range States() {
		if s.String() == want {
			return s, nil
		}
		valid = append(valid, strings.ToLower(strings.ReplaceAll(s.String(), "_", "-")))
	}
	return StateUnknown, fmt.Errorf("unknown TCP state %q: want one of %s", name, strings.Join(valid, ", "))
}

// StateSet is a bit set of states; bit n stands for State(n).
type StateSet uint32

// SetOf returns the set of the given states.
func SetOf(states ...State) StateSet {
	var set StateSet
	for _, s := range states {
		set |= 1 << s
	}
	return set
}

// AllStates contains every state.
const AllStates StateSet = 1<<numStates - 1

// Has reports whether s is in the set.
func (set StateSet) Has(s State) bool { return s < numStates && set&(1<<s) != 0 }
