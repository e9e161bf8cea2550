package record

import (
	"strings"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
)

// Facts is what the records of one snapshot need beyond the sockets themselves. A
// missing entry is "unknown".
type Facts struct {
	Clock event.Clock
	// Boot is the wall time at boot, which dates process starts.
	Boot time.Time
	// Processes by pid: at least those blamed.
	Processes map[uint32]*owner.Process
	// Peers by the cookie of our end, where the other end is on this host.
	Peers map[event.Cookie]Peer
	// Awaits by pid: the other ends of the connections that a process has ended its side of.
	Awaits map[uint32][]Ends
	// Stacks by cookie.
	Stacks map[event.Cookie]*Stacks
	// Threads by pid: where the threads of suspects stand now.
	Threads map[uint32][]ThreadStack
	// Unsampled counts by pid the stacks that were not taken because there were too many.
	Unsampled map[uint32]uint64
	// Cgroups by cgroup id.
	Cgroups map[uint64]Cgroup
	// Containers by id and Pods by uid: what their runtime calls them.
	Containers map[string]Names
	Pods       map[string]Names
	// NetnsNames by inode, escaped.
	NetnsNames map[uint32]string
}

// Cgroup is what the path of a control group says.
type Cgroup struct {
	Path           string
	Container, Pod string
	// Name is what the container's runtime calls it, where a filter asked for it.
	Name string
}

// Names are what the container runtime calls a container and its pod.
type Names struct {
	ContainerName string `json:"container_name,omitempty"`
	Image         string `json:"image,omitempty"`
	PodName       string `json:"pod_name,omitempty"`
	PodNamespace  string `json:"pod_namespace,omitempty"`
}

// Names returns what is known of a container, or at least of its pod, escaped. Either may be
// empty.
func (f *Facts) Names(container, pod string) Names {
	n, ok := f.Containers[container]
	if !ok {
		n = f.Pods[pod]
	}
	return Names{Escape(n.ContainerName), Escape(n.Image), Escape(n.PodName), Escape(n.PodNamespace)}
}

// NetnsName is what the network namespace is called, "" if nothing explains it.
func (f *Facts) NetnsName(inode uint32) string { return f.NetnsNames[inode] }

// ShortContainer shortens an id as the runtimes' own tools do; a name it leaves.
func ShortContainer(id string) string {
	if len(id) != 64 {
		return id
	}
	return id[:12]
}

// ContainerText is the name for people: what the runtime calls it, or the id.
func (n *Names) ContainerText(id string) string {
	if n.ContainerName != "" {
		return n.ContainerName
	}
	return ShortContainer(id)
}

// PodText is namespace/name, or the uid.
func (n *Names) PodText(uid string) string {
	if n.PodName != "" {
		return n.PodNamespace + "/" + n.PodName
	}
	return uid
}

// Process returns the facts of a pid, never nil.
func (f *Facts) Process(pid uint32) *owner.Process {
	if p := f.Processes[pid]; p != nil && pid != 0 {
		return p
	}
	return &unknownProcess
}

var unknownProcess owner.Process

// startUnit is the unit of start times in /proc, so that records of two runs agree.
const startUnit = 10 * time.Millisecond

// Started is the start time of a process, zero if unknown.
func (f *Facts) Started(b event.BootTime) Time {
	if b == 0 || f.Boot.IsZero() {
		return Time{}
	}
	// The wall time of boot moves with NTP's slewing; /proc gives starts to 10 ms.
	return Time{f.Boot.Add(time.Duration(b)).UTC().Round(startUnit)}
}

// Cmdline is the command line in one escaped string.
func Cmdline(p *owner.Process) string { return Escape(strings.Join(p.Cmdline, " ")) }

// Task names a process in a record.
type Task struct {
	Pid  uint32 `json:"pid"`
	Comm string `json:"comm"`
}

func taskOf(t *event.Task) Task { return Task{Pid: t.Pid, Comm: Escape(t.Comm.String())} }

// Owner is the process held responsible for a socket, and the fact that says so.
type Owner struct {
	Pid       uint32 `json:"pid,omitzero"`
	Tid       uint32 `json:"tid,omitzero"`
	Comm      string `json:"comm,omitempty"`
	Exe       string `json:"exe,omitempty"`
	Cmdline   string `json:"cmdline,omitempty"`
	StartTime Time   `json:"start_time,omitzero"`
	Unit      string `json:"unit,omitempty"`
	Container string `json:"container,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Names
	Evidence string `json:"evidence"`
}

func ownerOf(t *event.Task, e event.Evidence, f *Facts) Owner {
	if !t.Known() {
		return Owner{Evidence: event.EvidenceNone.String()}
	}
	p := f.Process(t.Pid)
	return Owner{
		Pid: t.Pid, Tid: t.Tid, Comm: Escape(t.Comm.String()),
		Exe: Escape(p.Exe), Cmdline: Cmdline(p),
		StartTime: f.Started(t.Start),
		Unit:      Escape(p.Unit), Container: Escape(p.Container), Pod: Escape(p.Pod),
		Names:    f.Names(p.Container, p.Pod),
		Evidence: e.String(),
	}
}
