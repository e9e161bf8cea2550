package diagnosis

import (
	"cmp"
	"maps"
	"math"
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
	// N ended.
	N int
	// Longest is the longest dwell among them.
	Longest time.Duration
	// Gone are those of them that were open when the window began: how old they were then, at
	// most.
	Gone []time.Duration
	// lasted counts all of them by how long they lasted.
	lasted dwells
}

// dwells counts dwell times in steps of a quarter of an octave, from 1 ms up to years.
type dwells [160]uint32

func stepOf(d time.Duration) int {
	if d < time.Millisecond {
		return 0
	}
	return min(1+int(4*math.Log2(float64(d)/float64(time.Millisecond))), len(dwells{})-1)
}

// from counts those that lasted for d or longer; those of the same step count as well.
func (ds *dwells) from(d time.Duration) int {
	n := 0
	for _, k := range ds[stepOf(d):] {
		n += int(k)
	}
	return n
}

func (ds *dwells) add(o *dwells) {
	for i := range o {
		ds[i] += o[i]
	}
}

// goneFrom counts those that were older than cutoff when the window began, or may have been.
func (c *Closed) goneFrom(cutoff time.Duration) int {
	n := 0
	for _, age := range c.Gone {
		if age > cutoff {
			n++
		}
	}
	return n
}

// Tally counts ended waits. Not safe for concurrent use.
type Tally struct {
	from  event.KTime
	index map[tallyKey]int
	all   []Closed
	// last is what was counted last, and its place: mostly the next is like it.
	last struct {
		key tallyKey
		i   int
	}
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

// Add counts one ended wait: who it was laid to, where it was, the first moment it can have
// begun (0 unknown) and how long it lasted at least.
func (t *Tally) Add(process event.Task, site Site, earliest event.KTime, dwell time.Duration) {
	c := t.closed(tallyKey{process.Pid, process.Start.Ticks(), site}, process)
	c.N++
	c.Longest = max(c.Longest, dwell)
	if earliest < t.from {
		age := t.from.Sub(earliest)
		c.Gone = append(c.Gone, age)
		dwell = max(dwell, age)
	}
	c.lasted[stepOf(dwell)]++
}

// closed is the place for what has a key.
func (t *Tally) closed(key tallyKey, process event.Task) *Closed {
	if len(t.all) == 0 || t.last.key != key {
		i, ok := t.index[key]
		if !ok {
			i = len(t.all)
			t.index[key] = i
			t.all = append(t.all, Closed{Process: process, Site: key.site})
		}
		t.last.key, t.last.i = key, i
	}
	return &t.all[t.last.i]
}

// Closed returns the counts in a fixed order, with waits that ended inside the window and were counted
// before they came here.
func (t *Tally) Closed(short ...event.ShortWaits) []Closed {
	c := &Tally{index: maps.Clone(t.index), all: slices.Clone(t.all), last: t.last}
	for i := range c.all {
		c.all[i].Gone = slices.Clone(c.all[i].Gone)
	}
	for i := range short {
		c.addShort(&short[i])
	}
	slices.SortFunc(c.all, func(a, b Closed) int {
		return cmp.Or(cmp.Compare(a.Process.Pid, b.Process.Pid), cmp.Compare(a.Process.Start, b.Process.Start),
			cmp.Compare(a.Site.Direction, b.Site.Direction), cmp.Compare(a.Site.Port, b.Site.Port))
	})
	return c.all
}

func (t *Tally) addShort(s *event.ShortWaits) {
	c := t.closed(tallyKey{s.Owner.Pid, s.Owner.Start.Ticks(), Site{s.Direction, s.Port}}, s.Owner)
	c.N += int(s.N)
	c.Longest = max(c.Longest, s.Longest)
	c.lasted[stepOf(s.Longest)] += uint32(s.N)
}
