package ports

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
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
	// Settings by namespace; without any, nothing is known of ports.
	Settings map[uint32]Settings
	// Overflows counts by namespace the TIME_WAIT that were left out while watching, because
	// tcp_max_tw_buckets was reached.
	Overflows map[uint32]uint64
	// Accepted is how many TIME_WAIT stand at the end that accepted, see AcceptedTimeWait.
	Accepted int
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
	// dear is how much larger, in percent, a range must get to be worth a setting.
	dear = 10
)

// Cure is one sentence that Advise may say, and when it is true.
type Cure struct {
	Name, When string
	// Shown are the tests that make the situation, apply the advice and show the difference.
	Shown []string
	say   func(*situation) string
}

// NoCure is what people turn to, and why it does not help.
type NoCure struct {
	Name, Why string
	// Shown is the test that tries it.
	Shown string
	// tempts: somebody could think of it here.
	tempts func(*situation) bool
}

// Cures are the rules of Advise. The first ones that apply are said.
func Cures() []Cure {
	return []Cure{
		{
			"raise tcp_max_tw_buckets", "TIME_WAIT were left out because the limit was reached while watching",
			[]string{"TestNoCureFewerBuckets"},
			overflowing,
		},
		{
			"mend the program that does not close", "most ports of the budget are held by CLOSE_WAIT",
			[]string{"TestAdviceCloseYourSide"},
			leaking,
		},
		{
			"mend the other end", "most ports of the budget are held by FIN_WAIT2 without a process",
			[]string{"TestAdviceOtherEndMustClose"},
			deserted,
		},
		{
			"let connect() choose the port", "connect() failed for the port that bind() had chosen, which was in use to that destination",
			[]string{"TestAdviceLetConnectChoose"},
			chooseNone,
		},
		{
			"share connections", "most ports of the budget are held by connections in use",
			[]string{"TestAdviceShareConnections"},
			busy,
		},
		{
			"IP_BIND_ADDRESS_NO_PORT", "most ports of the budget were taken by bind() before connect()",
			[]string{"TestAdviceBindAddressNoPort"},
			bindLate,
		},
		{
			"keep connections, or let the other end close first", "most ports of the budget are held by TIME_WAIT",
			[]string{"TestAdviceKeepConnections", "TestAdviceOtherEndClosesFirst"},
			keepConnections,
		},
		{
			"tcp_tw_reuse", "most ports of the budget are held by TIME_WAIT with timestamps, not by bind(), and it is not in force for this destination",
			[]string{"TestAdviceReuse", "TestReuseOfLoopbackOnly"},
			takeOver,
		},
		{
			"tcp_timestamps", "most ports of the budget are held by TIME_WAIT, and timestamps are off here",
			[]string{"TestAdviceReuse"},
			stamp,
		},
		{
			"ip_local_port_range", "a budget is short, and the range can be made larger by a tenth or more",
			[]string{"TestAdviceWiderRange", "TestReservedPortsAreNotChosen"},
			widen,
		},
		{
			"more source addresses", "a budget is short",
			[]string{"TestAdviceMoreAddresses"},
			addresses,
		},
	}
}

// NoCures are named where they tempt.
func NoCures() []NoCure {
	return []NoCure{
		{
			"tcp_fin_timeout", "it is for FIN_WAIT2 without a process, TIME_WAIT lasts 60 s, compiled in",
			"TestNoCureFinTimeout", func(s *situation) bool { return s.inTimeWait() || s.finTimeoutChanged() },
		},
		{
			"tcp_tw_recycle", "gone since Linux 4.12",
			"TestNoCureRecycle", (*situation).inTimeWait,
		},
		{
			"tcp_tw_reuse", "it takes ports over from TIME_WAIT only",
			"TestAdviceShareConnections", func(s *situation) bool { return s.b != nil && s.b.InUse > 0 && !s.inTimeWait() },
		},
		{
			"a lower tcp_max_tw_buckets", "it leaves TIME_WAIT out, and with it the guard against old segments in new connections",
			"TestNoCureFewerBuckets", func(s *situation) bool { return s.inTimeWait() || s.overflows > 0 },
		},
		{
			"SO_LINGER 0", "it throws away what is not sent yet, and resets the other end",
			"TestNoCureLinger", (*situation).inTimeWait,
		},
		{
			"keepalive", "a peer that still has the connection answers, one that has forgotten it resets, and either way the descriptor stays open",
			"TestNoCureKeepalive", func(s *situation) bool { return s.mostly(func(b *Budget) int { return b.CloseWait }) },
		},
	}
}

