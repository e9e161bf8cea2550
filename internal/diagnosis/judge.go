package diagnosis

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Judge says who leaks. It changes nothing in in, and the order of its parts does not
// matter.
func Judge(in Input) Diagnosis {
	w := window{in.From, max(in.From, in.To), in.Threshold}
	d := Diagnosis{Observed: w.length(), Threshold: in.Threshold, Loss: in.Loss}
	cases := explained(in.Cases, in.Threshold)
	for _, c := range cases {
		if c.State == event.CloseWait {
			d.Sockets++
		}
	}
	for _, s := range suspects(cases) {
		p := s.judge(&in, w)
		d.Verdict = max(d.Verdict, p.Verdict)
		d.Processes = append(d.Processes, p)
	}
	slices.SortFunc(d.Processes, worstFirst)
	return d
}

// explained returns the cases that have a cause, in the order of cookies. What is not
// explained yet is copied before.
func explained(in []Case, threshold time.Duration) []*Case {
	cases := make([]*Case, 0, len(in))
	x := NewExplainer(threshold)
	for i := range in {
		c := &in[i]
		if c.Cause == None {
			c = new(in[i])
			if x.Explain(c); c.Cause == None {
				continue
			}
		}
		cases = append(cases, c)
	}
	slices.SortFunc(cases, func(a, b *Case) int {
		return cmp.Or(cmp.Compare(a.Cookie, b.Cookie), cmp.Compare(a.Inode, b.Inode), cmp.Compare(a.Since, b.Since))
	})
	return cases
}

// suspect is one process with its cases, in the order of cookies.
type suspect struct {
	task  event.Task
	cases []*Case
	// sitesSeen are the sites of its cases.
	sitesSeen map[Site]bool
	// passers are the processes that passed descriptors on to it, by port.
	passers map[uint16][]event.Task
}

func (s *suspect) add(c *Case) {
	s.cases = append(s.cases, c)
	site := SiteOf(c.Direction, c.Flow)
	s.sitesSeen[site] = true
	if c.Cause != HeldElsewhere {
		return
	}
	for i := range s.passers[site.Port] {
		if SameProcess(&s.passers[site.Port][i], &c.Owner) {
			return
		}
	}
	s.passers[site.Port] = append(s.passers[site.Port], c.Owner)
}

// suspects groups the cases by whom they are laid to.
func suspects(cases []*Case) []*suspect {
	type identity struct {
		pid   uint32
		ticks uint64
	}
	index := make(map[identity]*suspect)
	var all []*suspect
	for _, c := range cases {
		id := identity{c.Blamed.Pid, c.Blamed.Start.Ticks()}
		s := index[id]
		if s == nil {
			s = &suspect{task: face(c), sitesSeen: make(map[Site]bool), passers: make(map[uint16][]event.Task)}
			index[id] = s
			all = append(all, s)
		}
		s.add(c)
	}
	return all
}

// face is how the blamed process is shown: as its descriptor's holder if it is one,
// for an owner is a thread and may have a thread's name.
func face(c *Case) event.Task {
	for i := range c.Holders {
		if c.Blamed.Known() && SameProcess(&c.Holders[i].Task, &c.Blamed) {
			return c.Holders[i].Task
		}
	}
	return c.Blamed
}

