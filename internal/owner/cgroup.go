package owner

import (
	"cmp"
	"slices"
	"strings"
)

// Cgroup is what the names in a cgroup path give away. Empty is "none".
type Cgroup struct {
	// Container is the id as the runtime prints it, 12 to 64 hex digits.
	Container string
	// Pod is the uid of the Kubernetes pod, with dashes.
	Pod string
	// Unit is the innermost systemd service or scope that is not itself a container.
	Unit string
}

// ParseCgroup reads /proc/PID/cgroup. On hosts with both hierarchies the fact is taken
// from the first line that has it: v2 first, then systemd's own v1 hierarchy, then the
// controllers.
func ParseCgroup(data []byte) Cgroup {
	type line struct {
		rank int
		path string
	}
	var lines []line
	for text := range strings.Lines(string(data)) {
		// hierarchy-id:controllers:path; only the path can contain colons.
		fields := strings.SplitN(strings.TrimSuffix(text, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		rank := 2
		switch fields[1] {
		case "":
			rank = 0
		case "name=systemd":
			rank = 1
		}
		lines = append(lines, line{rank, fields[2]})
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.rank, b.rank) })

	var all Cgroup
	for _, l := range lines {
		g := ParseCgroupPath(l.path)
		all.Container = cmp.Or(all.Container, g.Container)
		all.Pod = cmp.Or(all.Pod, g.Pod)
		all.Unit = cmp.Or(all.Unit, g.Unit)
	}
	return all
}

// ParseCgroupPath reads one path. Where containers are nested the innermost counts.
func ParseCgroupPath(path string) Cgroup {
	var g Cgroup
	parent := ""
	// The kernel marks a removed cgroup like this.
	for name := range strings.SplitSeq(strings.TrimSuffix(path, " (deleted)"), "/") {
		if uid := podUID(name); uid != "" {
			g.Pod = uid
		}
		if id := containerID(name, parent); id != "" {
			g.Container = id
		} else if isUnit(name) {
			g.Unit = name
		}
		parent = name
	}
	return g
}

func isUnit(name string) bool {
	stem, ok := strings.CutSuffix(name, ".service")
	if !ok {
		stem, ok = strings.CutSuffix(name, ".scope")
	}
	return ok && stem != ""
}

// runtimePrefixes are what runtimes put before the id. conmon's own scopes
// (libpod-conmon-<id>) are outside the container and do not match.
func runtimePrefixes() []string {
	return []string{"docker-", "cri-containerd-", "crio-", "libpod-payload-", "libpod-", "nerdctl-"}
}

// containerID returns the id if this path component names a container.
func containerID(name, parent string) string {
	// containerd writes slice:runtime:id where the cgroup drivers of it and the kubelet differ.
	if i := strings.LastIndexByte(name, ':'); i >= 0 {
		return ifID(name[i+1:], 12)
	}
	stem := strings.TrimSuffix(name, ".scope")
	for _, prefix := range runtimePrefixes() {
		if id, ok := strings.CutPrefix(stem, prefix); ok {
			return ifID(id, 12)
		}
	}
	// A bare number is an id under a parent that says so; otherwise only if it has the
	// full length: others name their cgroups in hex too.
	if parent == "docker" || podUID(parent) != "" {
		return ifID(name, 12)
	}
	return ifID(name, 64)
}

// ifID returns s if it is hex of at least the given length and at most 64.
func ifID(s string, least int) string {
	if len(s) < least || len(s) > 64 || !isHex(s) {
		return ""
	}
	return s
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// podUID takes the uid out of pod<uid> (cgroupfs) or
// kubepods-burstable-pod<uid, dashes written as _>.slice (systemd).
func podUID(name string) string {
	// A slice may be followed by :runtime:id, see containerID.
	name, _, _ = strings.Cut(name, ":")
	stem, isSlice := strings.CutSuffix(name, ".slice")
	if isSlice {
		i := strings.LastIndex(stem, "-pod")
		if i < 0 {
			return ""
		}
		stem = stem[i+1:]
	}
	uid, ok := strings.CutPrefix(stem, "pod")
	if !ok {
		return ""
	}
	uid = strings.ReplaceAll(uid, "_", "-")
	// Pods from files on the node (static pods) have 32 digits without dashes.
	digits := strings.ReplaceAll(uid, "-", "")
	if len(digits) != 32 || !isHex(digits) || len(uid) != 36 && len(uid) != 32 {
		return ""
	}
	return uid
}
