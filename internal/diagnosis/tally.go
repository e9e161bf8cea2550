package diagnosis

import (
	"cmp"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Site is where waits of one kind come from: the local port of accepted
// connections, the remote port of opened ones.
type Site struct {
	Direction event.Direction
	Port      uint16
}

// SiteOf returns the site of a flow. Where the direction is unknown the local port
// stands for it.
func SiteOf(d event.Direction, f event.Flow) Site {
	if d == event.Out {
		return Site{d, f.Remote.Port()}
	}
	return Site{d, f.Local.Port()}
}

// Closed counts the waits of one process and site that ended inside the window.
type Closed struct {
	// Process is whom the waits were laid to: the blamed process if it was known,
	// else the owner; zero if nobody knew.
	Process event.Task
	Site    Site
	// N ended, Opened of them also began inside the window.
	N, Opened int
	// Longest is the longest dwell among them.
	Longest time.Duration
}

// Tally counts ended waits. Not safe for concurrent use.
type Tally struct {
	from  event.KTime
	index map[tallyKey]int
	all   []Closed
}

type tallyKey struct {
	pid   uint32
	ticks uint64
	site  Site
}

// NewTally starts a window at from.
func NewTally(from event.KTime) *Tally {
	return &Tally{from: from, index: make(map[tallyKey]int)}
}

// Add counts one ended wait: who it was laid to, where it was, when it began and how
// long it lasted.
func (t *Tally) Add(process event.Task, site Site, since event.KTime, dwell time.Duration) {
	key := tallyKey{process.Pid, process.Start.Ticks(), site}
	i, ok := t.index[key]
	if !ok {
		i = len(t.all)
		t.index[key] = i
		t.all = append(t.all, Closed{Process: process, Site: site})
	}
	c := &t.all[i]
	c.N++
	if since >= t.from {
		c.Opened++
	}
	c.Longest = max(c.Longest, dwell)
}

// Closed returns the counts in a fixed order.
func (t *Tally) Closed() []Closed {
	all := slices.Clone(t.all)
	slices.SortFunc(all, func(a, b Closed) int {
		return cmp.Or(cmp.Compare(a.Process.Pid, b.Process.Pid), cmp.Compare(a.Process.Start, b.Process.Start),
			cmp.Compare(a.Site.Direction, b.Site.Direction), cmp.Compare(a.Site.Port, b.Site.Port))
	})
	return all
}