func worstFirst(a, b Process) int {
	nobody := func(p *Process) int {
		if p.Task.Known() {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(nobody(&a), nobody(&b)), cmp.Compare(b.Verdict, a.Verdict), cmp.Compare(b.Stuck, a.Stuck),
		cmp.Compare(b.Sockets, a.Sockets), cmp.Compare(a.Task.Pid, b.Task.Pid), cmp.Compare(a.Task.Start, b.Task.Start),
	)
}

func (s *suspect) judge(in *Input, w window) Process {
	p := Process{Task: s.task, Sockets: len(s.cases), Causes: make(map[Cause]int), FDs: in.FDs[s.task.Pid]}
	for _, c := range s.cases {
		p.Causes[c.Cause]++
		if w.stuck(c) {
			p.Stuck++
		}
		p.Oldest, p.OldestBound = older(p.Oldest, p.OldestBound, c)
	}
	p.Groups = groups(s.cases, w)
	p.Peers = peers(s.cases)
	p.Listeners = s.listeners()
	var found []finding
	for _, site := range s.sites(in.Closed) {
		f := site.assess(w)
		found = append(found, f)
		if f.why != "" && (p.Why == "" || f.verdict > p.Verdict) {
			p.Verdict, p.Why = f.verdict, f.why
		}
	}
	s.grow(&p, in.Closed, w, found)
	p.forecast(found)
	advise(&p)
	return p
}

// listeners returns each process that could accept one of the cases nobody is blamed for.
func (s *suspect) listeners() []event.Task {
	if s.task.Known() {
		return nil
	}
	type identity struct {
		pid   uint32
		ticks uint64
	}
	seen := make(map[identity]bool)
	var all []event.Task
	for _, c := range s.cases {
		if c.Cause != Unaccepted {
			continue
		}
		for i := range c.Listeners {
			t := c.Listeners[i].Task
			if id := (identity{t.Pid, t.Start.Ticks()}); t.Known() && !seen[id] {
				seen[id] = true
				all = append(all, t)
			}
		}
	}
	slices.SortFunc(all, func(a, b event.Task) int {
		return cmp.Or(cmp.Compare(a.Pid, b.Pid), cmp.Compare(a.Start, b.Start))
	})
	return all
}

// grow sets the growth: of the sites where it is shown, else what the window had.
func (s *suspect) grow(p *Process, closed []Closed, w window, found []finding) {
	rate := sumOf(found, func(f *finding) *interval { return f.rate })
	if rate == nil {
		if w.length() == 0 {
			return
		}
		whole := siteWaits{waits: s.cases}
		for i := range closed {
			if s.credited(&closed[i]) {
				whole.closed.Gone = append(whole.closed.Gone, closed[i].Gone...)
			}
		}
		seen, _ := perMin(whole.change(w, 0, anyCause), w)
		rate = &seen
	}
	p.GrowthPerMin, p.GrowthPerMinLow, p.GrowthPerMinHigh = &rate.mid, &rate.low, &rate.high
}

// sumOf adds up the rates of the sites that have one; nil if none has.
func sumOf(found []finding, rate func(*finding) *interval) *interval {
	var sum *interval
	for i := range found {
		switch r := rate(&found[i]); {
		case r == nil:
		case sum == nil:
			sum = new(*r)
		default:
			*sum = sum.plus(*r)
		}
	}
	return sum
}

// forecast says when no descriptor is left, where growth of descriptors is shown.
func (p *Process) forecast(found []finding) {
	rate := sumOf(found, func(f *finding) *interval { return f.fill })
	if rate == nil || p.FDs.Limit == 0 || p.FDs.Open == 0 {
		return
	}
	left := float64(p.FDs.Limit - p.FDs.Open)
	in, ok := until(left, rate.mid)
	if !ok {
		return
	}
	soonest, _ := until(left, rate.high)
	p.FDsExhaustedIn, p.FDsExhaustedMin = &in, &soonest
	if latest, ok := until(left, rate.low); ok {
		p.FDsExhaustedMax = &latest
	}
}

// sites splits the cases by site, the biggest first. Sites of few waits that are not
// of a listening port are taken together: a program that connects to ever new
// ports would hide among them.
func (s *suspect) sites(closed []Closed) []*siteWaits {
	index := make(map[Site]*siteWaits)
	for _, c := range s.cases {
		if c.Cause == HalfClose {
			continue
		}
		at := s.siteOf(c)
		if index[at] == nil {
			index[at] = &siteWaits{site: at}
		}
		index[at].waits = append(index[at].waits, c)
	}
	var all []*siteWaits
	scattered := &siteWaits{site: Site{event.Out, 0}}
	for _, sw := range index {
		if sw.site.Direction != event.In && len(sw.waits) < minStuck {
			scattered.waits = append(scattered.waits, sw.waits...)
			delete(index, sw.site)
			continue
		}
		all = append(all, sw)
	}
	if len(scattered.waits) > 0 {
		all = append(all, scattered)
	}
	s.credit(closed, index, scattered)
	slices.SortFunc(all, func(a, b *siteWaits) int {
		return cmp.Or(cmp.Compare(len(b.waits), len(a.waits)),
			cmp.Compare(a.site.Direction, b.site.Direction), cmp.Compare(a.site.Port, b.site.Port))
	})
	return all
}

// siteOf puts a socket of unknown direction (baseline) to the accepted ones of the same
// local port, if there are any.
func (s *suspect) siteOf(c *Case) Site {
	if c.Direction != event.DirectionUnknown {
		return SiteOf(c.Direction, c.Flow)
	}
	if in := (Site{event.In, c.Flow.Local.Port()}); s.sitesSeen[in] {
		return in
	}
	return SiteOf(c.Direction, c.Flow)
}

// credit gives each site the ended waits that may have been its own.
func (s *suspect) credit(closed []Closed, index map[Site]*siteWaits, scattered *siteWaits) {
	for i := range closed {
		c := &closed[i]
		if !s.credited(c) {
			continue
		}
		to := index[c.Site]
		if to == nil {
			to = index[Site{event.In, c.Site.Port}]
		}
		if to == nil {
			to = scattered
		}
		to.closed.N += c.N
		to.closed.Gone = append(to.closed.Gone, c.Gone...)
		to.closed.lasted.add(&c.lasted)
		to.closed.Longest = max(to.closed.Longest, c.Longest)
	}
}

// credited reports whether ended waits may have been this process's.
func (s *suspect) credited(c *Closed) bool {
	if s.task.Known() && c.Process.Known() && SameProcess(&s.task, &c.Process) {
		return true
	}
	if !s.task.Known() || !c.Process.Known() {
		for _, d := range []event.Direction{event.DirectionUnknown, event.In, event.Out} {
			if s.sitesSeen[Site{d, c.Site.Port}] {
				return true
			}
		}
	}
	for i := range s.passers[c.Site.Port] {
		if SameProcess(&s.passers[c.Site.Port][i], &c.Process) {
			return true
		}
	}
	return false
}

// older returns the larger dwell; at the same length the exact one.
func older(d time.Duration, b event.Bound, c *Case) (time.Duration, event.Bound) {
	dwell := c.Dwell()
	switch {
	case c.Bound == event.BoundUnknown:
		return d, b
	case b == event.BoundUnknown, dwell > d, dwell == d && c.Bound == event.Exact:
		return dwell, c.Bound
	default:
		return d, b
	}
}

// Groups puts the sockets of one process together by cause, site and telling stack, the
// biggest group first. The cases are explained and in the order of cookies.
func Groups(cases []*Case, threshold time.Duration) []Group {
	return groups(cases, window{threshold: threshold})
}

func groups(cases []*Case, w window) []Group {
	type key struct {
		cause Cause
		site  Site
		stack event.StackID
	}
	index := make(map[key]*Group)
	for _, c := range cases {
		k := key{c.Cause, SiteOf(c.Direction, c.Flow), c.Stack()}
		g := index[k]
		if g == nil {
			g = &Group{Cause: k.cause, Site: k.site, Stack: k.stack, OldestCookie: c.Cookie}
			index[k] = g
		}
		g.Cases = append(g.Cases, c)
		g.N++
		if w.stuck(c) {
			g.Stuck++
		}
		before, bound := g.Oldest, g.OldestBound
		if g.Oldest, g.OldestBound = older(before, bound, c); g.Oldest != before || g.OldestBound != bound {
			g.OldestCookie = c.Cookie
		}
	}
	all := make([]Group, 0, len(index))
	for _, g := range index {
		all = append(all, *g)
	}
	slices.SortFunc(all, func(a, b Group) int {
		return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(b.Oldest, a.Oldest), cmp.Compare(a.Cause, b.Cause),
			cmp.Compare(a.Site.Direction, b.Site.Direction), cmp.Compare(a.Site.Port, b.Site.Port),
			cmp.Compare(a.Stack, b.Stack))
	})
	return all
}

// peers counts the remote ends.
func peers(cases []*Case) []Peer {
	index := make(map[netip.AddrPort]int)
	for _, c := range cases {
		remote := c.Flow.Remote
		if c.Direction == event.In {
			remote = netip.AddrPortFrom(remote.Addr(), 0)
		}
		if remote.IsValid() {
			index[remote]++
		}
	}
	all := make([]Peer, 0, len(index))
	for remote, n := range index {
		all = append(all, Peer{remote, n})
	}
	slices.SortFunc(all, func(a, b Peer) int {
		return cmp.Or(cmp.Compare(b.N, a.N), a.Remote.Compare(b.Remote))
	})
	return all[:min(len(all), maxPeers)]
}
