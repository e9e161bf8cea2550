package filter

import (
	"net/netip"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// The environments carry the fields of the records by their JSON names, in plain types.
// A pointer is a field that can be unknown. A test compares them with the records.

type transitionEnv struct {
	Time      *time.Time         `expr:"time"`
	KTimeNS   int                `expr:"ktime_ns"`
	Cookie    *int               `expr:"cookie"`
	Netns     *int               `expr:"netns"`
	Family    *string            `expr:"family"`
	Protocol  string             `expr:"protocol"`
	Laddr     *string            `expr:"laddr"`
	Lport     *int               `expr:"lport"`
	Raddr     *string            `expr:"raddr"`
	Rport     *int               `expr:"rport"`
	OldState  string             `expr:"old_state"`
	NewState  string             `expr:"new_state"`
	InStateNS *int               `expr:"in_state_ns"`
	InBound   *string            `expr:"in_state_bound"`
	Direction *string            `expr:"direction"`
	Owner     transitionOwnerEnv `expr:"owner"`
	Container *string            `expr:"container"`
	Inferred  bool               `expr:"inferred"`
}

type transitionOwnerEnv struct {
	Pid      *int    `expr:"pid"`
	Tid      *int    `expr:"tid"`
	Comm     *string `expr:"comm"`
	Evidence string  `expr:"evidence"`
}

type socketEnv struct {
	Cookie            *int          `expr:"cookie"`
	Inode             *int          `expr:"inode"`
	Netns             *int          `expr:"netns"`
	NetnsName         *string       `expr:"netns_name"`
	Family            *string       `expr:"family"`
	Protocol          string        `expr:"protocol"`
	Laddr             *string       `expr:"laddr"`
	Lport             *int          `expr:"lport"`
	Raddr             *string       `expr:"raddr"`
	Rport             *int          `expr:"rport"`
	State             string        `expr:"state"`
	Direction         *string       `expr:"direction"`
	DwellNS           *int          `expr:"dwell_ns"`
	DwellBound        *string       `expr:"dwell_bound"`
	DwellMaxNS        *int          `expr:"dwell_max_ns"`
	Cause             *string       `expr:"cause"`
	EOFSeen           *bool         `expr:"eof_seen"`
	RecvQ             int           `expr:"recv_q"`
	SendQ             int           `expr:"send_q"`
	BytesSentAfterFin *int          `expr:"bytes_sent_after_fin"`
	Keepalive         bool          `expr:"keepalive"`
	Owner             ownerEnv      `expr:"owner"`
	Container         *string       `expr:"container"`
	Cgroup            *string       `expr:"cgroup"`
	Holders           []holderEnv   `expr:"holders"`
	Opener            partyEnv      `expr:"opener"`
	LastUser          partyEnv      `expr:"last_user"`
	EOFTold           partyEnv      `expr:"eof_told"`
	InFlight          inFlightEnv   `expr:"in_flight"`
	Listener          listenerEnv   `expr:"listener"`
	Listeners         []acceptorEnv `expr:"listeners"`
	Stacks            stacksEnv     `expr:"stacks"`
	Peer              peerEnv       `expr:"peer"`
}

type ownerEnv struct {
	Pid       *int       `expr:"pid"`
	Tid       *int       `expr:"tid"`
	Comm      *string    `expr:"comm"`
	Exe       *string    `expr:"exe"`
	Cmdline   *string    `expr:"cmdline"`
	StartTime *time.Time `expr:"start_time"`
	Unit      *string    `expr:"unit"`
	Container *string    `expr:"container"`
	Pod       *string    `expr:"pod"`

	ContainerName *string `expr:"container_name"`
	Image         *string `expr:"image"`
	PodName       *string `expr:"pod_name"`
	PodNamespace  *string `expr:"pod_namespace"`

	Evidence string `expr:"evidence"`
}

type holderEnv struct {
	Pid       int       `expr:"pid"`
	Comm      string    `expr:"comm"`
	FD        int       `expr:"fd"`
	StartTime time.Time `expr:"start_time"`
}

type listenerEnv struct {
	Pid      *int    `expr:"pid"`
	Comm     *string `expr:"comm"`
	QueueLen *int    `expr:"queue_len"`
	QueueMax *int    `expr:"queue_max"`
}

type acceptorEnv struct {
	Pid      int    `expr:"pid"`
	Comm     string `expr:"comm"`
	QueueLen *int   `expr:"queue_len"`
	QueueMax *int   `expr:"queue_max"`
}

type partyEnv struct {
	Pid       *int       `expr:"pid"`
	Comm      *string    `expr:"comm"`
	StartTime *time.Time `expr:"start_time"`
	Evidence  *string    `expr:"evidence"`
	Holds     *bool      `expr:"holds"`
}

type inFlightEnv struct {
	Where     *string     `expr:"where"`
	Receivers []holderEnv `expr:"receivers"`
	Sender    *int        `expr:"sender"`
	Rings     []holderEnv `expr:"rings"`
}

type peerEnv struct {
	Pid        *int        `expr:"pid"`
	Comm       *string     `expr:"comm"`
	State      *string     `expr:"state"`
	Gone       bool        `expr:"gone"`
	Cookie     *int        `expr:"cookie"`
	Netns      *int        `expr:"netns"`
	NetnsName  *string     `expr:"netns_name"`
	Laddr      *string     `expr:"laddr"`
	Lport      *int        `expr:"lport"`
	DwellNS    *int        `expr:"dwell_ns"`
	DwellBound *string     `expr:"dwell_bound"`
	MatchedBy  *string     `expr:"matched_by"`
	Holders    []holderEnv `expr:"holders"`
}

type stacksEnv struct {
	Open     stackEnv `expr:"open"`
	LastRead stackEnv `expr:"last_read"`
	EOF      stackEnv `expr:"eof"`
	Close    stackEnv `expr:"close"`
}

type stackEnv struct {
	Frames  []frameEnv `expr:"frames"`
	Quality *string    `expr:"quality"`
	Reason  *string    `expr:"reason"`
	Tid     *int       `expr:"tid"`
	Comm    *string    `expr:"comm"`
}

type frameEnv struct {
	Function string `expr:"function"`
	File     string `expr:"file"`
	Line     int    `expr:"line"`
	Module   string `expr:"module"`
	Offset   int    `expr:"offset"`
	Kind     string `expr:"kind"`
	User     bool   `expr:"user"`
}

// slots hold what the pointers of one environment point to.
type slots struct {
	nums    [32]int
	strs    [64]string
	times   [2]time.Time
	yes     bool
	n, s, t int
}

func (s *slots) reset() { s.n, s.s, s.t, s.yes = 0, 0, 0, true }

// num is for values of which 0 is unknown, known for those that say so themselves.
func (s *slots) num(v uint64) *int { return s.known(int64(v), v != 0) }

func (s *slots) known(v int64, known bool) *int {
	if !known {
		return nil
	}
	p := &s.nums[s.n]
	s.n++
	*p = int(v)
	return p
}

func (s *slots) str(v string) *string {
	if v == "" {
		return nil
	}
	p := &s.strs[s.s]
	s.s++
	*p = v
	return p
}

// text is str for strings that a process chose: as in the records.
func (s *slots) text(v string) *string { return s.str(record.Escape(v)) }

func (s *slots) addr(a netip.Addr) *string {
	if !a.IsValid() {
		return nil
	}
	return s.str(a.String())
}

func (s *slots) time(v time.Time) *time.Time {
	if v.IsZero() {
		return nil
	}
	p := &s.times[s.t]
	s.t++
	*p = v
	return p
}

func (e *evaluator) fillTransition(t *event.Transition, cgroup record.Cgroup) {
	s := &e.slots
	e.transition = transitionEnv{
		KTimeNS: int(t.At), Cookie: s.num(uint64(t.Cookie)), Netns: s.num(uint64(t.Flow.Netns)),
		Family: s.str(t.Flow.Family()), Protocol: t.Flow.Protocol.String(),
		Laddr: s.addr(t.Flow.Local.Addr()), Lport: s.num(uint64(t.Flow.Local.Port())),
		Raddr: s.addr(t.Flow.Remote.Addr()), Rport: s.num(uint64(t.Flow.Remote.Port())),
		OldState: t.Old.String(), NewState: t.New.String(),
		InStateNS: s.known(int64(t.InState), t.InBound != event.BoundUnknown),
		InBound:   s.str(t.InBound.String()), Direction: s.str(t.Direction.String()),
		Owner:     transitionOwnerEnv{Evidence: event.EvidenceNone.String()},
		Container: s.text(cgroup.Container), Inferred: t.Inferred,
	}
	if t.Owner.Known() {
		e.transition.Owner = transitionOwnerEnv{
			Pid: s.num(uint64(t.Owner.Pid)), Tid: s.num(uint64(t.Owner.Tid)),
			Comm: s.text(t.Owner.Comm.String()), Evidence: t.Evidence.String(),
		}
	}
}

func (e *evaluator) fillSocket(c *diagnosis.Case, facts *record.Facts) {
	s := &e.slots
	group := facts.Cgroups[c.Cgroup]
	e.socket = socketEnv{
		Cookie: s.num(uint64(c.Cookie)), Inode: s.num(c.Inode), Netns: s.num(uint64(c.Flow.Netns)), NetnsName: s.str(facts.NetnsName(c.Flow.Netns)),
		Family: s.str(c.Flow.Family()), Protocol: c.Flow.Protocol.String(),
		Laddr: s.addr(c.Flow.Local.Addr()), Lport: s.num(uint64(c.Flow.Local.Port())),
		Raddr: s.addr(c.Flow.Remote.Addr()), Rport: s.num(uint64(c.Flow.Remote.Port())),
		State: c.State.String(), Direction: s.str(c.Direction.String()),
		DwellNS:    s.known(int64(c.Dwell()), c.Bound != event.BoundUnknown),
		DwellBound: s.str(c.Bound.String()), DwellMaxNS: s.num(uint64(c.DwellMax())),
		Cause: s.str(string(record.CauseOf(c))), RecvQ: int(c.RecvQ), SendQ: int(c.SendQ),
		BytesSentAfterFin: s.known(int64(c.SentAfterFin), c.SentKnown),
		Keepalive:         c.Keepalive, Owner: e.owner(c, facts),
		Container: s.text(group.Container), Cgroup: s.text(group.Path),
		Holders: holders(c, facts), Stacks: e.stacks(facts.Stacks[c.Cookie]),
	}
	if c.EOFSeen {
		e.socket.EOFSeen = &s.yes
	}
	e.fillListeners(c)
	e.fillParties(c, facts)
	if p, ok := facts.Peers[c.Cookie]; ok {
		e.socket.Peer = e.peer(&p)
	}
}

func (e *evaluator) peer(p *record.Peer) peerEnv {
	s := &e.slots
	env := peerEnv{
		Pid: s.num(uint64(p.Pid)), Comm: s.str(p.Comm), State: s.str(p.State), Gone: p.Gone,
		Cookie: s.num(p.Cookie), Netns: s.num(uint64(p.Netns)), NetnsName: s.str(p.NetnsName),
		Laddr: s.addr(p.Laddr), Lport: s.num(uint64(p.Lport)),
		DwellBound: s.str(string(p.DwellBound)), MatchedBy: s.str(p.MatchedBy), Holders: holderList(p.Holders),
	}
	if p.DwellNS != nil {
		env.DwellNS = s.known(*p.DwellNS, true)
	}
	return env
}

func (e *evaluator) fillListeners(c *diagnosis.Case) {
	if len(c.Listeners) == 0 {
		return
	}
	all := record.AcceptorsOf(c)
	if len(all) == 1 {
		l := &all[0]
		e.socket.Listener = listenerEnv{e.slots.num(uint64(l.Pid)), e.slots.str(l.Comm), number(l.QueueLen), number(l.QueueMax)}
		return
	}
	for i := range all {
		l := &all[i]
		e.socket.Listeners = append(e.socket.Listeners, acceptorEnv{int(l.Pid), l.Comm, number(l.QueueLen), number(l.QueueMax)})
	}
}

func number(n *uint32) *int {
	if n == nil {
		return nil
	}
	return new(int(*n))
}

func (e *evaluator) fillParties(c *diagnosis.Case, facts *record.Facts) {
	opener, lastUser, eofTold := record.Parties(c, facts)
	e.socket.Opener, e.socket.LastUser, e.socket.EOFTold = party(opener), party(lastUser), party(eofTold)
	f := record.InFlightOf(c, facts)
	if f == nil {
		return
	}
	s := &e.slots
	e.socket.InFlight = inFlightEnv{s.str(string(f.Where)), holderList(f.Receivers), s.num(uint64(f.Sender)), holderList(f.Rings)}
}

func party(p *record.Party) partyEnv {
	if p == nil {
		return partyEnv{}
	}
	env := partyEnv{Pid: new(int(p.Pid)), Comm: &p.Comm, Evidence: &p.Evidence, Holds: p.Holds}
	if !p.StartTime.IsZero() {
		env.StartTime = &p.StartTime.Time
	}
	return env
}

func holderList(of []record.Holder) []holderEnv {
	var list []holderEnv
	for i := range of {
		h := &of[i]
		list = append(list, holderEnv{int(h.Pid), h.Comm, int(h.FD), h.StartTime.Time})
	}
	return list
}

func (e *evaluator) owner(c *diagnosis.Case, facts *record.Facts) ownerEnv {
	if !c.Blamed.Known() {
		return ownerEnv{Evidence: event.EvidenceNone.String()}
	}
	s, p := &e.slots, facts.Process(c.Blamed.Pid)
	names := facts.Names(p.Container, p.Pod)
	return ownerEnv{
		Pid: s.num(uint64(c.Blamed.Pid)), Tid: s.num(uint64(c.Blamed.Tid)),
		Comm: s.text(c.Blamed.Comm.String()), Exe: s.text(p.Exe), Cmdline: s.str(record.Cmdline(p)),
		StartTime: s.time(facts.Started(c.Blamed.Start).Time), Unit: s.text(p.Unit),
		Container: s.text(p.Container), Pod: s.text(p.Pod), Evidence: c.Evidence.String(),
		ContainerName: s.str(names.ContainerName), Image: s.str(names.Image),
		PodName: s.str(names.PodName), PodNamespace: s.str(names.PodNamespace),
	}
}

func holders(c *diagnosis.Case, facts *record.Facts) []holderEnv {
	if len(c.Holders) == 0 {
		return nil
	}
	list := make([]holderEnv, 0, len(c.Holders))
	for i := range c.Holders {
		h := &c.Holders[i]
		list = append(list, holderEnv{
			int(h.Pid), record.Escape(h.Comm.String()), int(h.FD), facts.Started(h.Start).Time,
		})
	}
	return list
}

func (e *evaluator) stacks(st *record.Stacks) stacksEnv {
	if st == nil {
		return stacksEnv{}
	}
	return stacksEnv{e.stack(st.Open), e.stack(st.LastRead), e.stack(st.EOF), e.stack(st.Close)}
}

func (e *evaluator) stack(st *record.Stack) stackEnv {
	if st == nil {
		return stackEnv{}
	}
	s := &e.slots
	env := stackEnv{Quality: s.str(st.Quality), Reason: s.str(st.Reason), Tid: s.num(uint64(st.Tid)), Comm: s.str(st.Comm)}
	for _, f := range st.Frames {
		env.Frames = append(env.Frames, frameEnv{f.Function, f.File, f.Line, f.Module, int(f.Offset), f.Kind, f.User})
	}
	return env
}
