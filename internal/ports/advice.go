package ports

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Facts are all that is known of a host's ports and TIME_WAIT.
type Facts struct {
	// Observed is how long closers and failures were watched; 0: not at all.
	Observed time.Duration
	Closers  []*Closer
	// Budgets as Budgets gave them.
	Budgets  []Budget
	Failures []Failure
	Settings map[uint32]Settings
	// Overflows counts by namespace the TIME_WAIT that were cut short while watching, because
	// tcp_max_tw_buckets was reached.
	Overflows map[uint32]uint64
	// Who is what a closer is called, fit to be printed. Place is what a network namespace is
	// called, "" if it needs no name.
	Who   func(*Closer) string
	Place func(netns uint32) string
}

const (
	// tight is the share of a budget from which it is worth a word.
	tight = 0.5
	// soon is how near an end must be to be worth one.
	soon = 10 * time.Minute
	// maxAdvice sentences are read; more are not.
	maxAdvice = 3
)

// Advise returns at most three sentences that are true of the facts, the one that helps most
// first. The last names what does not help. Where nothing is wrong it says so.
func Advise(f *Facts) []string {
	b := f.worst()
	var all []string
	for _, advise := range []func(*Facts, *Budget) string{overflowing, bindLate, keepConnections, takeOver, widen} {
		if text := advise(f, b); text != "" {
			all = append(all, text)
		}
	}
	if b == nil && len(all) == 0 {
		return []string{f.healthy()}
	}
	all = all[:min(len(all), maxAdvice-1)]
	return append(all, noCures)
}

// noCures is true on every Linux since 4.12; design and sources are in docs/timewait.md.
const noCures = "What does not help: tcp_fin_timeout (TIME_WAIT lasts 60 s, compiled in), tcp_tw_recycle (gone since Linux 4.12), " +
	"a lower tcp_max_tw_buckets (it cuts TIME_WAIT short, which lets old segments into new connections), " +
	"SO_LINGER 0 (it throws data away)."

// worst is the budget that is worth a word, nil if none is.
func (f *Facts) worst() *Budget {
	for i := range f.Budgets {
		b := &f.Budgets[i]
		failed := slices.ContainsFunc(f.Failures, func(x Failure) bool { return x.Destination == b.Destination })
		near := b.Forecast.In != nil && *b.Forecast.In <= soon
		if failed || near || b.UnavailableRatio() >= tight {
			return b
		}
	}
	if len(f.Failures) > 0 {
		return &Budget{Destination: f.Failures[0].Destination}
	}
	return nil
}

func (f *Facts) healthy() string {
	fullest := ""
	if len(f.Budgets) > 0 {
		b := &f.Budgets[0]
		fullest = fmt.Sprintf(" The fullest budget, %s, lacks %d of %d ports.", f.to(b.Destination), b.Unavailable(), b.Range)
	}
	return "Nothing is wrong here: TIME_WAIT holds no descriptor and hardly any memory, and no destination runs out of ports." +
		fullest + " There is nothing to tune."
}

// to names a destination.
func (f *Facts) to(d Destination) string {
	text := ""
	if d.Every() {
		text = "from " + d.Laddr.String() + " to anywhere"
	} else {
		text = "to " + netip.AddrPortFrom(d.Raddr, d.Rport).String()
	}
	if place := f.Place(d.Netns); place != "" {
		text += " in " + place
	}
	return text
}

func overflowing(f *Facts, _ *Budget) string {
	for _, netns := range slices.Sorted(maps.Keys(f.Overflows)) {
		n := f.Overflows[netns]
		if n == 0 {
			continue
		}
		s := f.Settings[netns]
		return fmt.Sprintf("%d TIME_WAIT were cut short because net.ipv4.tcp_max_tw_buckets (%d) was reached: raise it, or have fewer of them.",
			n, s.TimeWaitLimit)
	}
	return ""
}

// bindLate: a socket that is bound before it connects takes its port from all destinations.
func bindLate(_ *Facts, b *Budget) string {
	if b == nil || b.ByBind == 0 || !b.Every() && 2*b.ByBind < b.InUse {
		return ""
	}
	return fmt.Sprintf("%d of these ports were taken by bind() before connect(), so that none of them serves two destinations of %s: "+
		"set IP_BIND_ADDRESS_NO_PORT before bind(), and connect() chooses a port for its destination alone.", b.ByBind, b.Laddr)
}

// keepConnections: the one cure that needs no setting.
func keepConnections(f *Facts, b *Budget) string {
	if b == nil || b.Every() {
		return ""
	}
	var who *Closer
	most := 0
	for _, c := range f.Closers {
		if n := c.Destinations[b.Destination]; n > most {
			who, most = c, n
		}
	}
	if who == nil || f.Observed <= 0 {
		return ""
	}
	return fmt.Sprintf("%s closes first, %s times a second, %s, and each time a port is gone for 60 s: "+
		"keep connections (a pool, HTTP keep-alive), or let the other end close first.",
		f.Who(who), rateText(float64(most)/f.Observed.Seconds()), f.to(b.Destination))
}

// takeOver: tcp_tw_reuse, where it would do anything.
func takeOver(f *Facts, b *Budget) string {
	if b == nil || b.Every() || 2*b.TimeWait < b.InUse || b.TimeWait == 0 {
		return ""
	}
	s, ok := f.Settings[b.Netns]
	if !ok || s.reuse(b.Destination) < TimeWaitLasts || s.Reuse == ReuseAlways && !s.NoTimestamps {
		return ""
	}
	if s.NoTimestamps {
		return "net.ipv4.tcp_timestamps is 0, so that no port can be taken over from TIME_WAIT: turn timestamps on (at both ends), then net.ipv4.tcp_tw_reuse=1 works."
	}
	return fmt.Sprintf("net.ipv4.tcp_tw_reuse=1 lets connect() take a port over from TIME_WAIT after %s, if both ends use TCP timestamps. "+
		"It helps the end that connects, and that is this one.", s.ReuseDelay)
}

// wide is a range that cannot be made much wider.
const wide = 60000

func widen(f *Facts, b *Budget) string {
	if b == nil {
		return ""
	}
	s, ok := f.Settings[b.Netns]
	if !ok || s.Size() >= wide {
		return "More source addresses multiply the ports: each local address has a range of its own to each destination."
	}
	return fmt.Sprintf("net.ipv4.ip_local_port_range gives %d ports: \"1024 65535\" gives 64512. "+
		"Ports that servers listen on belong into net.ipv4.ip_local_reserved_ports then.", s.Size())
}

// rateText has the digits that a rate deserves.
func rateText(perSecond float64) string {
	if perSecond < 10 {
		return fmt.Sprintf("%.1f", perSecond)
	}
	return fmt.Sprintf("%.0f", perSecond)
}
