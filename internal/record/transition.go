package record

import (
	"bytes"
	"net/netip"
	"strconv"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Transition is one state change of one socket.
type Transition struct {
	Head
	Time      Time            `json:"time"`
	KTimeNS   int64           `json:"ktime_ns"`
	Cookie    uint64          `json:"cookie,omitzero"`
	Netns     uint32          `json:"netns,omitzero"`
	Family    string          `json:"family,omitempty"`
	Protocol  string          `json:"protocol"`
	Laddr     netip.Addr      `json:"laddr,omitzero"`
	Lport     uint16          `json:"lport,omitzero"`
	Raddr     netip.Addr      `json:"raddr,omitzero"`
	Rport     uint16          `json:"rport,omitzero"`
	OldState  string          `json:"old_state"`
	NewState  string          `json:"new_state"`
	InStateNS *int64          `json:"in_state_ns,omitempty"`
	InBound   Word            `json:"in_state_bound"`
	Direction Word            `json:"direction"`
	Owner     TransitionOwner `json:"owner"`
	Container string          `json:"container,omitempty"`
	// Inferred: the kernel did not report it, it follows from others.
	Inferred bool `json:"inferred,omitempty"`
	// Stacks of the socket so far; Close is that of this transition.
	Stacks *Stacks `json:"stacks,omitempty" csv:"-"`
}

// TransitionOwner is what the socket's own record knows at that moment.
type TransitionOwner struct {
	Pid      uint32 `json:"pid,omitzero"`
	Tid      uint32 `json:"tid,omitzero"`
	Comm     string `json:"comm,omitempty"`
	Evidence string `json:"evidence"`
}

// TransitionFacts are what is known around a transition.
type TransitionFacts struct {
	// Cgroup is what the id of the socket's control group means.
	Cgroup Cgroup
	// Stacks of the socket so far, nil if there are none.
	Stacks *Stacks
}

// FromTransition builds the record. TransitionEncoder gives the same as JSON, faster.
func FromTransition(t *event.Transition, clock event.Clock, f *TransitionFacts) Transition {
	r := Transition{
		Head: head(KindTransition), Time: At(clock, t.At), KTimeNS: int64(t.At),
		Cookie: uint64(t.Cookie), Netns: t.Flow.Netns, Family: t.Flow.Family(),
		Protocol: t.Flow.Protocol.String(),
		Laddr:    t.Flow.Local.Addr(), Lport: t.Flow.Local.Port(),
		Raddr: t.Flow.Remote.Addr(), Rport: t.Flow.Remote.Port(),
		OldState: t.Old.String(), NewState: t.New.String(),
		InBound: Word(t.InBound.String()), Direction: Word(t.Direction.String()),
		Owner:     TransitionOwner{Evidence: event.EvidenceNone.String()},
		Container: Escape(f.Cgroup.Container), Inferred: t.Inferred, Stacks: f.Stacks,
	}
	if t.InBound != event.BoundUnknown {
		r.InStateNS = new(int64(t.InState))
	}
	if t.Owner.Known() {
		r.Owner = TransitionOwner{
			Pid: t.Owner.Pid, Tid: t.Owner.Tid,
			Comm: Escape(t.Owner.Comm.String()), Evidence: t.Evidence.String(),
		}
	}
	return r
}

// TransitionEncoder writes transitions as JSON without allocating. Not safe for
// concurrent use.
type TransitionEncoder struct {
	// offset turns kernel time into nanoseconds since 1970.
	offset int64
	stamp  *Stamp
	// flows are texts by a hash of the ports: a connection changes its state several times
	// in short order.
	flows [flowTexts]flowText
}

// flowTexts is how many are kept: some 60 KiB.
const flowTexts = 256

type flowText struct {
	flow event.Flow
	text []byte
}

// NewTransitionEncoder returns an encoder; SetClock before the first use.
func NewTransitionEncoder() *TransitionEncoder {
	return &TransitionEncoder{stamp: NewStamp("2006-01-02T15:04:05", time.UTC, 9)}
}

// SetClock takes a new reading of the clocks.
func (e *TransitionEncoder) SetClock(c event.Clock) { e.offset = Offset(c) }

// Offset is what to add to a kernel time to get nanoseconds since 1970.
func Offset(c event.Clock) int64 { return c.Wall.UnixNano() - int64(c.K) }

// AppendJSON appends what json.Marshal gives for FromTransition.
func (e *TransitionEncoder) AppendJSON(dst []byte, t *event.Transition, f *TransitionFacts) []byte {
	dst = append(dst, `{"schema":"`+Schema+`","kind":"`+KindTransition+`","time":`...)
	if t.At == 0 {
		dst = append(dst, "null"...)
	} else {
		dst = append(dst, '"')
		dst = e.stamp.Append(dst, e.offset+int64(t.At))
		dst = append(dst, `Z"`...)
	}
	dst = append(dst, `,"ktime_ns":`...)
	dst = strconv.AppendInt(dst, int64(t.At), 10)
	dst = appendUintField(dst, `,"cookie":`, uint64(t.Cookie))
	dst = e.appendFlow(dst, &t.Flow)
	dst = append(dst, `,"old_state":"`...)
	dst = append(dst, t.Old.String()...)
	dst = append(dst, `","new_state":"`...)
	dst = append(dst, t.New.String()...)
	dst = append(dst, '"')
	dst = appendInState(dst, t)
	dst = appendOwner(dst, t)
	dst = appendStringField(dst, `,"container":`, Escape(f.Cgroup.Container))
	if t.Inferred {
		dst = append(dst, `,"inferred":true`...)
	}
	return append(appendStacks(dst, f.Stacks), '}')
}

// appendUintField leaves an unknown value out.
func appendUintField(dst []byte, key string, v uint64) []byte {
	if v == 0 {
		return dst
	}
	dst = append(dst, key...)
	return strconv.AppendUint(dst, v, 10)
}

func (e *TransitionEncoder) appendFlow(dst []byte, f *event.Flow) []byte {
	c := &e.flows[(uint(f.Local.Port())+31*uint(f.Remote.Port()))%flowTexts]
	if len(c.text) == 0 || c.flow != *f {
		c.flow, c.text = *f, appendFlow(c.text[:0], f)
	}
	return append(dst, c.text...)
}

func appendFlow(dst []byte, f *event.Flow) []byte {
	dst = appendUintField(dst, `,"netns":`, uint64(f.Netns))
	if family := f.Family(); family != "" {
		dst = append(dst, `,"family":"`...)
		dst = append(dst, family...)
		dst = append(dst, '"')
	}
	dst = append(dst, `,"protocol":"`...)
	dst = append(dst, f.Protocol.String()...)
	dst = append(dst, '"')
	dst = appendAddrField(dst, `,"laddr":"`, f.Local.Addr())
	dst = appendUintField(dst, `,"lport":`, uint64(f.Local.Port()))
	dst = appendAddrField(dst, `,"raddr":"`, f.Remote.Addr())
	return appendUintField(dst, `,"rport":`, uint64(f.Remote.Port()))
}

func appendAddrField(dst []byte, key string, a netip.Addr) []byte {
	if !a.IsValid() {
		return dst
	}
	dst = append(dst, key...)
	dst = a.AppendTo(dst)
	return append(dst, '"')
}

func appendInState(dst []byte, t *event.Transition) []byte {
	if t.InBound != event.BoundUnknown {
		dst = append(dst, `,"in_state_ns":`...)
		dst = strconv.AppendInt(dst, int64(t.InState), 10)
	}
	dst = append(dst, `,"in_state_bound":`...)
	dst = appendWord(dst, t.InBound.String())
	dst = append(dst, `,"direction":`...)
	return appendWord(dst, t.Direction.String())
}

func appendWord(dst []byte, w string) []byte {
	if w == "" {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	dst = append(dst, w...)
	return append(dst, '"')
}

func appendOwner(dst []byte, t *event.Transition) []byte {
	if !t.Owner.Known() {
		return append(dst, `,"owner":{"evidence":"none"}`...)
	}
	dst = append(dst, `,"owner":{"pid":`...)
	dst = strconv.AppendUint(dst, uint64(t.Owner.Pid), 10)
	dst = appendUintField(dst, `,"tid":`, uint64(t.Owner.Tid))
	if comm := CommBytes(&t.Owner.Comm); len(comm) > 0 {
		dst = append(dst, `,"comm":`...)
		dst = appendRaw(dst, comm)
	}
	dst = append(dst, `,"evidence":"`...)
	dst = append(dst, t.Evidence.String()...)
	return append(dst, `"}`...)
}

// CommBytes returns the name's bytes before the first NUL without copying.
func CommBytes(c *event.Comm) []byte {
	if n := bytes.IndexByte(c[:], 0); n >= 0 {
		return c[:n]
	}
	return c[:]
}