// Advise returns at most three sentences that are true of the facts, the one that helps most
// first; if there is something to cure, the last says what does not help. Where nothing is
// wrong it says so.
func Advise(f *Facts) []string {
	s := f.situation()
	var all []string
	for _, c := range Cures() {
		if text := c.say(s); text != "" {
			all = append(all, text)
		}
	}
	last := s.noCures()
	if len(all) == 0 && s.b == nil {
		return compact(f.healthy(), f.harmless(), last)
	}
	if last != "" {
		all = append(all[:min(len(all), maxAdvice-1)], last)
	}
	return all[:min(len(all), maxAdvice)]
}

func compact(texts ...string) []string {
	return slices.DeleteFunc(texts, func(text string) bool { return text == "" })
}

// situation is what the sentences are about: the budget with the fewest ports left.
type situation struct {
	*Facts
	// b is nil if no budget is worth a word. Of a budget that only failures tell of nothing but
	// the destination is known.
	b        *Budget
	settings Settings
	// overflows of the namespace limited.
	overflows uint64
	limited   uint32
}

func (f *Facts) situation() *situation {
	s := &situation{Facts: f, b: f.worst()}
	if s.b != nil {
		s.settings = f.Settings[s.b.Netns]
	}
	for _, netns := range slices.Sorted(maps.Keys(f.Overflows)) {
		if n := f.Overflows[netns]; n > s.overflows {
			s.overflows, s.limited = n, netns
		}
	}
	return s
}

// worst is the budget that is worth a word, nil if none is.
func (f *Facts) worst() *Budget {
	for i := range f.Budgets {
		b := &f.Budgets[i]
		failed := slices.ContainsFunc(f.Failures, func(x Failure) bool { return x.Destination == b.Destination && x.N > x.Bound })
		near := b.Forecast.In != nil && *b.Forecast.In <= soon
		if failed || near || b.UnavailableRatio() >= tight {
			return b
		}
	}
	if i := slices.IndexFunc(f.Failures, func(x Failure) bool { return x.N > x.Bound }); i >= 0 {
		return &Budget{Destination: f.Failures[i].Destination}
	}
	return nil
}

// mostly reports whether at least half of the ports in use are the ones counted.
func (s *situation) mostly(count func(*Budget) int) bool {
	return s.b != nil && count(s.b) > 0 && 2*count(s.b) >= s.b.InUse
}

func (s *situation) inTimeWait() bool {
	return s.mostly(func(b *Budget) int { return b.TimeWait })
}

func (s *situation) bound() bool {
	return s.mostly(func(b *Budget) int { return b.ByBind })
}

// finTimeoutChanged: somebody has turned to it.
func (s *situation) finTimeoutChanged() bool {
	if s.b != nil {
		return s.settings.FinTimeout != 0 && s.settings.FinTimeout != defaultFinTimeout
	}
	for _, set := range s.Settings {
		if set.FinTimeout != 0 && set.FinTimeout != defaultFinTimeout {
			return true
		}
	}
	return false
}

func (s *situation) noCures() string {
	var all []string
	for _, n := range NoCures() {
		if n.tempts(s) {
			all = append(all, n.Name+" ("+n.Why+")")
		}
	}
	if len(all) == 0 {
		return ""
	}
	return "What does not help: " + strings.Join(all, "; ") + "."
}

func (f *Facts) healthy() string {
	if len(f.Settings) == 0 {
		return "The settings of the network namespaces could not be read, so whether ports run short is not known."
	}
	fullest := "nobody uses up local ports"
	if len(f.Budgets) > 0 {
		b := &f.Budgets[0]
		fullest = fmt.Sprintf("no destination runs short of ports (the fullest, %s, lacks %d of %d)",
			f.to(b.Destination), b.Unavailable(), b.Range)
	}
	return "Nothing is wrong here: " + fullest + ", so there is nothing to tune."
}

