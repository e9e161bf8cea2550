package netns

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// hostName is given to the namespace of pid 1, or to the kernel's first one where pid 1
// may not be looked at.
const hostName = "host"

// initIno is NET_NS_INIT_INO (include/uapi/linux/nsfs.h), fixed since Linux 6.18. Before,
// the first namespace had a number from the range above it, so it never misleads.
const initIno = 0xEFFFFFF9

// namedDirs is where namespaces are kept by name: iproute2 and CNI plugins, the same
// where /var/run is a directory of its own, and Docker.
func namedDirs() []string {
	return []string{"/run/netns", "/var/run/netns", "/run/docker/netns"}
}

// List returns every network namespace that a process lives in or that has a name,
// once each, the host's first and the rest by inode. proc is normally "/proc". What
// vanishes meanwhile is left out. Where processes may not be looked at, the list of
// the others comes together with an error that matches fs.ErrPermission.
//
// Not found are namespaces that only a thread (not the main one), an open descriptor
// or a socket keeps alive: the kernel gives no path to them.
func List(proc string) ([]NS, error) { return list(proc, namedDirs()) }

func list(proc string, dirs []string) ([]NS, error) {
	found := map[uint32]*NS{}
	denied, err := addProcesses(found, proc)
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		addNamed(found, dir)
	}
	all := make([]NS, 0, len(found))
	for _, ns := range found {
		all = append(all, *ns)
	}
	slices.SortFunc(all, func(a, b NS) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Inode, b.Inode))
	})
	if denied > 0 {
		err = fmt.Errorf("read the network namespace of %d processes: %w", denied, fs.ErrPermission)
	}
	return all, err
}

func rank(ns NS) int {
	if ns.Name == hostName {
		return 0
	}
	return 1
}

// addProcesses returns how many processes may not be looked at.
func addProcesses(found map[uint32]*NS, proc string) (denied int, err error) {
	dir, err := os.Open(proc)
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	for _, name := range names {
		pid, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			continue
		}
		switch inode, err := Of(proc, uint32(pid)); {
		case err == nil:
			addProcess(found, proc, inode, uint32(pid))
		case errors.Is(err, fs.ErrPermission):
			denied++
		case errors.Is(err, fs.ErrNotExist):
		default:
			return denied, err
		}
	}
	return denied, nil
}

func addProcess(found map[uint32]*NS, proc string, inode, pid uint32) {
	ns := found[inode]
	if ns == nil {
		ns = &NS{Inode: inode}
		found[inode] = ns
	}
	if ns.Pid == 0 || pid < ns.Pid {
		ns.Pid = pid
		ns.Path = proc + "/" + strconv.FormatUint(uint64(pid), 10) + "/ns/net"
	}
	if pid == 1 || inode == initIno {
		ns.Name = hostName
	}
}

// addNamed adds the bind mounts in dir. A directory that is not there or not ours to
// read, and files that are no namespace any more, say nothing.
func addNamed(found map[uint32]*NS, dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		f, inode, err := openNet(path)
		if err != nil {
			continue
		}
		_ = f.Close()
		ns := found[inode]
		if ns == nil {
			ns = &NS{Inode: inode}
			found[inode] = ns
		}
		if ns.Name == "" {
			ns.Name, ns.Path = e.Name(), path
		}
	}
}
