package record

import (
	"net/netip"
	"slices"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Socket is one socket that exists, and what is known of it.
type Socket struct {
	Head
	Cookie uint64 `json:"cookie,omitzero"`
	Inode  uint64 `json:"inode,omitzero"`
	Netns  uint32 `json:"netns,omitzero"`
	// NetnsName is what the namespace is called, or who lives in it.
	NetnsName string     `json:"netns_name,omitempty"`
	Family    string     `json:"family,omitempty"`
	Protocol  string     `json:"protocol"`
	Laddr     netip.Addr `json:"laddr,omitzero"`
	Lport     uint16     `json:"lport,omitzero"`
	Raddr     netip.Addr `json:"raddr,omitzero"`
	Rport     uint16     `json:"rport,omitzero"`
	State     string     `json:"state"`
	Direction Word       `json:"direction"`

	DwellNS    *int64 `json:"dwell_ns,omitempty"`
	DwellBound Word   `json:"dwell_bound"`
	// DwellMaxNS is there for sockets older than we are.
	DwellMaxNS *int64 `json:"dwell_max_ns,omitempty"`
	Cause      Word   `json:"cause"`
	// EOFSeen is true or null: nobody can say that a process was not told.
	EOFSeen           *bool   `json:"eof_seen"`
	RecvQ             uint32  `json:"recv_q"`
	SendQ             uint32  `json:"send_q"`
	BytesSentAfterFin *uint64 `json:"bytes_sent_after_fin,omitempty"`
	Keepalive         bool    `json:"keepalive"`

	Owner Owner `json:"owner"`
	// Container is that of the socket's own cgroup, which outlives its owner.
	Container string `json:"container,omitempty"`
	Cgroup    string `json:"cgroup,omitempty"`
	// Holders is null when nobody looked, empty when there are none.
	Holders []Holder `json:"holders"`
	// Opener accepted or connected the socket, LastUser read or wrote last, EOFTold was told of
	// the end by a recv() returning 0: each absent if nobody saw it.
	Opener   *Party `json:"opener,omitempty"`
	LastUser *Party `json:"last_user,omitempty"`
	EOFTold  *Party `json:"eof_told,omitempty"`
	// InFlight says where a socket without holder is.
	InFlight *InFlight `json:"in_flight,omitempty"`
	// Listener is the process that should accept; Listeners are they where several could.
	Listener  *Listener  `json:"listener,omitempty"`
	Listeners []Listener `json:"listeners,omitempty"`
	Stacks    *Stacks    `json:"stacks,omitempty"`
	Peer      *Peer      `json:"peer,omitempty"`
}

// Holder is one descriptor that refers to the socket.
type Holder struct {
	Pid       uint32 `json:"pid"`
	Comm      string `json:"comm"`
	FD        int32  `json:"fd"`
	StartTime Time   `json:"start_time,omitzero"`
}

// Listener is a process that should accept the connection.
type Listener struct {
	Pid  uint32 `json:"pid"`
	Comm string `json:"comm"`
	// QueueLen is the length of the accept queue, QueueMax its limit: the kernel refuses from
	// QueueMax+1 on. Absent where the queue is not the listener's own (MPTCP).
	QueueLen *uint32 `json:"queue_len,omitempty"`
	QueueMax *uint32 `json:"queue_max,omitempty"`
}

// Party is a process that had to do with the socket, and how that is known.
type Party struct {
	Pid       uint32 `json:"pid"`
	Comm      string `json:"comm"`
	StartTime Time   `json:"start_time,omitzero"`
	Evidence  string `json:"evidence"`
	// Holds says whether it has a descriptor now, null when nobody looked.
	Holds *bool `json:"holds"`
}

// InFlight is where a socket is that no process holds a descriptor of.
type InFlight struct {
	// Where is "message" (a unix-socket message nobody has received), "io_uring" (a fixed
	// file), "kernel" (the kernel made it for itself), or null.
	Where Word `json:"where"`
	// Receivers could receive the message; Sender is the pid in its credentials.
	Receivers []Holder `json:"receivers,omitempty"`
	Sender    uint32   `json:"sender,omitzero"`
	// Rings are the processes whose io_uring has it, FD being the slot.
	Rings []Holder `json:"rings,omitempty"`
}

// Peer is the other end of the connection when it is on this host.
type Peer struct {
	// Pid is the process responsible for it, or the one that had it and has closed it.
	Pid  uint32 `json:"pid,omitzero"`
	Comm string `json:"comm,omitempty"`
	// State is absent if Gone: the socket was on this host and is no more.
	State string `json:"state,omitempty"`
	Gone  bool   `json:"gone,omitzero"`
	// Cookie is absent where the kernel keeps only a mini-socket.
	Cookie uint64 `json:"cookie,omitzero"`
	Netns  uint32 `json:"netns,omitzero"`
	// NetnsName is what its namespace is called, if that is another than ours.
	NetnsName string `json:"netns_name,omitempty"`
	// Laddr and Lport are its own. Behind NAT they are not our remote ones.
	Laddr netip.Addr `json:"laddr,omitzero"`
	Lport uint16     `json:"lport,omitzero"`
	// DwellNS is how long it has been in its state, where somebody watched.
	DwellNS    *int64 `json:"dwell_ns,omitempty"`
	DwellBound Word   `json:"dwell_bound,omitempty"`
	// MatchedBy is "flow", "sequence" or "flow_and_sequence"; absent if Gone.
	MatchedBy string `json:"matched_by,omitempty"`
	// Holders is null when nobody looked, empty when its descriptors are closed.
	Holders []Holder `json:"holders"`
}

// PeerOf builds the record of the other end.
func PeerOf(c *diagnosis.Case, matchedBy string, f *Facts) Peer {
	who := c.Blamed
	if !who.Known() && c.HoldersKnown && len(c.Holders) == 0 {
		who = c.Owner
	}
	p := Peer{
		Pid: who.Pid, Comm: Escape(who.Comm.String()), State: c.State.String(), Cookie: uint64(c.Cookie),
		Netns: c.Flow.Netns, Laddr: c.Flow.Local.Addr(), Lport: c.Flow.Local.Port(),
		MatchedBy: matchedBy, Holders: holdersOf(c, f),
	}
	// Of a socket that nobody watched nothing is known but that it is there.
	if c.Bound == event.Exact || c.Bound == event.AtLeast && c.Dwell() > 0 {
		p.DwellNS, p.DwellBound = new(int64(c.Dwell())), Word(c.Bound.String())
	}
	return p
}

// FromCase builds the record of one socket.
func FromCase(c *diagnosis.Case, f *Facts) Socket {
	r := Socket{
		Head: head(KindSocket), Cookie: uint64(c.Cookie), Inode: c.Inode,
		Netns: c.Flow.Netns, NetnsName: f.NetnsName(c.Flow.Netns),
		Family: c.Flow.Family(), Protocol: c.Flow.Protocol.String(),
		Laddr: c.Flow.Local.Addr(), Lport: c.Flow.Local.Port(),
		Raddr: c.Flow.Remote.Addr(), Rport: c.Flow.Remote.Port(),
		State: c.State.String(), Direction: Word(c.Direction.String()),
		DwellBound: Word(c.Bound.String()), Cause: CauseOf(c),
		RecvQ: c.RecvQ, SendQ: c.SendQ, Keepalive: c.Keepalive,
		Owner:     ownerOf(&c.Blamed, c.Evidence, f),
		Container: Escape(f.Cgroups[c.Cgroup].Container),
		Cgroup:    Escape(f.Cgroups[c.Cgroup].Path),
		Holders:   holdersOf(c, f), Stacks: f.Stacks[c.Cookie],
		InFlight: InFlightOf(c, f),
	}
	r.measure(c)
	r.Opener, r.LastUser, r.EOFTold = Parties(c, f)
	switch listeners := AcceptorsOf(c); len(listeners) {
	case 0:
	case 1:
		r.Listener = &listeners[0]
	default:
		r.Listeners = listeners
	}
	if p, ok := f.Peers[c.Cookie]; ok {
		r.Peer = &p
	}
	return r
}

// ListenersOf names the processes that should accept the connection, each once.
func ListenersOf(c *diagnosis.Case) []Task {
	var tasks []Task
	for _, l := range AcceptorsOf(c) {
		tasks = append(tasks, Task{l.Pid, l.Comm})
	}
	return tasks
}

// AcceptorsOf is ListenersOf with their accept queues.
func AcceptorsOf(c *diagnosis.Case) []Listener {
	var all []Listener
	for i := range c.Listeners {
		h := &c.Listeners[i]
		l := Listener{Pid: h.Pid, Comm: Escape(h.Comm.String())}
		if slices.ContainsFunc(all, func(o Listener) bool { return o.Pid == l.Pid && o.Comm == l.Comm }) {
			continue
		}
		if a := h.Accepts(); a.Flow.Protocol != event.MPTCP {
			l.QueueLen, l.QueueMax = &a.QueueLen, &a.QueueMax
		}
		all = append(all, l)
	}
	return all
}

// Parties are who was seen to have to do with the socket, each nil if nobody was.
func Parties(c *diagnosis.Case, f *Facts) (opener, lastUser, eofTold *Party) {
	if c.Socket.Evidence == event.EvidenceAccept || c.Socket.Evidence == event.EvidenceConnect {
		opener = partyOf(c, &c.Owner, c.Socket.Evidence, f)
	}
	if c.EOFSeen {
		eofTold = partyOf(c, &c.EOFTask, event.EvidenceRead, f)
	}
	return opener, partyOf(c, &c.User, c.UserEvidence, f), eofTold
}

func partyOf(c *diagnosis.Case, t *event.Task, e event.Evidence, f *Facts) *Party {
	if !t.Known() {
		return nil
	}
	p := &Party{Pid: t.Pid, Comm: Escape(t.Comm.String()), StartTime: f.Started(t.Start), Evidence: e.String()}
	if c.HoldersKnown {
		p.Holds = new(slices.ContainsFunc(c.Holders, func(h event.Holder) bool { return diagnosis.SameProcess(&h.Task, t) }))
	}
	return p
}

// InFlightOf says where a socket without holder is, nil for all others.
func InFlightOf(c *diagnosis.Case, f *Facts) *InFlight {
	if c.Cause != diagnosis.InFlight {
		return nil
	}
	r := &InFlight{Where: Word(c.Where()), Rings: holders(c.Fixed, f)}
	for i := range c.Passed {
		p := &c.Passed[i]
		h := event.Holder{Task: p.Receiver, FD: p.FD}
		r.Receivers = append(r.Receivers, holders([]event.Holder{h}, f)...)
		r.Sender = p.Sender
	}
	return r
}

// measure fills what is only sometimes known and may truly be zero.
func (r *Socket) measure(c *diagnosis.Case) {
	if c.Bound != event.BoundUnknown {
		r.DwellNS = new(int64(c.Dwell()))
	}
	if d := c.DwellMax(); d > 0 {
		r.DwellMaxNS = new(int64(d))
	}
	if c.EOFSeen {
		r.EOFSeen = new(true)
	}
	if c.SentKnown {
		r.BytesSentAfterFin = new(c.SentAfterFin)
	}
}

// CauseOf returns the word for the cause, empty where the question does not arise.
func CauseOf(c *diagnosis.Case) Word { return Word(c.Cause) }

func holdersOf(c *diagnosis.Case, f *Facts) []Holder {
	if !c.HoldersKnown {
		return nil
	}
	return holders(c.Holders, f)
}

func holders(of []event.Holder, f *Facts) []Holder {
	hs := make([]Holder, 0, len(of))
	for i := range of {
		h := &of[i]
		hs = append(hs, Holder{
			Pid: h.Pid, Comm: Escape(h.Comm.String()), FD: h.FD,
			StartTime: f.Started(h.Start),
		})
	}
	return hs
}
