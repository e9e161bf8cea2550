package tracer

import (
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

const (
	// A transition is as long as its flags say.
	transitionSize     = int(unsafe.Offsetof(bpfTransition{}.OwnerComm))
	transitionMoreSize = int(unsafe.Offsetof(bpfTransition{}.Laddr))
	transitionWideSize = int(unsafe.Sizeof(bpfTransition{}))
	socketRowSize      = int(unsafe.Sizeof(bpfSocketRow{}))
	socketMoreSize     = int(unsafe.Sizeof(bpfSocketMore{}))
	holderRowSize      = int(unsafe.Sizeof(bpfHolderRow{}))
	holdingRowSize     = int(unsafe.Sizeof(bpfHoldingRow{}))
	listeningRowSize   = int(unsafe.Sizeof(bpfListeningRow{}))
	passedRowSize      = int(unsafe.Sizeof(bpfPassedRow{}))

	// enum row_kind
	rowSocket    = 1
	rowHolder    = 2
	rowPassed    = 3
	rowHolding   = 4
	rowListening = 5

	// enum passed_flags
	passedCut = 1 << 0

	// enum transition_flags
	transitionInferred = 1 << 0
	transitionSubflow  = 1 << 1
	transitionExiting  = 1 << 2
	transitionEOFSeen  = 1 << 3
	transitionWatched  = 1 << 4
	transitionSent     = 1 << 5
	transitionMPTCP    = 1 << 6
	transitionBorn     = 1 << 7
	transitionTimeWait = 1 << 8
	transitionMore     = 1 << 9
	transitionWide     = 1 << 10
	transitionNoPort   = 1 << 11

	// enum socket_flags
	socketBaseline      = 1 << 0
	socketWatched       = 1 << 1
	socketSent          = 1 << 2
	socketConnected     = 1 << 3
	socketKeepalive     = 1 << 4
	socketAckedAfterFin = 1 << 5
	socketSubflow       = 1 << 6
	socketQueues        = 1 << 7
	socketFinReceived   = 1 << 8
	socketSeq           = 1 << 9
	socketKernel        = 1 << 10
	socketPort          = 1 << 11
	socketPortBound     = 1 << 12
	socketStamped       = 1 << 13
	socketMore          = 1 << 14
)

// decodeTransition fills to from one ring record. It does not keep raw and does not
// allocate. The flags say whether the record tells another transition, which came before
// (see before), and whether it names the owner.
func decodeTransition(raw []byte, to *event.Transition) (flags uint16, err error) {
	// A copy: raw ends before the struct does, mostly.
	var c bpfTransition
	n := copy(unsafe.Slice((*byte)(unsafe.Pointer(&c)), transitionWideSize), raw)
	if n < transitionSize || n < sizeOf(c.Flags) {
		return 0, fmt.Errorf("decode transition: got %d bytes, want %d or more", len(raw), max(transitionSize, sizeOf(c.Flags)))
	}
	*to = event.Transition{
		At:        event.KTime(c.At),
		Cookie:    event.Cookie(c.Cookie),
		Flow:      event.Flow{Netns: c.Netns, Protocol: protocolOf(c.Flags)},
		Old:       event.State(c.OldState),
		New:       event.State(c.NewState),
		InState:   time.Duration(c.InState),
		InBound:   event.Bound(c.Bound),
		Direction: event.Direction(c.Direction),
		Owner:     event.Task{Pid: c.OwnerTgid, Tid: c.OwnerTid, Start: event.BootTime(c.OwnerStart)},
		Evidence:  event.Evidence(c.Evidence),
		Cgroup:    c.Cgroup,
		Exiting:   c.Flags&transitionExiting != 0,
		NoPort:    c.Flags&transitionNoPort != 0,

		EOFSeen:    c.Flags&transitionEOFSeen != 0,
		EOFWatched: c.Flags&transitionWatched != 0,
		SentKnown:  c.Flags&transitionSent != 0,

		Inferred: c.Flags&transitionInferred != 0,
		Subflow:  c.Flags&transitionSubflow != 0,
	}
	if c.Flags&transitionMore != 0 {
		to.Owner.Comm = *(*event.Comm)(unsafe.Pointer(&c.OwnerComm))
		to.User, to.Closer, to.RecvQ, to.SentAfterFin = c.User, c.Closer, c.RecvQ, c.SentAfterFin
	}
	if c.Flags&transitionWide != 0 {
		to.Flow.Local = addrPortOf(c.Laddr, c.Lport)
		to.Flow.Remote = addrPortOf(c.Raddr, c.Rport)
		to.Stacks = stacksOf(&c.Stacks)
	} else {
		to.Flow.Local = netip.AddrPortFrom(netip.AddrFrom4(c.Laddr4), c.Lport)
		to.Flow.Remote = netip.AddrPortFrom(netip.AddrFrom4(c.Raddr4), c.Rport)
	}
	return c.Flags, nil
}

func sizeOf(flags uint16) int {
	switch {
	case flags&transitionWide != 0:
		return transitionWideSize
	case flags&transitionMore != 0:
		return transitionMoreSize
	default:
		return transitionSize
	}
}

func protocolOf(flags uint16) event.Protocol {
	if flags&transitionMPTCP != 0 {
		return event.MPTCP
	}
	return event.TCP
}

// before is the transition that the record of tr tells beside it.
func before(tr *event.Transition, flags uint16) event.Transition {
	first := *tr
	if flags&transitionBorn != 0 {
		first.Old, first.New = event.Listen, event.SynRecv
		first.At = tr.At.Add(-tr.InState)
		first.InState, first.InBound = 0, event.BoundUnknown
		return first
	}
	first.New, first.Inferred = event.TimeWait, true
	return first
}

// decodeSocket sets all of s.
func decodeSocket(c *bpfSocketRow, more *bpfSocketMore, s *event.Socket) {
	s.At = event.KTime(c.At)
	s.Cookie = event.Cookie(c.Cookie)
	s.Inode = c.Inode
	s.Flow = flowOf(&c.Flow, c.Protocol)
	s.State = event.State(c.State)
	s.Cgroup = c.Cgroup
	s.Since = event.KTime(c.Since)
	s.Earliest = event.KTime(c.Earliest)
	s.Bound = event.Bound(c.Bound)
	s.Baseline = c.Flags&socketBaseline != 0
	s.RecvQ, s.SendQ = c.RecvQ, c.SendQ
	s.QueuesKnown = c.Flags&socketQueues != 0
	s.EOFSeen = more.EofAt != 0
	s.EOFAt = event.KTime(more.EofAt)
	s.EOFTask = event.Task{Pid: more.EofTask.Tgid, Tid: more.EofTask.Tid, Start: event.BootTime(more.EofTask.Start)}
	s.EOFWatched = c.Flags&socketWatched != 0
	s.SentAfterFin = more.SentAfterFin
	s.SentKnown = c.Flags&socketSent != 0
	s.AckedAfterFin = c.Flags&socketAckedAfterFin != 0
	s.LastSend = event.KTime(c.LastSend)
	s.LastAck = event.KTime(c.LastAck)
	s.Keepalive = c.Flags&socketKeepalive != 0
	s.Shutdown = c.Shutdown
	s.Subflow = c.Flags&socketSubflow != 0
	s.Parent = event.Cookie(more.Parent)
	s.Listener = event.Cookie(more.Listener)
	s.Kernel = c.Flags&socketKernel != 0
	s.Port = portChoiceOf(c.Flags)
	s.Ends = event.KTime(more.Ends)
	s.Stamped = c.Flags&socketStamped != 0
	s.SndNxt, s.RcvNxt = c.SndNxt, c.RcvNxt
	s.SeqKnown = c.Flags&socketSeq != 0
	s.Stacks = stacksOf(&more.Stacks)
	s.Owner = taskOf(&more.Owner)
	s.Evidence = event.Evidence(c.Evidence)
	s.User = event.Task{Pid: more.User, Start: event.BootTime(more.UserStart)}
	s.UserEvidence = event.Evidence(c.UserEvidence)
	s.Direction = event.Direction(c.Direction)
	s.WasConnected = c.Flags&socketConnected != 0
	inferHistory(s, c)
}

func portChoiceOf(flags uint32) event.PortChoice {
	switch {
	case flags&socketPort == 0:
		return event.PortUnknown
	case flags&socketPortBound != 0:
		return event.PortByBind
	default:
		return event.PortByConnect
	}
}

// inferHistory reads from the sequence numbers what nobody watched.
func inferHistory(s *event.Socket, c *bpfSocketRow) {
	if s.State == event.Listen || s.Flow.Protocol != event.TCP {
		return
	}
	if s.State == event.Established || s.State == event.CloseWait {
		s.WasConnected = true
		if s.Direction == event.DirectionUnknown {
			s.Direction = directionOf(c.AckedBeyond)
		}
	}
	if s.State == event.Close {
		inferClose(s, c)
	}
}

// inferClose dates a closed baseline socket. Once both FINs went through, the last
// ACK is the one that closed it.
func inferClose(s *event.Socket, c *bpfSocketRow) {
	finReceived := c.Flags&socketFinReceived != 0
	s.WasConnected = s.WasConnected || c.AckedBeyond > 0 || finReceived
	if finReceived && s.Baseline && c.AckedBeyond >= 2 {
		closedAtLastAck(c)
		s.Since, s.Bound = event.KTime(c.Since), event.Bound(c.Bound)
	}
}

// undated: one number beyond the data was our FIN if the peer connected, our SYN if
// we did. Only a listener on the port tells.
func undated(c *bpfSocketRow) bool {
	const known = socketBaseline | socketFinReceived
	return event.State(c.State) == event.Close && c.Flags&known == known && c.LastAck != 0 && c.AckedBeyond == 1
}

// ticksLate is TICKS_LATE of bpf/snapshot.h.
const ticksLate = 100 * time.Millisecond

func closedAtLastAck(c *bpfSocketRow) {
	if c.LastAck != 0 {
		c.Since, c.Bound = min(c.At, c.LastAck+uint64(ticksLate)), uint8(event.AtLeast)
	}
}

// directionOf: our SYN counts one beyond the data bytes acknowledged.
func directionOf(ackedBeyond int32) event.Direction {
	switch ackedBeyond {
	case 0:
		return event.In
	case 1:
		return event.Out
	default:
		return event.DirectionUnknown
	}
}

// addrPortOf turns ::ffff:a.b.c.d into IPv4: the wire's family, whatever the socket's.
func addrPortOf(addr [16]uint8, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(addr).Unmap(), port)
}

func flowOf(c *bpfFlow, protocol uint16) event.Flow {
	return event.Flow{
		Local:    addrPortOf(c.Laddr, c.Lport),
		Remote:   addrPortOf(c.Raddr, c.Rport),
		Netns:    c.Netns,
		Protocol: event.Protocol(protocol),
	}
}

func stacksOf(c *[event.StackSlots]uint64) event.Stacks {
	return *(*event.Stacks)(unsafe.Pointer(c))
}

// bpfTaskOf is the reverse of taskOf.
func bpfTaskOf(t *event.Task) bpfTask {
	return bpfTask{Start: uint64(t.Start), Tgid: t.Pid, Tid: t.Tid, Comm: *(*[16]int8)(unsafe.Pointer(&t.Comm))}
}

func taskOf(c *bpfTask) event.Task {
	return event.Task{
		Pid:   c.Tgid,
		Tid:   c.Tid,
		Start: event.BootTime(c.Start),
		Comm:  *(*event.Comm)(unsafe.Pointer(&c.Comm)),
	}
}