// harmless: TIME_WAIT where it takes nothing from anybody.
func (f *Facts) harmless() string {
	if f.Accepted == 0 {
		return ""
	}
	return fmt.Sprintf("%d TIME_WAIT stand at the end that accepted: they take no port from anybody and hold no descriptor, "+
		"each is some 250 bytes of kernel memory for 60 s, and tcp_tw_reuse does not concern them.", f.Accepted)
}

// to names a destination.
func (f *Facts) to(d Destination) string {
	text := "to " + netip.AddrPortFrom(d.Raddr, d.Rport).String()
	if d.Every() {
		text = "from " + d.Laddr.String() + " to anywhere"
	}
	return text + f.in(d.Netns)
}

func (f *Facts) in(netns uint32) string {
	if place := f.Place(netns); place != "" {
		return " in " + place
	}
	return ""
}

func overflowing(s *situation) string {
	if s.overflows == 0 {
		return ""
	}
	limit := ""
	if n := s.Settings[s.limited].TimeWaitLimit; n > 0 {
		limit = fmt.Sprintf(" (%d)", n)
	}
	return fmt.Sprintf("%d TIME_WAIT were left out because net.ipv4.tcp_max_tw_buckets%s was reached%s: raise it, or have fewer of them.",
		s.overflows, limit, s.in(s.limited))
}

func leaking(s *situation) string {
	if !s.mostly(func(b *Budget) int { return b.CloseWait }) {
		return ""
	}
	return fmt.Sprintf("%d of the %d ports in use %s are held by connections in CLOSE_WAIT: the other end has closed, "+
		"and the program here has to (tcpwaitd diagnose says which).", s.b.CloseWait, s.b.InUse, s.to(s.b.Destination))
}

func deserted(s *situation) string {
	if !s.mostly(func(b *Budget) int { return b.Orphaned }) {
		return ""
	}
	return fmt.Sprintf("%d of the %d ports in use %s are held by FIN_WAIT2: this end has closed and the other one does not, "+
		"so look there for a program that leaves connections in CLOSE_WAIT.", s.b.Orphaned, s.b.InUse, s.to(s.b.Destination))
}

// chooseNone: one port is too few, however many are free.
func chooseNone(s *situation) string {
	i := slices.IndexFunc(s.Failures, func(x Failure) bool { return x.Bound > 0 })
	if i < 0 {
		return ""
	}
	x := &s.Failures[i]
	return fmt.Sprintf("connect() %s failed %d times because the local port that bind() had chosen was still in use there: "+
		"bind the address without a port, or nothing, and connect() chooses one that is free.", s.to(x.Destination), x.Bound)
}

// busy: no setting for TIME_WAIT frees the port of an open connection.
func busy(s *situation) string {
	if !s.mostly(func(b *Budget) int { return b.InUse - b.TimeWait - b.Orphaned - b.CloseWait }) {
		return ""
	}
	return fmt.Sprintf("%d of the %d ports in use %s are held by connections that are open, not by TIME_WAIT: "+
		"share connections, close those that idle, or add source addresses.",
		s.b.InUse-s.b.TimeWait-s.b.Orphaned-s.b.CloseWait, s.b.InUse, s.to(s.b.Destination))
}

// bindLate: a socket that is bound before it connects takes its port from all destinations.
func bindLate(s *situation) string {
	if s.b == nil || s.b.ByBind == 0 || !s.b.Every() && !s.bound() {
		return ""
	}
	return fmt.Sprintf("%d of these ports were taken by bind() before connect(), so that none of them serves two destinations of %s: "+
		"set IP_BIND_ADDRESS_NO_PORT before bind(), and connect() chooses a port for its destination alone.", s.b.ByBind, s.b.Laddr)
}

