package tracer

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Config chooses what is loaded. The zero value takes single snapshots of
// everything.
type Config struct {
	Filter event.Filter
	// Live attaches the hooks that watch; without it only Snapshot works.
	Live bool
	// RingBytes is the size of each of the two ring buffers, a power of two and of the page
	// size. 0 is what is best: see ringBytes.
	RingBytes int
	// SyscallAccept adds the syscall-exit tracepoints of accept where no better hook
	// attaches. They slow every system call of the host a little.
	SyscallAccept bool
	// Without names kinds of hooks not to use ("fexit", "fentry"), as if the kernel
	// refused them.
	Without []string
	// Users keeps for each socket which process read or wrote last, which costs each recv()
	// and send() a look at the socket's record.
	Users bool
	// Closes keeps back all transitions but those that tell who closed first or cut a connection
	// off, and those of a connect() that found no port; and all stacks but those of closes.
	Closes bool
	// Ends keeps back all transitions but those out of CLOSE_WAIT. They tell how long it lasted, so
	// for waits that have ended they say all; those that are open are found by a look. Those over
	// within event.ShortWait are counted, unless a look can have found them: see
	// Tracer.ShortWaits.
	Ends bool
	// First are the states of the sockets that a live tracer's first look gives: see
	// Tracer.First.
	First event.StateSet
	// Family is a process to follow with all its descendants: see Tracer.Family. 0 follows
	// none.
	Family uint32
	// Stacks chooses which user stacks are taken.
	Stacks StackConfig
	// Proc is where procfs is mounted, "" is /proc.
	Proc string
}

const (
	// smallRing stays in the processor's cache, which halves the cost of writing to it; it
	// holds 40 ms of the highest rate measured (270,000 transitions in a second).
	smallRing = 1 << 20
	// spareRing holds twice as much. Rings are resident as long as they are mapped, twice.
	spareRing = 2 << 20
	// wholeRing is for who wants every transition: the file they are written to can take a tenth of
	// a second to take some (100,000 transitions).
	wholeRing = 8 << 20
	// stackRing holds 23,000 transitions with stacks.
	stackRing = 4 << 20
	// A snapshot needs no ring, the kernel wants one page.
	idleRing  = 4096
	portWords = 1024
	maxPids   = 1024
)

// wantsTimeWait reports whether a transition to TIME_WAIT can pass the filter.
func (c *Config) wantsTimeWait() bool {
	f := &c.Filter
	before := event.SetOf(event.FinWait2, event.Closing)
	return c.Live && !c.Closes && (f.States == 0 || f.States.Has(event.TimeWait) || f.States&before != 0)
}

// ringBytes are the sizes of the ring and of the one that takes over when it is full. Stacks
// are large, and go to the first.
func (c *Config) ringBytes() (ring, overflow int) {
	switch {
	case !c.Live:
		return idleRing, idleRing
	case c.RingBytes != 0:
		return c.RingBytes, c.RingBytes
	case c.Stacks.Sink != nil:
		return stackRing, idleRing
	case c.Filter.States == 0 && !c.Closes:
		return smallRing, wholeRing
	default:
		return smallRing, spareRing
	}
}

// wakes: somebody waits for more than transitions. Stacks are large, and what is told of a
// process may be needed before the process is gone.
func (c *Config) wakes() bool { return c.Stacks.Sink != nil || c.Family != 0 }

// wakeBytes are a quarter of the ring: the rest is room for what comes until the reader runs.
func (c *Config) wakeBytes(ring int) uint64 {
	if !c.wakes() {
		return 0
	}
	return uint64(ring / 4)
}

// apply writes what the verifier and the maps need before loading.
func (c *Config) apply(spec *ebpf.CollectionSpec, hz uint32) error {
	ring, overflow := c.ringBytes()
	resize(spec, "ring", uint32(ring))
	resize(spec, "overflow", uint32(overflow))
	f := &c.Filter
	constants := map[string]any{
		"hz":          hz,
		"live":        flag(c.Live),
		"wake_bytes":  c.wakeBytes(ring),
		"track_users": flag(c.Users),
		"family_root": c.Family,
		"only_closes": flag(c.Closes),
		"only_ends":   flag(c.Ends),
		"filter": bpfFilter{
			States:    uint32(f.States),
			Netns:     oneNetns(f.Netns),
			Family:    f.Family,
			Direction: uint8(f.Direction),
			Lports:    flag(len(f.Lports) > 0),
			Rports:    flag(len(f.Rports) > 0),
			Pids:      flag(len(f.Pids) > 0),
		},
	}
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	if !c.Live {
		resize(spec, "youngs", 1)
	}
	if !c.Ends {
		resize(spec, "tallies", 1)
	}
	if c.Family == 0 {
		resize(spec, "family", 1)
	}
	if !c.SyscallAccept {
		resize(spec, "accepted", 1)
	}
	if !c.wantsTimeWait() {
		resize(spec, "orphans", 1)
	}
	if len(f.Pids) > maxPids {
		return fmt.Errorf("filter: %d pids, at most %d", len(f.Pids), maxPids)
	}
	return nil
}

// resize changes a map, if the programs chosen have it.
func resize(spec *ebpf.CollectionSpec, name string, entries uint32) {
	if m := spec.Maps[name]; m != nil {
		m.MaxEntries = entries
	}
}

// fill puts the filter's sets into their maps.
func (c *Config) fill(maps map[string]*ebpf.Map) error {
	for name, ranges := range map[string][]event.PortRange{"lports": c.Filter.Lports, "rports": c.Filter.Rports} {
		if len(ranges) == 0 {
			continue
		}
		if err := maps[name].Put(uint32(0), portBitmap(ranges)); err != nil {
			return fmt.Errorf("fill %s: %w", name, err)
		}
	}
	for _, pid := range c.Filter.Pids {
		if err := maps["pids"].Put(pid, uint8(1)); err != nil {
			return fmt.Errorf("fill pids: %w", err)
		}
	}
	return nil
}

func portBitmap(ranges []event.PortRange) *[portWords]uint64 {
	var bits [portWords]uint64
	for _, r := range ranges {
		for p := int(r.From); p <= int(r.To); p++ {
			bits[p/64] |= 1 << (p % 64)
		}
	}
	return &bits
}

// oneNetns: the kernel compares one; for several user space decides.
func oneNetns(netns []uint32) uint32 {
	if len(netns) == 1 {
		return netns[0]
	}
	return 0
}

func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}
