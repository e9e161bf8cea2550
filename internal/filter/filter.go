package filter

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// Filter is a parsed choice. The zero Filter chooses everything.
type Filter struct {
	target         Target
	kernel         event.Filter
	pids           []uint32
	comms          []pattern
	laddrs, raddrs []netip.Prefix
	containers     []container
	cgroups        []string
	minDwell       time.Duration
	where          *where
}

// Kernel is the part the kernel decides. Sockets are not chosen by pid there: the kernel
// knows a socket's owner, but -p also means those who merely hold it.
func (f *Filter) Kernel() event.Filter {
	k := f.kernel
	if f.target == Transitions {
		k.Pids = f.pids
	}
	return k
}

// Pids are the processes asked for, empty for all.
func (f *Filter) Pids() []uint32 { return f.pids }

// States is the chosen set, empty for all.
func (f *Filter) States() event.StateSet { return f.kernel.States }

// NeedsProcesses reports whether MatchCase reads facts of processes beyond the kernel's
// (exe, cmdline, unit, container), which cost reads of /proc.
func (f *Filter) NeedsProcesses() bool { return len(f.containers) > 0 || f.where != nil }

// NeedsNames reports whether a container was asked for by what cannot be an id.
func (f *Filter) NeedsNames() bool {
	return slices.ContainsFunc(f.containers, func(c container) bool { return !c.hex })
}

// NeedsCgroups reports whether the path of cgroups matters.
func (f *Filter) NeedsCgroups() bool {
	return len(f.containers) > 0 || len(f.cgroups) > 0 || f.where != nil
}

// MatchTransition reports whether the transition is chosen. cgroup is what is known of
// t.Cgroup.
func (f *Filter) MatchTransition(t *event.Transition, cgroup record.Cgroup) bool {
	k := &f.kernel
	if k.States != 0 && !k.States.Has(t.Old) && !k.States.Has(t.New) {
		return false
	}
	if !f.matchFlow(&t.Flow, t.Direction) {
		return false
	}
	if f.minDwell > 0 && (t.InBound == event.BoundUnknown || t.InState < f.minDwell) {
		return false
	}
	if len(f.pids) > 0 && !slices.Contains(f.pids, t.Owner.Pid) {
		return false
	}
	if len(f.comms) > 0 && !f.matchComm(&t.Owner) {
		return false
	}
	return f.matchCgroup(cgroup) && f.matchContainer(cgroup.Container, cgroup.Name) && (f.where == nil || f.where.transition(t, cgroup))
}

// Err is the first error of evaluating --where, for example one that takes too much
// memory. Nothing was chosen then, and that would pass for an answer.
func (f *Filter) Err() error {
	if f.where == nil {
		return nil
	}
	if err := f.where.failed.Load(); err != nil {
		reason, _, _ := strings.Cut((*err).Error(), "\n")
		return fmt.Errorf("evaluate --where: %s", reason)
	}
	return nil
}

// MatchSocket decides by the kernel's row alone. False is final; true needs MatchCase
// once holders and owner are known.
func (f *Filter) MatchSocket(s *event.Socket) bool {
	if k := &f.kernel; k.States != 0 && !k.States.Has(s.State) {
		return false
	}
	if f.minDwell > 0 && (s.Bound == event.BoundUnknown || s.Dwell() < f.minDwell) {
		return false
	}
	return f.matchFlow(&s.Flow, s.Direction)
}

// MatchCase reports whether the socket is chosen. Without NeedsProcesses and NeedsCgroups facts may be
// nil.
func (f *Filter) MatchCase(c *diagnosis.Case, facts *record.Facts) bool {
	if !f.MatchSocket(&c.Socket) {
		return false
	}
	if len(f.pids) > 0 && !anyTask(c, func(t *event.Task) bool { return slices.Contains(f.pids, t.Pid) }) {
		return false
	}
	if len(f.comms) > 0 && !anyTask(c, f.matchComm) {
		return false
	}
	if len(f.containers)+len(f.cgroups) > 0 && !f.matchPlace(facts.Cgroups[c.Cgroup], facts.Process(c.Blamed.Pid), facts) {
		return false
	}
	return f.where == nil || f.where.socket(c, facts)
}

