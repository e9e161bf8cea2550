package event

import "net/netip"

// PortRange is an inclusive range of ports.
type PortRange struct{ From, To uint16 }

// Filter is the part of a user's choice that the kernel can decide. A zero field
// chooses everything.
type Filter struct {
	// States: a transition passes if its old or new state is in the set, a socket if
	// its state is.
	States         StateSet
	Lports, Rports []PortRange
	// Family is 4 or 6, on the wire.
	Family    uint8
	Netns     []uint32
	Direction Direction
	// Pids: a socket whose owner is known and not listed is left out. Where no owner
	// is known yet it passes; user space decides.
	Pids []uint32
}

// Ports reports whether both ports pass. An unknown port (0) passes only an
// empty list.
func (f *Filter) Ports(flow Flow) bool {
	return inRanges(f.Lports, flow.Local) && inRanges(f.Rports, flow.Remote)
}

func inRanges(ranges []PortRange, ap netip.AddrPort) bool {
	if len(ranges) == 0 {
		return true
	}
	for _, r := range ranges {
		if ap.Port() >= r.From && ap.Port() <= r.To {
			return true
		}
	}
	return false
}
