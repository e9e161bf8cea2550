package diagnosis

import (
	"iter"
	"net/netip"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// How a verdict is found: one statistical rule, per process and site (local port of
// accepted, remote port of opened connections). The numbers are in parameter.go,
// docs/causes.md has the rule in full. A wrong accusation is the worst bug, so what is not
// known counts for the process.
//
// A wait is stuck when the lower bound of its dwell has reached the threshold and it is
// not a half-close in use. A zombie (zombie_fd) is treated as a wait.
//
// Growth. The null hypothesis is a bounded population: waits with dwell times of any
// distribution come at random at a constant rate and all are closed. For an age c let A be
// the waits that reached c inside the window and are still open, and G those that were older
// than c when it began and have ended in it: A - G is how much the number of waits older
// than c has grown. Under the null hypothesis A and G are independent Poisson counts with
// the same mean: given A + G, A is binomial with 1/2. To be on the safe side A counts
// moments (a burst is one), and instead of G stands E, all waits that ended older than c.
// Growth is shown where P(Bin(A+E, 1/2) >= A) is at most level / cutoffCount for one of the
// cutoffs c. It must not be a wave either: the moments span half of the window and reach up
// to its end.
//
// Leaking: growth is shown, at least minStuck of the kind that grows are stuck, and no hole
// in the ages separates these from the newcomers. Ends that are unread or in flight can be those of a pool that fills: their growth is
// suspicious until the site has more than maxPool of them.
//
// Leaking by ages, where there was no window or one too short for the rate: the null
// hypothesis is a program that closes late, of whose waits no more than stuckShare are
// stuck. It is rejected where P(Bin(n, stuckShare) >= stuck) is at most level, in waits and
// in moments. The stuck ones must also reach back two thresholds, not thin out with age,
// and their stream reach up to the threshold and to the present. Never for unread_eof,
// in_flight and unaccepted, and not at a site that closed late in the window.
//
// Leaking as well: the accept queue is full while a wait in it is stuck.
//
// Never leaking by growth or ages: a site that closed waits older than the threshold in the
// window, and keeps none much older than those it closed. It is slow.
//
// Suspicious: something is stuck, and nothing of that is shown; or growth is shown and not
// one was closed, but none is stuck yet. Clean: the rest.
//
// Ended waits are credited generously: those of unknown owner to every process with
// that site, those of the process that passed descriptors on to the one that
// holds them. Sockets nobody is blamed for are judged together, site by site, with all
// ended waits of the site credited; that accuses nobody.

// Verdict is the judgement of one process or of all, from best to worst.
type Verdict uint8

// The verdicts; a larger one is worse.
const (
	Clean Verdict = iota
	Suspicious
	Leaking
)

// String returns the word used in records.
func (v Verdict) String() string {
	switch v {
	case Leaking:
		return "leaking"
	case Suspicious:
		return "suspicious"
	default:
		return "clean"
	}
}

// FDs are the descriptors of one process, 0 unknown.
type FDs struct{ Open, Limit int }

// Input is everything a judgement is made of.
type Input struct {
	// Cases are the sockets at To: those in CLOSE_WAIT, and in CLOSE with a descriptor;
	// others are ignored. One with a Cause counts as explained, with this Threshold;
	// Judge explains the rest. The table must be reconciled before, so that a lost record
	// is not taken for an open wait.
	Cases []Case
	// Closed are the waits that ended between From and To.
	Closed []Closed
	// From and To are the window; equal means judge the present.
	From, To  event.KTime
	Threshold time.Duration
	// FDs by pid.
	FDs  map[uint32]FDs
	Loss event.Loss
}

// Diagnosis is the judgement.
type Diagnosis struct {
	// Verdict is the worst of the processes'.
	Verdict             Verdict
	Observed, Threshold time.Duration
	// Sockets counts those in CLOSE_WAIT, MPTCP subflows excepted.
	Sockets int
	Loss    event.Loss
	// Processes are sorted worst first; the sockets nobody is blamed for come last.
	Processes []Process
}

// Waits are the sockets judged, process by process.
func (d *Diagnosis) Waits() iter.Seq[*Case] {
	return func(yield func(*Case) bool) {
		for i := range d.Processes {
			for j := range d.Processes[i].Groups {
				for _, c := range d.Processes[i].Groups[j].Cases {
					if !yield(c) {
						return
					}
				}
			}
		}
	}
}

// Process is the judgement of one process, or with a zero Task of the sockets
// nobody is blamed for.
type Process struct {
	Task    event.Task
	Verdict Verdict
	// Why is the reason of the verdict in one sentence.
	Why string
	// Sockets counts its sockets in CLOSE_WAIT and its zombies, Stuck those of them
	// that count as stuck.
	Sockets, Stuck int
	// Oldest is the longest dwell, with its bound.
	Oldest      time.Duration
	OldestBound event.Bound
	// GrowthPerMin is how many more waits a minute there are, with its 95 % limits: of the
	// sites where growth is shown, else of all in the window. Nil if there was no window to
	// measure it in and ages do not show it.
	GrowthPerMin, GrowthPerMinLow, GrowthPerMinHigh *float64
	Causes                                          map[Cause]int
	FDs                                             FDs
	// FDsExhaustedIn is how long after To no descriptor is left, if waits keep coming at the
	// rate of the sites where growth is shown and all other descriptors stay. Nil unless
	// there is such a site and the limit is known. Min and Max are at the limits of the rate;
	// Max is nil where the rate may be nearly nothing.
	FDsExhaustedIn, FDsExhaustedMin, FDsExhaustedMax *time.Duration
	// Peers are the most frequent ones, at most five. For accepted connections the
	// remote port says nothing and is 0.
	Peers []Peer
	// Listeners are the processes that could accept what waits unaccepted, if that is why
	// nobody is blamed: several share the listening socket.
	Listeners []event.Task
	// Follows are the processes whose waits its own follow from, set by Follow.
	Follows []event.Task
	// Groups are sorted by size.
	Groups           []Group
	Advice, Commands []string
}

// Peer is a remote end with its number of sockets.
type Peer struct {
	Remote netip.AddrPort
	N      int
}

// Group is the sockets of one process with the same cause, site and telling stack.
type Group struct {
	Cause Cause
	Site  Site
	// Stack is Case.Stack of all of them, 0 if none of them has one.
	Stack event.StackID
	// Cases are the sockets themselves, in the order of cookies.
	Cases       []*Case
	N, Stuck    int
	Oldest      time.Duration
	OldestBound event.Bound
	// OldestCookie is the socket to show the other stacks of.
	OldestCookie event.Cookie
}
