package record

import (
	"net/netip"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// KindKill is the audit line of one socket that was to be destroyed.
const KindKill = "kill"

// KillAction says what became of a socket that was to be destroyed.
type KillAction string

// The actions.
const (
	// KillDestroyed: the kernel has destroyed it and it was seen to be gone.
	KillDestroyed KillAction = "destroyed"
	// KillWouldDestroy: the same without --yes; nothing was done.
	KillWouldDestroy KillAction = "would_destroy"
	// KillSkipped: it had ended or moved on before its turn came.
	KillSkipped KillAction = "skipped"
	// KillRefused: it is none of those that kill destroys.
	KillRefused KillAction = "refused"
	// KillFailed: it could not be reached, or the kernel would not.
	KillFailed KillAction = "failed"
)

// Kill is the audit line of one socket. What is known of it is from the look just before;
// its state is the one it was last seen in.
type Kill struct {
	Head
	// Time is the moment of the action.
	Time   Time       `json:"time"`
	Action KillAction `json:"action"`
	// Reason says why not; absent where it was destroyed or would be.
	Reason string `json:"reason,omitempty"`

	Cookie     uint64     `json:"cookie,omitzero"`
	Inode      uint64     `json:"inode,omitzero"`
	Netns      uint32     `json:"netns,omitzero"`
	Family     string     `json:"family,omitempty"`
	Protocol   string     `json:"protocol"`
	Laddr      netip.Addr `json:"laddr,omitzero"`
	Lport      uint16     `json:"lport,omitzero"`
	Raddr      netip.Addr `json:"raddr,omitzero"`
	Rport      uint16     `json:"rport,omitzero"`
	State      string     `json:"state"`
	Direction  Word       `json:"direction"`
	DwellNS    *int64     `json:"dwell_ns,omitempty"`
	DwellBound Word       `json:"dwell_bound"`
	DwellMaxNS *int64     `json:"dwell_max_ns,omitempty"`
	Cause      Word       `json:"cause"`
	// RecvQ and SendQ are bytes; the receive queue counts the FIN as one.
	RecvQ     uint32     `json:"recv_q"`
	SendQ     uint32     `json:"send_q"`
	Owner     Owner      `json:"owner"`
	Holders   []Holder   `json:"holders"`
	Listener  *Listener  `json:"listener,omitempty"`
	Listeners []Listener `json:"listeners,omitempty"`
}

// KillOutcome is what became of one socket.
type KillOutcome struct {
	// At is wall time.
	At     time.Time
	Action KillAction
	Reason string
	// State is the one it was last seen in.
	State event.State
}

// FromKill builds the record.
func FromKill(c *diagnosis.Case, f *Facts, o *KillOutcome) Kill {
	s := FromCase(c, f)
	return Kill{
		Head: head(KindKill), Time: Time{o.At}, Action: o.Action, Reason: o.Reason,
		Cookie: s.Cookie, Inode: s.Inode, Netns: s.Netns, Family: s.Family, Protocol: s.Protocol,
		Laddr: s.Laddr, Lport: s.Lport, Raddr: s.Raddr, Rport: s.Rport,
		State: o.State.String(), Direction: s.Direction,
		DwellNS: s.DwellNS, DwellBound: s.DwellBound, DwellMaxNS: s.DwellMaxNS, Cause: s.Cause,
		RecvQ: s.RecvQ, SendQ: s.SendQ, Owner: s.Owner, Holders: s.Holders,
		Listener: s.Listener, Listeners: s.Listeners,
	}
}
