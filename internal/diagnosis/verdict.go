package diagnosis

import (
	"iter"
	"net/netip"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// How a verdict is found. A wrong accusation is the worst bug, so every rule wants
// proof, and what is not known counts for the process.
//
// A wait is stuck when the lower bound of its dwell has reached the threshold and it is
// not a half-close in use. A zombie (zombie_fd) is treated as a wait.
//
// Clean: nothing is stuck. Suspicious: something is stuck, but no growth is shown. One
// exception: in a watched window at least minNetAlone waits were added steadily
// and not one was closed; then nothing needs to be stuck to be suspicious.
//
// Leaking: something is stuck and growth is shown, per process and site (local port
// of accepted, remote port of opened connections), in one of three ways.
//
//  1. Watched. At least minStuck waits are stuck; the window added at least minNet more
//     than it closed, more than the noise of coming and going (or at least minNet that
//     are older than any of minSample or more that ended); they came at minMoments
//     or more distinct moments that span half of the window, so it is not one
//     burst. For unread_eof and in_flight, where idle pools look the same, at least
//     minNetPool at as many moments over three quarters.
//  2. By ages, where there was no window or one too short for the rate. At least minAged
//     are stuck; the oldest is minAge thresholds old (a program that closes late
//     would have closed it); the entries of the stuck ones need at least minAged
//     distinct moments to be explained; the youngest of these is no older than the
//     threshold and stillArriving mean gaps, and the youngest of all no older than
//     those gaps; the old are not much fewer than the young; and no wait older
//     than a quarter of the threshold ended in the window. Entries of baseline
//     sockets are intervals and count as distinct only where the intervals prove it.
//     Never for unread_eof, in_flight and unaccepted.
//  3. The accept queue is full while a wait in it is stuck: connections are refused.
//
// Never leaking by 1 and 2: a site that closed waits older than the threshold
// in the window, and keeps none much older than those it closed. It is slow.
//
// Ended waits are credited generously: those of unknown owner to every process with
// that site, those of the process that passed descriptors on to the one that
// holds them. Sockets nobody is blamed for are judged together, site by site, with all
// ended waits of the site credited; that accuses nobody.
const (
	minStuck    = 3
	minNet      = 3
	minNetPool  = 5
	minNetAlone = 5
	minMoments  = 3
	minAged     = 5
	minAge      = 2
	// stillArriving is in mean gaps between entries.
	stillArriving = 3
	// windowMoments, ageMoments: entries closer than this fraction of the window, or of the
	// threshold, are one moment.
	windowMoments = 20
	ageMoments    = 100
	// slowSlack is the fraction of the longest closed dwell an open wait may exceed it by.
	slowSlack = 4
	// noise: the difference of two Poisson counts has the variance of their sum; four
	// deviations squared are sixteen times that.
	noise = 16
	// minSample is the number of ended waits that tell how long it takes at most.
	minSample = 20
	// oldShare: at least this fraction of the stuck waits is in the older half of their
	// ages.
	oldShare = 3
	// thinning: how many times more waits may be nearing the threshold than the rate of
	// the stuck ones explains.
	thinning = 1.5
	// patience: ages prove nothing at a site that closes waits this fraction of the
	// threshold old.
	patience = 4
	// maxPeers is the length of a process's list of peers.
	maxPeers = 5
)

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
	// Cases are the sockets at To: those in CLOSE_WAIT, and in CLOSE with a descriptor.
	// Judge explains them itself; others are ignored. The table must be reconciled
	// before, so that a lost record is not taken for an open wait.
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
	// GrowthPerMin is nil if there was no window to measure it in.
	GrowthPerMin *float64
	Causes       map[Cause]int
	FDs          FDs
	// FDsExhaustedIn is nil unless growth was seen and the limit is known.
	FDsExhaustedIn *time.Duration
	// Peers are the most frequent ones, at most five. For accepted connections the
	// remote port says nothing and is 0.
	Peers []Peer
	// Listeners are the processes that could accept what waits unaccepted, if that is why
	// nobody is blamed: several share the listening socket.
	Listeners []event.Task
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
