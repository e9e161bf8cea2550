package record

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/ports"
)

// KindTimewait tells who closes first and how many ports are left.
const KindTimewait = "timewait"

// Timewait tells who closes first, and how much of each destination's ports is used.
type Timewait struct {
	Head
	Time Time `json:"time"`
	// ObservedNS is how long was watched; 0: active_closers and connect_failures are not known.
	ObservedNS int64 `json:"observed_ns"`
	// TimeWait and FinWait2 count mini-sockets. FinWait2Held are sockets in FIN_WAIT2 that a
	// process still has: it has shut down its side and reads on.
	TimeWait     int `json:"time_wait"`
	FinWait2     int `json:"fin_wait2"`
	FinWait2Held int `json:"fin_wait2_held"`

	ActiveClosers []ActiveCloser `json:"active_closers"`
	// Resets are processes that cut connections off: no TIME_WAIT follows.
	Resets  []Resetter `json:"resets"`
	Budgets []Budget   `json:"budgets"`
	// BudgetsTotal is how many there are, those with fewer ports in use than are shown included.
	BudgetsTotal    int              `json:"budgets_total"`
	ConnectFailures []ConnectFailure `json:"connect_failures"`
	Namespaces      []PortSpace      `json:"namespaces"`
	// Sysctls are those of the namespace SysctlsNetns: where there are several, the one with the
	// fullest budget.
	Sysctls      map[string]string `json:"sysctls"`
	SysctlsNetns uint32            `json:"sysctls_netns,omitzero"`
	Advice       []string          `json:"advice"`
	Loss         LossCounts        `json:"loss"`
	UnreadNetns  []UnreadNetns     `json:"unread_netns,omitempty"`
}

