package owner

import (
	"bytes"
	"context"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// ringLink is what /proc shows of an io_uring's descriptor.
const ringLink = "anon_inode:[io_uring]"

// FixedFiles looks through the io_urings of all processes for fixed files that are one of
// the sockets, and returns them by inode; FD is the slot. The processes in first are looked
// at first. It ends when every socket was met once, or with ctx: it reads the descriptors of
// processes one by one, milliseconds for each thousand. A process that may not be looked at
// is left out, as is all on older kernels (6.12 among them), which do not say which socket it is.
func FixedFiles(ctx context.Context, proc string, inodes map[uint64]bool, first []uint32) map[uint64][]event.Holder {
	found := map[uint64][]event.Holder{}
	dir, err := os.Open(proc)
	if err != nil {
		return found
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return found
	}
	pids := slices.Clone(first)
	for _, name := range names {
		if pid, err := strconv.ParseUint(name, 10, 32); err == nil && !slices.Contains(first, uint32(pid)) {
			pids = append(pids, uint32(pid))
		}
	}
	for _, pid := range pids {
		if ctx.Err() != nil || len(found) == len(inodes) {
			break
		}
		fixedOf(proc, pid, inodes, found)
	}
	return found
}

// fixedOf adds what one process has.
func fixedOf(proc string, pid uint32, inodes map[uint64]bool, found map[uint64][]event.Holder) {
	base := proc + "/" + strconv.FormatUint(uint64(pid), 10)
	entries, err := os.ReadDir(base + "/fd")
	if err != nil {
		return
	}
	var task event.Task
	for _, e := range entries {
		if link, err := os.Readlink(base + "/fd/" + e.Name()); err != nil || link != ringLink {
			continue
		}
		info, err := os.ReadFile(base + "/fdinfo/" + e.Name())
		if err != nil {
			continue
		}
		for slot, inode := range fixedSockets(info) {
			if !inodes[inode] {
				continue
			}
			if !task.Known() {
				task = taskOfProc(proc, pid)
			}
			found[inode] = append(found[inode], event.Holder{Task: task, FD: slot})
		}
	}
}

// taskOfProc gives up to the pid alone where the process has ended meanwhile.
func taskOfProc(proc string, pid uint32) event.Task {
	t := event.Task{Pid: pid, Tid: pid}
	fs, err := procfs.NewFS(proc)
	if err != nil {
		return t
	}
	p, err := fs.Proc(int(pid))
	if err != nil {
		return t
	}
	if stat, err := p.Stat(); err == nil {
		t.Comm = event.MakeComm(stat.Comm)
		t.Start = event.BootTime(stat.Starttime) * event.BootTime(tick)
	}
	return t
}

// fixedSockets reads the list after UserFiles: in an io_uring's fdinfo (io_uring/fdinfo.c),
// lines such as "    3: socket:[4622098]". It returns inodes by slot.
func fixedSockets(info []byte) map[int32]uint64 {
	slots := map[int32]uint64{}
	_, list, ok := bytes.Cut(info, []byte("\nUserFiles:"))
	if !ok {
		return slots
	}
	_, list, _ = bytes.Cut(list, []byte("\n"))
	for line := range strings.Lines(string(list)) {
		// The list ends with the next word at the beginning of a line.
		number, name, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || line[0] != ' ' {
			break
		}
		slot, err := strconv.ParseInt(number, 10, 32)
		digits, isSocket := strings.CutPrefix(name, "socket:[")
		digits, closed := strings.CutSuffix(digits, "]")
		inode, inodeErr := strconv.ParseUint(digits, 10, 64)
		if err == nil && isSocket && closed && inodeErr == nil {
			slots[int32(slot)] = inode
		}
	}
	return slots
}
