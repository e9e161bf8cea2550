package filter

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Options are the flags as the user wrote them. A zero field chooses everything. A
// list may be given as several strings and as one with commas.
type Options struct {
	Pids       []string
	Comms      []string
	Lports     []string
	Rports     []string
	Laddrs     []string
	Raddrs     []string
	IPv4, IPv6 bool
	States     []string
	Netns      []string
	Containers []string
	Cgroups    []string
	Direction  string
	MinDwell   time.Duration
	Where      string

	// NetnsInode looks up the inode of a namespace file, nil means stat().
	NetnsInode func(path string) (uint32, error)
}

// FlagError is a flag with a value it does not take.
type FlagError struct {
	// Flag is the long name without dashes.
	Flag, Value string
	// Want says what it takes.
	Want string
}

func (e *FlagError) Error() string {
	return fmt.Sprintf("invalid value %q for --%s: want %s", e.Value, e.Flag, e.Want)
}

// Target says what a filter is going to be asked about.
type Target uint8

// The kinds of records a filter can choose from.
const (
	Transitions Target = iota
	Sockets
)

// New parses the options. The error is a *FlagError.
func New(o *Options, target Target) (*Filter, error) {
	f := &Filter{target: target, minDwell: o.MinDwell}
	steps := []func(*Options) error{
		f.parsePids, f.parseComms, f.parsePorts, f.parseAddrs, f.parseFamily,
		f.parseStates, f.parseNetns, f.parseGroups, f.parseDirection, f.parseWhere,
	}
	for _, parse := range steps {
		if err := parse(o); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// split takes lists and lists of lists apart.
func split(values []string) []string {
	var parts []string
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			parts = append(parts, strings.TrimSpace(part))
		}
	}
	return parts
}

func (f *Filter) parsePids(o *Options) error {
	for _, v := range split(o.Pids) {
		pid, err := strconv.ParseUint(v, 10, 31)
		if err != nil || pid == 0 {
			return &FlagError{"pid", v, "process ids such as 1234 or 1234,5678"}
		}
		f.pids = append(f.pids, uint32(pid))
	}
	return nil
}

func (f *Filter) parseComms(o *Options) error {
	for _, v := range o.Comms {
		p, err := newPattern(v)
		if err != nil {
			return &FlagError{"comm", v, "a process name, or a glob such as 'nginx*'"}
		}
		f.comms = append(f.comms, p)
	}
	return nil
}

func (f *Filter) parsePorts(o *Options) (err error) {
	if f.kernel.Lports, err = portRanges("lport", o.Lports); err != nil {
		return err
	}
	f.kernel.Rports, err = portRanges("rport", o.Rports)
	return err
}

func portRanges(flag string, values []string) ([]event.PortRange, error) {
	var ranges []event.PortRange
	for _, v := range split(values) {
		first, last, isRange := strings.Cut(v, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || from == 0 || to < from {
			return nil, &FlagError{flag, v, "ports from 1 to 65535, ranges, or a list such as 80,8000-8100"}
		}
		ranges = append(ranges, event.PortRange{From: uint16(from), To: uint16(to)})
	}
	return ranges, nil
}

func (f *Filter) parseAddrs(o *Options) (err error) {
	if f.laddrs, err = prefixes("laddr", o.Laddrs); err != nil {
		return err
	}
	f.raddrs, err = prefixes("raddr", o.Raddrs)
	return err
}

func prefixes(flag string, values []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, v := range split(values) {
		p, err := prefix(v)
		if err != nil {
			return nil, &FlagError{flag, v, "an address or a network such as 10.0.0.0/8 or fd00::/8"}
		}
		list = append(list, p)
	}
	return list, nil
}

// prefix takes ::ffff:10.0.0.0/104 for 10.0.0.0/8: flows are spelled as on the wire.
func prefix(v string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(v)
	if err != nil {
		addr, err := netip.ParseAddr(strings.Trim(v, "[]"))
		if err != nil {
			return p, err
		}
		p = netip.PrefixFrom(addr, addr.BitLen())
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

func (f *Filter) parseFamily(o *Options) error {
	switch {
	case o.IPv4 && !o.IPv6:
		f.kernel.Family = 4
	case o.IPv6 && !o.IPv4:
		f.kernel.Family = 6
	}
	return nil
}

func (f *Filter) parseStates(o *Options) error {
	for _, v := range split(o.States) {
		if strings.EqualFold(v, "all") {
			f.kernel.States = 0
			return nil
		}
		s, err := event.ParseState(v)
		if err != nil {
			return &FlagError{"state", v, StateChoices()}
		}
		f.kernel.States |= event.SetOf(s)
	}
	return nil
}

// StateChoices lists what --state takes.
func StateChoices() string { return "all or one of " + strings.Join(StateNames(), ", ") }

// StateNames lists the names of the states as flags spell them.
func StateNames() []string {
	var names []string
	for _, s := range event.States() {
		names = append(names, strings.ToLower(strings.ReplaceAll(s.String(), "_", "-")))
	}
	return names
}

func (f *Filter) parseNetns(o *Options) error {
	inode := o.NetnsInode
	if inode == nil {
		inode = statInode
	}
	for _, v := range split(o.Netns) {
		if n, err := strconv.ParseUint(v, 10, 32); err == nil && n > 0 {
			f.kernel.Netns = append(f.kernel.Netns, uint32(n))
			continue
		}
		path := v
		if !strings.Contains(v, "/") {
			path = "/run/netns/" + v
		}
		n, err := inode(path)
		if err != nil || v == "" {
			return &FlagError{
				"netns", v, "the inode number, the name (ip netns list) or the path of a network namespace",
			}
		}
		f.kernel.Netns = append(f.kernel.Netns, n)
	}
	return nil
}

func statInode(path string) (uint32, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("stat %s: no inode", path)
	}
	return uint32(st.Ino), nil
}

func (f *Filter) parseGroups(o *Options) error {
	for _, v := range split(o.Containers) {
		c, err := newContainer(v)
		if err != nil {
			return &FlagError{"container", v, "the beginning of a container id, a container's name, or a glob such as 'web*'"}
		}
		f.containers = append(f.containers, c)
	}
	f.cgroups = split(o.Cgroups)
	for i, v := range f.cgroups {
		if !strings.HasPrefix(v, "/") {
			return &FlagError{"cgroup", v, "the path of a control group such as /system.slice"}
		}
		f.cgroups[i] = strings.TrimSuffix(strings.TrimPrefix(v, "/sys/fs/cgroup"), "/")
	}
	return nil
}

func (f *Filter) parseDirection(o *Options) error {
	switch o.Direction {
	case "":
	case "in":
		f.kernel.Direction = event.In
	case "out":
		f.kernel.Direction = event.Out
	default:
		return &FlagError{"direction", o.Direction, "in (accepted) or out (connected)"}
	}
	return nil
}

func (f *Filter) parseWhere(o *Options) (err error) {
	if o.MinDwell < 0 {
		return &FlagError{"min-dwell", o.MinDwell.String(), "a duration such as 30s"}
	}
	if o.Where != "" {
		f.where, err = newWhere(o.Where, f.target)
	}
	return err
}
