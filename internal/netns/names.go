package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Name is what a network namespace is called.
type Name struct {
	Text string
	// Generated: a container runtime made the name up, so that it says little to people.
	Generated bool
}

// Names returns what namespaces are called, by inode: the host's is "host", the others have
// the names of their files (see List). Where a namespace has several, one that a person
// chose goes first. hostPids says whether proc shows the host's pids: elsewhere pid 1 can
// live in any namespace.
func Names(proc string, hostPids bool) map[uint32]Name { return names(proc, hostPids, namedDirs()) }

func names(proc string, hostPids bool, dirs []string) map[uint32]Name {
	all := map[uint32]Name{initIno: {Text: hostName}}
	if inode, err := Of(proc, 1); err == nil && hostPids {
		all[inode] = Name{Text: hostName}
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			f, inode, err := openNet(filepath.Join(dir, e.Name()))
			if err != nil {
				continue
			}
			_ = f.Close()
			name := Name{e.Name(), generated(e.Name())}
			if known, ok := all[inode]; !ok || known.Generated && !name.Generated {
				all[inode] = name
			}
		}
	}
	return all
}

// generated recognises cni-<uuid> (CNI plugins, containerd), netns-<uuid> (podman), <uuid>
// (CRI-O) and the 12 hex digits of Docker, which keeps "default" for the host's.
func generated(name string) bool {
	for _, prefix := range []string{"cni-", "netns-"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			name = rest
			break
		}
	}
	digits := strings.ReplaceAll(name, "-", "")
	for _, c := range digits {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(name) == 36 && len(digits) == 32 || len(name) == 12 && len(digits) == 12
}

// maxResidents is how many processes of one namespace Residents names: enough to tell
// whether one container alone lives there, without reading about all of a large one.
const maxResidents = 64

// Residents returns the processes that live in the namespaces asked for, by inode, the
// lowest pids first and not more than 64 each. What may not be looked at is left out.
func Residents(proc string, inodes []uint32) (map[uint32][]uint32, error) {
	found := map[uint32][]uint32{}
	dir, err := os.Open(proc)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer func() { _ = dir.Close() }()
	entries, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []uint32
	for _, e := range entries {
		if pid, err := strconv.ParseUint(e, 10, 32); err == nil {
			pids = append(pids, uint32(pid))
		}
	}
	slices.Sort(pids)
	for _, pid := range pids {
		inode, err := Of(proc, pid)
		if err == nil && slices.Contains(inodes, inode) && len(found[inode]) < maxResidents {
			found[inode] = append(found[inode], pid)
		}
	}
	return found, nil
}
