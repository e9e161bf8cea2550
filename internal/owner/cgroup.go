package owner

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Cgroup is what the names in a cgroup path give away. Empty is "none".
type Cgroup struct {
	// Container is the id as the runtime prints it: 12 to 64 hex digits, on ECS also 32 hex
	// digits, a dash and a number; for LXC and systemd-nspawn, which have no ids, the name.
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
	parent, ecs := "", false
	// The kernel marks a removed cgroup like this.
	for name := range strings.SplitSeq(strings.TrimSuffix(path, " (deleted)"), "/") {
		if uid := podUID(name); uid != "" {
			g.Pod = uid
		}
		ecs = ecs || name == "ecs"
		if id := containerID(name, parent, ecs); id != "" {
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
// (libpod-conmon-<id>, crio-conmon-<id>) are outside the container and do not match.
func runtimePrefixes() []string {
	return []string{"docker-", "cri-containerd-", "crio-", "libpod-payload-", "libpod-", "nerdctl-"}
}

// containerID returns the id if this path component names a container; ecs says that a
// component before it was ECS's own.
func containerID(name, parent string, ecs bool) string {
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
	if called := containerName(name, parent); called != "" {
		return called
	}
	if ecs && isFargateID(name) {
		return name
	}
	// A bare number is an id under a parent that says so; otherwise only if it has the
	// full length: others name their cgroups in hex too.
	if parent == "docker" || podUID(parent) != "" {
		return ifID(name, 12)
	}
	return ifID(name, 64)
}

// containerName is for containers that have a name only. LXC writes lxc.payload.<name>,
// 4.0 wrote lxc.payload/<name>, and before that it was lxc/<name>; lxc.monitor is
// outside. systemd-nspawn keeps the container in payload and itself in supervisor. A
// machine scope without payload can as well be a virtual machine.
func containerName(name, parent string) string {
	if called, ok := strings.CutPrefix(name, "lxc.payload."); ok {
		return called
	}
	if parent == "lxc" || parent == "lxc.payload" {
		return name
	}
	if name != "payload" {
		return ""
	}
	unit := strings.TrimPrefix(parent, "machine-")
	called, ok := strings.CutSuffix(unit, ".scope")
	if !ok || unit == parent {
		unit = strings.TrimPrefix(parent, "systemd-nspawn@")
		if called, ok = strings.CutSuffix(unit, ".service"); !ok || unit == parent {
			return ""
		}
	}
	return unescapeUnit(called)
}

// unescapeUnit undoes systemd's \xNN for the bytes that have a meaning in unit names
// (systemd.unit(5), "String escaping"). A dash for a slash is left: names have none.
func unescapeUnit(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' {
			if v, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// isFargateID: Fargate from platform 1.4 on has the task's 32 hex digits, a dash and a
// number.
func isFargateID(s string) bool {
	task, number, ok := strings.Cut(s, "-")
	_, err := strconv.ParseUint(number, 10, 64)
	return ok && len(task) == 32 && isHex(task) && err == nil
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
// kubepods-burstable-pod<uid, dashes written as _>.slice (systemd); some name the slice
// pod<uid>.slice.
func podUID(name string) string {
	// A slice may be followed by :runtime:id, see containerID.
	name, _, _ = strings.Cut(name, ":")
	stem, isSlice := strings.CutSuffix(name, ".slice")
	if i := strings.LastIndex(stem, "-pod"); isSlice && i >= 0 {
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
