package record

import (
	"net/netip"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Diagnosis is the verdict on everything that was watched.
type Diagnosis struct {
	Head
	Time             Time          `json:"time"`
	Verdict          string        `json:"verdict"`
	ObservedNS       int64         `json:"observed_ns"`
	ThresholdNS      int64         `json:"threshold_ns"`
	SocketsTotal     *uint64       `json:"sockets_total,omitempty"`
	SocketsCloseWait uint64        `json:"sockets_close_wait"`
	Loss             LossCounts    `json:"loss"`
	Processes        []Suspect     `json:"processes"`
	UnreadNetns      []UnreadNetns `json:"unread_netns,omitempty"`
}

// Suspect is one process that holds, or lets wait, sockets in CLOSE_WAIT.
type Suspect struct {
	Pid       uint32 `json:"pid,omitzero"`
	Comm      string `json:"comm,omitempty"`
	Exe       string `json:"exe,omitempty"`
	Cmdline   string `json:"cmdline,omitempty"`
	StartTime Time   `json:"start_time,omitzero"`
	Unit      string `json:"unit,omitempty"`
	Container string `json:"container,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Names

	Verdict string `json:"verdict"`
	// Why is the reason of the verdict in one sentence.
	Why         string `json:"why,omitempty"`
	Sockets     int    `json:"sockets"`
	Stuck       int    `json:"stuck"`
	OldestNS    *int64 `json:"oldest_ns,omitempty"`
	OldestBound Word   `json:"oldest_bound"`
	// GrowthPerMin is how many more there are each minute, Low and High are its 95 % limits.
	GrowthPerMin     *float64       `json:"growth_per_min,omitempty"`
	GrowthPerMinLow  *float64       `json:"growth_per_min_low,omitempty"`
	GrowthPerMinHigh *float64       `json:"growth_per_min_high,omitempty"`
	Causes           map[string]int `json:"causes"`
	FDsOpen          *uint64        `json:"fds_open,omitempty"`
	FDsLimit         *uint64        `json:"fds_limit,omitempty"`
	// FDsExhaustedInS is a forecast, in seconds from the end of the window, if waits keep coming
	// at that rate and all other descriptors stay; absent where growth is not shown. Min and
	// Max are at the limits of the rate; Max is absent where the rate may be nearly nothing.
	FDsExhaustedInS  *int64   `json:"fds_exhausted_in_s,omitempty"`
	FDsExhaustedMinS *int64   `json:"fds_exhausted_min_s,omitempty"`
	FDsExhaustedMaxS *int64   `json:"fds_exhausted_max_s,omitempty"`
	Peers            []Remote `json:"peers"`
	// Awaits are the other ends of connections that it has ended its side of. Follows are the
	// processes that make it wait: it has passed the ends of its waits on to these.
	Awaits  []Ends `json:"awaits,omitempty" csv:"-"`
	Follows []Task `json:"follows,omitempty" csv:"-"`
	// Listeners are the processes that could accept what nobody is blamed for.
	Listeners []Task   `json:"listeners,omitempty"`
	Groups    []Group  `json:"groups"`
	Advice    []string `json:"advice"`
	Commands  []string `json:"commands"`
	// Threads is where its threads stand now, the same places together.
	Threads []ThreadStack `json:"threads,omitempty" csv:"-"`
	// StacksNotSampled counts the stacks left out because there were too many a second.
	StacksNotSampled uint64 `json:"stacks_not_sampled,omitzero" csv:"-"`
}

// Remote is a destination and the number of sockets that go there.
type Remote struct {
	Raddr netip.Addr `json:"raddr"`
	Rport uint16     `json:"rport,omitzero"`
	N     int        `json:"n"`
}

// FromDiagnosis builds the record. The facts must hold the processes judged and the stacks
// of the oldest socket of each group.
func FromDiagnosis(d *diagnosis.Diagnosis, f *Facts) Diagnosis {
	r := Diagnosis{
		Head: head(KindDiagnosis), Time: Time{f.Clock.Wall.UTC()}, Verdict: d.Verdict.String(),
		ObservedNS: int64(d.Observed), ThresholdNS: int64(d.Threshold),
		SocketsCloseWait: uint64(d.Sockets), Loss: LossOf(d.Loss),
		Processes: make([]Suspect, 0, len(d.Processes)),
	}
	for i := range d.Processes {
		r.Processes = append(r.Processes, suspectOf(&d.Processes[i], f))
	}
	return r
}

func suspectOf(p *diagnosis.Process, f *Facts) Suspect {
	o := ownerOf(&p.Task, event.EvidenceNone, f)
	s := Suspect{
		Pid: o.Pid, Comm: o.Comm, Exe: o.Exe, Cmdline: o.Cmdline, StartTime: o.StartTime,
		Unit: o.Unit, Container: o.Container, Pod: o.Pod, Names: o.Names,
		Verdict: p.Verdict.String(), Why: p.Why, Sockets: p.Sockets, Stuck: p.Stuck,
		OldestNS: boundNS(int64(p.Oldest), p.OldestBound), OldestBound: Word(p.OldestBound.String()),
		GrowthPerMin: p.GrowthPerMin, GrowthPerMinLow: p.GrowthPerMinLow, GrowthPerMinHigh: p.GrowthPerMinHigh, Causes: make(map[string]int, len(p.Causes)),
		FDsOpen: positive(p.FDs.Open), FDsLimit: positive(p.FDs.Limit),
		Peers: []Remote{}, Groups: groupsOf(p.Groups, f),
		Advice: orEmpty(p.Advice), Commands: orEmpty(p.Commands),
		Threads: f.Threads[o.Pid], StacksNotSampled: f.Unsampled[o.Pid],
	}
	s.FDsExhaustedInS, s.FDsExhaustedMinS = seconds(p.FDsExhaustedIn, 0), seconds(p.FDsExhaustedMin, 0)
	s.FDsExhaustedMaxS = seconds(p.FDsExhaustedMax, time.Second-1)
	for cause, n := range p.Causes {
		s.Causes[string(cause)] = n
	}
	for _, peer := range p.Peers {
		s.Peers = append(s.Peers, Remote{peer.Remote.Addr(), peer.Remote.Port(), peer.N})
	}
	s.Awaits = f.Awaits[o.Pid]
	for i := range p.Follows {
		s.Follows = append(s.Follows, taskOf(&p.Follows[i]))
	}
	for i := range p.Listeners {
		s.Listeners = append(s.Listeners, taskOf(&p.Listeners[i]))
	}
	return s
}

// seconds is whole seconds after adding up; nil for nil.
func seconds(d *time.Duration, up time.Duration) *int64 {
	if d == nil {
		return nil
	}
	return new(int64((*d + up) / time.Second))
}

func boundNS(ns int64, b event.Bound) *int64 {
	if b == event.BoundUnknown {
		return nil
	}
	return &ns
}

func positive(n int) *uint64 {
	if n <= 0 {
		return nil
	}
	return new(uint64(n))
}
