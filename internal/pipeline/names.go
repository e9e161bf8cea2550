package pipeline

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/tcpwaitd/tcpwaitd/internal/cri"
	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/netns"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// CRIEndpointEnv is the variable that names the socket of the container runtime.
const CRIEndpointEnv = cri.EndpointEnv

// namer finds what people call containers, pods and network namespaces. Nothing depends on
// its answers: what it cannot find out stays without a name.
type namer struct {
	log      *slog.Logger
	proc     string
	hostPids bool
	runtimes *cri.Client
	warned   sync.Once
}

func newNamer(cfg *Config, log *slog.Logger) *namer {
	// Not known is as good as no: pid 1 then proves nothing.
	host, err := owner.HostPidNS()
	return &namer{
		log: log, proc: cfg.Proc, hostPids: host && err == nil,
		runtimes: cri.New(cri.Options{Endpoint: cfg.CRIEndpoint, Log: log}),
	}
}

// fill adds the names of all containers in f and of the network namespaces. It may be
// called again when f has grown.
func (n *namer) fill(f *record.Facts, inodes map[uint32]bool) {
	groups := map[owner.Cgroup]bool{}
	for _, p := range f.Processes {
		groups[owner.Cgroup{Container: p.Container, Pod: p.Pod}] = true
	}
	for _, g := range f.Cgroups {
		groups[owner.Cgroup{Container: g.Container, Pod: g.Pod}] = true
	}
	names, residents := n.spaces(inodes)
	for _, gs := range residents {
		for _, g := range gs {
			groups[g] = true
		}
	}
	f.Containers, f.Pods = n.ask(groups)
	if f.NetnsNames == nil {
		f.NetnsNames = names
	}
	maps.Copy(f.NetnsNames, names)
	for inode, gs := range residents {
		if name := spaceName(gs, f); name != "" {
			f.NetnsNames[inode] = name
		}
	}
}

// ask looks the groups up, by container and where there is none by pod.
func (n *namer) ask(groups map[owner.Cgroup]bool) (containers, pods map[string]record.Names) {
	var ids, uids []string
	for g := range groups {
		switch {
		case g.Container != "":
			ids = append(ids, g.Container)
		case g.Pod != "":
			uids = append(uids, g.Pod)
		}
	}
	containers, pods = map[string]record.Names{}, map[string]record.Names{}
	if len(ids)+len(uids) == 0 {
		return containers, pods
	}
	// What went wrong is told by the client, once a round.
	known, _ := n.runtimes.Lookup(context.Background(), ids, uids)
	for g := range groups {
		if c, ok := known.Containers[g.Container]; ok {
			containers[g.Container] = record.Names{
				ContainerName: c.Name, Image: c.Image, PodName: c.Pod.Name, PodNamespace: c.Pod.Namespace,
			}
		}
		if p, ok := known.Pods[g.Pod]; ok {
			pods[g.Pod] = record.Names{PodName: p.Name, PodNamespace: p.Namespace}
		}
	}
	return containers, pods
}

// container is what the runtime calls one container, "" if it does not say.
func (n *namer) container(id string) string {
	if id == "" {
		return ""
	}
	known, _ := n.runtimes.Lookup(context.Background(), []string{id}, nil)
	return known.Containers[id].Name
}

// warn says once why nothing has the name that was asked for.
func (n *namer) warn(f *filter.Filter) {
	if !f.NeedsNames() {
		return
	}
	if err := n.runtimes.Err(); err != nil {
		n.warned.Do(func() {
			n.log.Warn("--container finds ids only: the names of containers are not known", "error", err)
		})
	}
}

// spaces returns the names of network namespaces, and for those without one that
// a person chose which containers live there.
func (n *namer) spaces(inodes map[uint32]bool) (map[uint32]string, map[uint32][]owner.Cgroup) {
	names := map[uint32]string{}
	for inode := range inodes {
		names[inode] = ""
	}
	if len(names) == 0 {
		return names, nil
	}
	known := netns.Names(n.proc, n.hostPids)
	var unexplained []uint32
	for inode := range names {
		name, ok := known[inode]
		names[inode] = record.Escape(name.Text)
		if !ok || name.Generated {
			unexplained = append(unexplained, inode)
		}
	}
	if len(unexplained) == 0 {
		return names, nil
	}
	slices.Sort(unexplained)
	pids, err := netns.Residents(n.proc, unexplained)
	if err != nil {
		n.log.Debug("residents of network namespaces", "error", err)
	}
	residents := map[uint32][]owner.Cgroup{}
	for inode, pids := range pids {
		residents[inode] = n.containersOf(pids)
	}
	return names, residents
}

// containersOf returns the containers of the processes, each once. Processes in none, such
// as a shell that entered, are left out.
func (n *namer) containersOf(pids []uint32) []owner.Cgroup {
	all := map[owner.Cgroup]bool{}
	for _, pid := range pids {
		raw, err := os.ReadFile(filepath.Join(n.proc, strconv.FormatUint(uint64(pid), 10), "cgroup"))
		if err != nil {
			continue
		}
		if g := owner.ParseCgroup(raw); g.Container != "" {
			all[owner.Cgroup{Container: g.Container, Pod: g.Pod}] = true
		}
	}
	return slices.Collect(maps.Keys(all))
}

// spaceName, escaped, is the pod that lives in a namespace, or the one container. Where several that
// are not of one pod live there, none of them explains it.
func spaceName(groups []owner.Cgroup, f *record.Facts) string {
	if len(groups) == 0 {
		return ""
	}
	first := groups[0]
	for _, g := range groups[1:] {
		if g.Pod == "" || g.Pod != first.Pod {
			return ""
		}
	}
	names := f.Names(first.Container, first.Pod)
	for _, g := range groups {
		// A sandbox or a container the runtime does not know says less.
		if known := f.Names(g.Container, g.Pod); names.PodName == "" && known.PodName != "" {
			names = known
		}
	}
	switch {
	case names.PodName != "" || first.Pod != "":
		return "pod " + names.PodText(first.Pod)
	default:
		return "container " + names.ContainerText(first.Container)
	}
}
