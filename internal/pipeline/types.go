package pipeline

import (
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// Query is what a command asks for. What comes back has passed the filter: the
// pipeline gives Filter.Kernel to the tracer and applies the Match methods to the
// rest, because what it counts and judges must be chosen before.
type Query struct {
	// Filter is never nil; the zero Filter chooses everything.
	Filter *filter.Filter
	// Threshold is the age from which a wait counts as stuck.
	Threshold time.Duration
	// Facts about processes, cgroups, peers and stacks are wanted for the output. Without
	// it only what the filter needs is looked up.
	Facts bool
	// Peers: List finds the other ends of connections on this host, for which it must look at
	// the sockets of all states. Diagnose and Explain always do.
	Peers bool
	// peers are those found, by the cookie of our end.
	peers map[event.Cookie]record.Peer
}

// ListQuery is a Query with a time to watch.
type ListQuery struct {
	Query
	// For is how long to watch before looking, so that stacks are known; 0 looks at once.
	// When the context ends earlier, what was seen until then is listed, and that is no error.
	For time.Duration
}

// StackMode says of which events stacks are taken.
type StackMode string

// The modes. The zero value is StacksOff.
const (
	StacksOff StackMode = "off"
	// StacksOn: connect, accept, the first use by a new owner, EOF, and the close that ends
	// a stuck wait.
	StacksOn StackMode = "on"
	// StacksAll: every close as well.
	StacksAll StackMode = "all"
)

// Listing is one look at the sockets, joined and explained.
type Listing struct {
	// Facts.Clock is a reading taken with the snapshot; ages are those of Case.At.
	Facts record.Facts
	Cases diagnosis.Cases
	Loss  event.Loss
	// UnreadNetns are namespaces whose sockets are missing, with the reason.
	UnreadNetns map[uint32]string
}

// Stream receives what Tail sees. All calls come from one goroutine; an error ends
// the tail and is what it returns.
type Stream interface {
	// Clock comes before everything else, and again when the clocks were read anew.
	Clock(event.Clock)
	// Transition keeps nothing of t; f says what is known around it.
	Transition(t *event.Transition, f record.TransitionFacts) error
	// Loss comes when a total has changed.
	Loss(at event.KTime, total event.Loss) error
	// Flush comes when nothing more is at hand: what was buffered must go out.
	Flush() error
}

// DiagnoseQuery is a Query with a time to watch.
type DiagnoseQuery struct {
	Query
	// For is how long to watch; 0 judges the present. When the context ends earlier the
	// judgement is made of what was seen until then, and that is no error.
	For time.Duration
	// First, if set and For is not 0, gets the judgement of the present before the
	// watching begins.
	First func(*Diagnosed)
}

// Diagnosed is a judgement and the facts to show with it.
type Diagnosed struct {
	diagnosis.Diagnosis
	Facts record.Facts
	// SocketsTotal counts the sockets looked at, in every state; 0 unknown.
	SocketsTotal uint64
	UnreadNetns  map[uint32]string
}

// StatesBy is a way to group counts.
type StatesBy string

// The groupings of states; the zero value is none.
const (
	ByNothing   StatesBy = ""
	ByPid       StatesBy = "pid"
	ByContainer StatesBy = "container"
	ByNetns     StatesBy = "netns"
)

// StatesQuery is a Query with a grouping.
type StatesQuery struct {
	Query
	By StatesBy
	// Whole: the filter chooses nothing but network namespaces.
	Whole bool
	// ByFlow: it chooses by nothing but states, addresses, ports and namespaces, which
	// transitions have as well. Otherwise what left its state is not counted.
	ByFlow bool
	// Dwell: how long sockets stand in their states is wanted. For is how long to watch
	// before looking; 0 looks at once. When the context ends earlier, what was seen until
	// then is told, and that is no error.
	Dwell bool
	For   time.Duration
}

// StateCounts counts sockets, TIME_WAIT and request sockets included.
type StateCounts struct {
	Clock event.Clock
	All   record.StateCounts
	// Groups are empty without a grouping. Names in them are escaped (record.Escape).
	Groups []record.StatesGroup
	// Established is nil unless the query was for Whole namespaces.
	Established *record.Established
	// Dwell, Left, Observed and Loss are set if Dwell was asked for.
	Dwell       []record.Dwell
	Left        []record.Left
	Observed    time.Duration
	Loss        event.Loss
	UnreadNetns map[uint32]string
}

// CannotRunError is the tracer's: commands know the pipeline only.
type CannotRunError = tracer.CannotRunError