// keepConnections: the one cure that needs no setting. A connecting socket is in TIME_WAIT
// because its end closed first.
func keepConnections(s *situation) string {
	if s.b == nil || s.b.InUse > 0 && !s.inTimeWait() {
		return ""
	}
	const cure = "keep connections (a pool, HTTP keep-alive), or let the other end close first."
	if who, n := s.closer(); who != nil {
		return fmt.Sprintf("%s closes first, %s times a second, %s, and each time a port is gone for %s: %s",
			s.Who(who), rateText(float64(n)/s.Observed.Seconds()), s.to(s.b.Destination), s.gone(), cure)
	}
	if s.b.TimeWait == 0 {
		return ""
	}
	return fmt.Sprintf("%d of the %d ports in use %s are gone for %s each because this end closed first: %s",
		s.b.TimeWait, s.b.InUse, s.to(s.b.Destination), s.gone(), cure)
}

// gone is for how long TIME_WAIT takes a port away.
func (s *situation) gone() string {
	lasts := TimeWaitLasts
	if s.settings.Known() && !s.bound() && !s.b.Every() && 2*s.b.Stamped >= s.b.TimeWait {
		lasts = s.settings.reuse(s.b.Destination)
	}
	return fmt.Sprintf("%g s", lasts.Seconds())
}

// closer is who closed most connections of the budget first, nil if nobody was seen to.
func (s *situation) closer() (who *Closer, most int) {
	if s.Observed <= 0 {
		return nil, 0
	}
	for _, c := range s.Closers {
		n := 0
		for d, closed := range c.Destinations {
			if d == s.b.Destination || s.b.Every() && d.every() == s.b.Destination {
				n += closed
			}
		}
		if n > most {
			who, most = c, n
		}
	}
	return who, most
}

// takeOver: tcp_tw_reuse, where it would do anything.
func takeOver(s *situation) string {
	switch {
	case !s.settings.Known() || s.settings.NoTimestamps || !s.inTimeWait() || s.bound() || s.b.Every():
		return ""
	case 2*s.b.Stamped < s.b.TimeWait:
		// The other end does not do timestamps.
		return ""
	case s.settings.reuse(s.b.Destination) < TimeWaitLasts || s.settings.Reuse == ReuseAlways:
		return ""
	}
	return fmt.Sprintf("net.ipv4.tcp_tw_reuse=1%s lets connect() take a port over from TIME_WAIT after %s: "+
		"this end connects and both ends use TCP timestamps, which it needs.", s.in(s.b.Netns), s.settings.ReuseDelay)
}

func stamp(s *situation) string {
	if !s.settings.Known() || !s.settings.NoTimestamps || !s.inTimeWait() || s.bound() || s.b.Every() {
		return ""
	}
	also := ""
	on := s.settings
	on.NoTimestamps = false
	if on.reuse(s.b.Destination) >= TimeWaitLasts && on.Reuse != ReuseAlways {
		also = ", and net.ipv4.tcp_tw_reuse=1"
	}
	return fmt.Sprintf("net.ipv4.tcp_timestamps is 0%s, so that no port can be taken over from TIME_WAIT: set it to 1 (both ends need it)%s.",
		s.in(s.b.Netns), also)
}

func widen(s *situation) string {
	if s.b == nil || !s.settings.Known() {
		return ""
	}
	wide := s.settings
	wide.Low, wide.High = 1024, 65535
	if 100*wide.Size() < (100+dear)*s.settings.Size() {
		return ""
	}
	return fmt.Sprintf("net.ipv4.ip_local_port_range%s gives %d ports, \"1024 65535\" gives %d "+
		"(name the ports that servers listen on in net.ipv4.ip_local_reserved_ports).", s.in(s.b.Netns), s.settings.Size(), wide.Size())
}

func addresses(s *situation) string {
	if s.b == nil {
		return ""
	}
	return "More source addresses multiply the ports: each local address has the whole range to each destination."
}

// rateText has the digits that a rate deserves.
func rateText(perSecond float64) string {
	if perSecond < 10 {
		return fmt.Sprintf("%.1f", perSecond)
	}
	return fmt.Sprintf("%.0f", perSecond)
}