// anyTask asks for the process blamed, those that hold the socket and those that should
// accept it: all of them concern who looks for a process.
func anyTask(c *diagnosis.Case, ok func(*event.Task) bool) bool {
	if c.Blamed.Known() && ok(&c.Blamed) {
		return true
	}
	for _, hs := range [][]event.Holder{c.Holders, c.Listeners} {
		for i := range hs {
			if ok(&hs[i].Task) {
				return true
			}
		}
	}
	return false
}

func (f *Filter) matchFlow(flow *event.Flow, d event.Direction) bool {
	k := &f.kernel
	switch {
	case k.Direction != event.DirectionUnknown && d != k.Direction,
		len(k.Netns) > 0 && !slices.Contains(k.Netns, flow.Netns),
		!k.Ports(*flow),
		k.Family == 4 && !flow.Local.Addr().Is4(),
		k.Family == 6 && !flow.Local.Addr().Is6():
		return false
	}
	return inPrefixes(f.laddrs, flow.Local.Addr()) && inPrefixes(f.raddrs, flow.Remote.Addr())
}

func inPrefixes(list []netip.Prefix, a netip.Addr) bool {
	if len(list) == 0 {
		return true
	}
	a = a.Unmap()
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (f *Filter) matchComm(t *event.Task) bool {
	comm := record.CommBytes(&t.Comm)
	return slices.ContainsFunc(f.comms, func(p pattern) bool { return p.match(comm) })
}

// matchPlace: the container of the socket's cgroup or of its owner will do.
func (f *Filter) matchPlace(g record.Cgroup, p *owner.Process, facts *record.Facts) bool {
	if !f.matchCgroup(g) {
		return false
	}
	return f.matchContainer(g.Container, facts.Names(g.Container, "").ContainerName) ||
		f.matchContainer(p.Container, facts.Names(p.Container, "").ContainerName)
}

func (f *Filter) matchContainer(id, name string) bool {
	return len(f.containers) == 0 || slices.ContainsFunc(f.containers, func(c container) bool {
		return strings.HasPrefix(id, c.id) || name != "" && c.name.match([]byte(name))
	})
}

func (f *Filter) matchCgroup(g record.Cgroup) bool {
	return len(f.cgroups) == 0 || g.Path != "" && slices.ContainsFunc(f.cgroups, func(prefix string) bool {
		rest, ok := strings.CutPrefix(g.Path, prefix)
		return ok && (rest == "" || rest[0] == '/')
	})
}

// container is how a container may be asked for.
type container struct {
	// id is the beginning of one; hex: it can be.
	id  string
	hex bool
	// name is what the runtime calls it.
	name pattern
}

func newContainer(v string) (container, error) {
	if v == "" {
		return container{}, path.ErrBadPattern
	}
	c := container{id: v, hex: strings.Trim(v, "0123456789abcdef") == "" && len(v) <= 64, name: pattern{text: v}}
	if strings.ContainsAny(v, globs) {
		c.name = pattern{text: noSlash(v), glob: true}
		_, err := path.Match(v, "")
		return c, err
	}
	return c, nil
}

// globs are the characters that make a glob.
const globs = `*?[\`

// pattern is a process name or a glob over one.
type pattern struct {
	text string
	glob bool
}

func newPattern(v string) (pattern, error) {
	if v == "" {
		return pattern{}, path.ErrBadPattern
	}
	if !strings.ContainsAny(v, globs) {
		// The kernel keeps 15 bytes of a name.
		comm := event.MakeComm(v)
		return pattern{text: comm.String()}, nil
	}
	_, err := path.Match(v, "")
	return pattern{text: noSlash(v), glob: true}, err
}

func (p pattern) match(comm []byte) bool {
	if !p.glob {
		return string(comm) == p.text
	}
	ok, _ := path.Match(p.text, noSlash(string(comm)))
	return ok
}

// noSlash: names such as kworker/0:1 are no paths, a star shall match the slash too.
func noSlash(s string) string { return strings.ReplaceAll(s, "/", "\x00") }
