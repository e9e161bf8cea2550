package owner

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kernfsHandle is FILEID_KERNFS (the kernel's enum fid_type): a handle that is the
// 64-bit id of the node.
const kernfsHandle = 0xfe

// CgroupTree finds cgroup v2 paths by the id the kernel keeps with each socket.
type CgroupTree struct {
	mount *os.File
	found map[uint64]place
}

// place is where a cgroup is, and what that gives away: parsed once, for every transition
// of a busy host asks.
type place struct {
	path  string
	known Cgroup
}

// OpenCgroupTree finds where cgroup2 is mounted by proc's mountinfo. Not for use
// from several goroutines.
func OpenCgroupTree(proc string) (*CgroupTree, error) {
	text, err := os.ReadFile(proc + "/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroup2: %w", err)
	}
	at := cgroup2Mount(string(text))
	if at == "" {
		return nil, fmt.Errorf("find cgroup2: %w", os.ErrNotExist)
	}
	mount, err := os.Open(at)
	if err != nil {
		return nil, fmt.Errorf("open cgroup2: %w", err)
	}
	return &CgroupTree{mount: mount, found: map[uint64]place{}}, nil
}

// cgroup2Mount returns the mount point, "" if there is none. The fields are described
// in proc_pid_mountinfo(5).
func cgroup2Mount(mountinfo string) string {
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if ok && len(fields) >= 5 && strings.HasPrefix(after, "cgroup2 ") {
			return fields[4]
		}
	}
	return ""
}

// maxFound bounds what is remembered; cgroups come and go with containers.
const maxFound = 4096

// Find returns the path below the root of the hierarchy, "/" for the root, "" where the
// cgroup is gone or the id is 0, and what ParseCgroupPath says of it. It needs
// CAP_DAC_READ_SEARCH.
func (t *CgroupTree) Find(id uint64) (string, Cgroup) {
	if id == 0 {
		return "", Cgroup{}
	}
	if p, ok := t.found[id]; ok {
		return p.path, p.known
	}
	path := t.find(id)
	if path == "" {
		return "", Cgroup{}
	}
	if len(t.found) >= maxFound {
		clear(t.found)
	}
	p := place{path, ParseCgroupPath(path)}
	t.found[id] = p
	return p.path, p.known
}

func (t *CgroupTree) find(id uint64) string {
	var raw [8]byte
	binary.NativeEndian.PutUint64(raw[:], id)
	fd, err := unix.OpenByHandleAt(int(t.mount.Fd()), unix.NewFileHandle(kernfsHandle, raw[:]), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	full, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil || strings.HasSuffix(full, " (deleted)") {
		return ""
	}
	path, ok := strings.CutPrefix(full, t.mount.Name())
	switch {
	case !ok:
		return ""
	case path == "":
		return "/"
	default:
		return path
	}
}

// Close frees the descriptor.
func (t *CgroupTree) Close() error { return t.mount.Close() }