// ActiveCloser is one process that closes first. Without a pid and with Processes it is
// several of the same name; without either, the kernel closed by itself.
type ActiveCloser struct {
	Pid       uint32 `json:"pid,omitzero"`
	Comm      string `json:"comm,omitempty"`
	Exe       string `json:"exe,omitempty"`
	Processes int    `json:"processes,omitzero"`
	Unit      string `json:"unit,omitempty"`
	Container string `json:"container,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Names
	// Gone: it has ended.
	Gone bool `json:"gone"`

	ClosedFirst int     `json:"closed_first"`
	PerS        float64 `json:"per_s"`
	// Simultaneous are closes at the same time as the peer's, not among ClosedFirst.
	Simultaneous int `json:"simultaneous"`
	// Exiting are those of both that the kernel closed because the process ended.
	Exiting int           `json:"exiting"`
	Groups  []CloserGroup `json:"groups"`
	// StacksNotSampled counts the stacks left out because there were too many a second.
	StacksNotSampled uint64 `json:"stacks_not_sampled,omitzero" csv:"-"`
}

// CloserGroup is connections of one process that are closed at the same place in the code.
// Without frames, the place was not taken down.
type CloserGroup struct {
	N         int  `json:"n"`
	Direction Word `json:"direction"`
	// Lport is set for accepted, Rport for connected sockets.
	Lport   uint16  `json:"lport,omitzero"`
	Rport   uint16  `json:"rport,omitzero"`
	Frames  []Frame `json:"frames"`
	Quality string  `json:"quality,omitempty"`
	Reason  string  `json:"reason,omitempty"`
}

// Resetter is one process that cuts connections off.
type Resetter struct {
	Pid       uint32  `json:"pid,omitzero"`
	Comm      string  `json:"comm,omitempty"`
	Container string  `json:"container,omitempty"`
	N         int     `json:"n"`
	PerS      float64 `json:"per_s"`
}

// Budget is the use of the ephemeral range: for one destination, or, with the scope
// local_address, of one local address for all destinations, where sockets are bound before they
// connect.
type Budget struct {
	Scope     string     `json:"scope"`
	Netns     uint32     `json:"netns"`
	NetnsName string     `json:"netns_name,omitempty"`
	Laddr     netip.Addr `json:"laddr"`
	Raddr     netip.Addr `json:"raddr,omitzero"`
	Rport     uint16     `json:"rport,omitzero"`
	// InUse are ports with a socket in any state, Ratio their share of the range.
	InUse int     `json:"in_use"`
	Range int     `json:"range"`
	Ratio float64 `json:"ratio"`
	// ExhaustedInS is a forecast in seconds, 0: there is no port left; absent where no end is in
	// sight. Min and Max are at the limits of the rate; Max is absent where it may never happen.
	ExhaustedInS   *int64 `json:"exhausted_in_s,omitempty"`
	ExhaustedMinS  *int64 `json:"exhausted_min_s,omitempty"`
	ExhaustedMaxS  *int64 `json:"exhausted_max_s,omitempty"`
	TimeWait       int    `json:"time_wait"`
	FinWait2       int    `json:"fin_wait2"`
	Reusable       int    `json:"reusable"`
	ByBind         int    `json:"by_bind"`
	TakenElsewhere int    `json:"taken_elsewhere"`
	// Unavailable are the ports the next socket cannot have: in use and not reusable, or taken
	// elsewhere.
	Unavailable      int     `json:"unavailable"`
	UnavailableRatio float64 `json:"unavailable_ratio"`
	// PerS is how many ports more are taken in a second, without those that come back.
	PerS float64 `json:"per_s"`
}

// The scopes of budgets.
const (
	ScopeDestination  = "destination"
	ScopeLocalAddress = "local_address"
)

// ConnectFailure is a process whose connect() failed with EADDRNOTAVAIL.
type ConnectFailure struct {
	Pid       uint32     `json:"pid,omitzero"`
	Comm      string     `json:"comm,omitempty"`
	Container string     `json:"container,omitempty"`
	Netns     uint32     `json:"netns,omitzero"`
	Laddr     netip.Addr `json:"laddr,omitzero"`
	Raddr     netip.Addr `json:"raddr,omitzero"`
	Rport     uint16     `json:"rport,omitzero"`
	// N is how often; Bound of these because the port that bind() had chosen was in use to that
	// destination, the others because there was none.
	N     int `json:"n"`
	Bound int `json:"bound"`
}

// PortSpace is a network namespace: mini-sockets, settings and the kernel's counters.
type PortSpace struct {
	Netns    uint32 `json:"netns"`
	Name     string `json:"name,omitempty"`
	TimeWait int    `json:"time_wait"`
	FinWait2 int    `json:"fin_wait2"`
	// Range is how many ports the kernel chooses from.
	Range    int               `json:"range,omitzero"`
	Counters PortCounters      `json:"counters"`
	Sysctls  map[string]string `json:"sysctls"`
}

// PortCounters are counters of the kernel since the namespace was made; absent where they could
// not be read.
type PortCounters struct {
	// TimeWait are mini-sockets that were made (until Linux 5.16: that ended), Recycled those
	// that connect() took over (tcp_tw_reuse), Overflow those that were not made because of
	// tcp_max_tw_buckets.
	TimeWait *PortCounter `json:"tw,omitempty"`
	Recycled *PortCounter `json:"tw_recycled,omitempty"`
	Overflow *PortCounter `json:"tw_overflow,omitempty"`
	// PAWSActive and PAWSEstab are segments refused for an old timestamp.
	PAWSActive *PortCounter `json:"paws_active,omitempty"`
	PAWSEstab  *PortCounter `json:"paws_established,omitempty"`
}

// PortCounter is a counter of the kernel and how much of it came while watching.
type PortCounter struct {
	Total    uint64 `json:"total"`
	Observed uint64 `json:"observed"`
}

// NewTimewait is a record without anything found.
func NewTimewait(at Time, observedNS int64) Timewait {
	return Timewait{
		Head: head(KindTimewait), Time: at, ObservedNS: observedNS,
		ActiveClosers: []ActiveCloser{}, Resets: []Resetter{}, Budgets: []Budget{}, ConnectFailures: []ConnectFailure{},
		Namespaces: []PortSpace{}, Sysctls: map[string]string{}, Advice: []string{},
	}
}

// CloserGroups builds the groups of a closer, the biggest first. Stacks that look the same make
// one group; stack names a place and is nil where none was taken down.
func CloserGroups(c *ports.Closer, stack func(event.StackID) *Stack) []CloserGroup {
	all := make([]CloserGroup, 0, len(c.Sites))
	for site, n := range c.Sites {
		g := CloserGroup{N: n, Direction: Word(site.Direction.String())}
		if site.Direction == event.Out {
			g.Rport = site.Port
		} else {
			g.Lport = site.Port
		}
		if st := stack(site.Stack); st != nil {
			g.Frames, g.Quality, g.Reason = st.Frames, st.Quality, st.Reason
		}
		all = append(all, g)
	}
	return mergeGroups(all)
}

func mergeGroups(groups []CloserGroup) []CloserGroup {
	all := make([]CloserGroup, 0, len(groups))
	index := make(map[string]int, len(groups))
	for _, g := range groups {
		key := g.key()
		if at, seen := index[key]; seen {
			all[at].N += g.N
			continue
		}
		index[key] = len(all)
		all = append(all, g)
	}
	// A whole order, for they come out of a map.
	slices.SortFunc(all, func(a, b CloserGroup) int {
		return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.key(), b.key()))
	})
	return all
}

func (g *CloserGroup) key() string {
	dst := append([]byte(g.Direction), 0, byte(g.Lport>>8), byte(g.Lport), byte(g.Rport>>8), byte(g.Rport))
	for _, word := range []string{g.Quality, g.Reason} {
		dst = append(append(dst, word...), 0)
	}
	return string(appendPlace(dst, g.Frames))
}

// MergeClosers keeps the first ones, and puts the others together by name and container.
func MergeClosers(all []ActiveCloser, keep int) []ActiveCloser {
	if len(all) <= keep {
		return all
	}
	type name struct{ comm, container string }
	kept := slices.Clone(all[:keep])
	index := map[name]int{}
	for _, c := range all[keep:] {
		key := name{c.Comm, c.Container}
		at, seen := index[key]
		if !seen {
			at = len(kept)
			index[key] = at
			kept = append(kept, ActiveCloser{Comm: c.Comm, Container: c.Container, Names: c.Names, Gone: true})
		}
		m := &kept[at]
		m.Processes++
		m.Gone = m.Gone && c.Gone
		m.ClosedFirst += c.ClosedFirst
		m.PerS += c.PerS
		m.Simultaneous += c.Simultaneous
		m.Exiting += c.Exiting
		m.StacksNotSampled += c.StacksNotSampled
		m.Groups = mergeGroups(slices.Concat(m.Groups, c.Groups))
	}
	return kept
}

// BudgetOf builds the record of a budget.
func BudgetOf(b *ports.Budget, netnsName string) Budget {
	r := Budget{
		Scope: ScopeDestination, Netns: b.Netns, NetnsName: netnsName, Laddr: b.Laddr, Raddr: b.Raddr, Rport: b.Rport,
		InUse: b.InUse, Range: b.Range, Ratio: digits(b.Ratio(), 1e6), TimeWait: b.TimeWait, FinWait2: b.Orphaned,
		Reusable: b.Reusable, ByBind: b.ByBind, TakenElsewhere: b.Elsewhere,
		Unavailable: b.Unavailable(), UnavailableRatio: digits(b.UnavailableRatio(), 1e6), PerS: Rate(b.PerSecond),
		// 0 is for none left at all.
		ExhaustedInS:  seconds(b.Forecast.In, time.Second-1),
		ExhaustedMinS: seconds(b.Forecast.Soonest, 0),
		ExhaustedMaxS: seconds(b.Forecast.Latest, time.Second-1),
	}
	if b.Every() {
		r.Scope = ScopeLocalAddress
	}
	return r
}

// Rate has three digits after the point.
func Rate(perSecond float64) float64 { return digits(perSecond, 1e3) }

// digits rounds to one part of the given number.
func digits(x, parts float64) float64 { return math.Round(x*parts) / parts }
