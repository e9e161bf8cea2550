package symbol

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// maxProcFile bounds what is read of /proc/PID/stat and status, in bytes.
const maxProcFile = 64 << 10

var (
	errGone       = errors.New("process is gone")
	errNotRegular = errors.New("not a regular file")
	errOwner      = errors.New("belongs to somebody else")
)

// rootKey tells the file systems of processes apart; zero is unknown. Containers that share
// an image do not share it, so that what one of them puts into its files is not believed of
// another one.
type rootKey struct {
	mount, inode uint64
	major, minor uint32
}

// root is the root directory of a process, as that process sees it. It is opened for one
// search and closed: held open, it would keep a container's mounts busy.
type root struct {
	fd  int
	key rootKey
}

// procDir is /proc/PID of one process: it keeps meaning that process when the pid is used
// again.
type procDir struct{ fd int }

// procfs is where it is mounted.
type procfs string

// open opens the directory of a process. Where its start is known, a process that started
// at another time is not meant.
func (proc procfs) open(p *object.Process) (*procDir, error) {
	fd, err := unix.Open(string(proc)+"/"+strconv.FormatUint(uint64(p.Pid), 10),
		unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", p.Pid, err)
	}
	d := &procDir{fd: fd}
	if err := d.check(p.Start); err != nil {
		d.close()
		return nil, fmt.Errorf("open process %d: %w", p.Pid, err)
	}
	return d, nil
}

// rootOf opens the root directory of a process.
func (proc procfs) rootOf(p *object.Process) (*root, error) {
	d, err := proc.open(p)
	if err != nil {
		return nil, err
	}
	defer d.close()
	return d.root()
}

func (d *procDir) close() { _ = unix.Close(d.fd) }

func (d *procDir) check(start event.BootTime) error {
	if start == 0 {
		return nil
	}
	raw, err := d.read("stat")
	if err != nil {
		return err
	}
	// The name in parentheses can hold anything, parentheses too.
	const startField = 22 - 3 // of those that follow the name
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(fields) <= startField {
		return errGone
	}
	ticks, err := strconv.ParseUint(fields[startField], 10, 64)
	// The kernel rounds on its way from nanoseconds to ticks.
	if want := start.Ticks(); err != nil || ticks+1 < want || ticks > want+1 {
		return errGone
	}
	return nil
}

// read reads a file of the process in procfs.
func (d *procDir) read(name string) ([]byte, error) {
	fd, err := unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxProcFile))
}

// identity is the pid of the process in its own pid namespace, and its user ids.
func (d *procDir) identity() (pid uint64, uids []uint32, err error) {
	raw, err := d.read("status")
	if err != nil {
		return 0, nil, fmt.Errorf("read process status: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		switch key {
		case "NSpid":
			if len(fields) > 0 {
				pid, err = strconv.ParseUint(fields[len(fields)-1], 10, 32)
			}
		case "Uid":
			for _, f := range fields {
				if uid, err := strconv.ParseUint(f, 10, 32); err == nil {
					uids = append(uids, uint32(uid))
				}
			}
		}
	}
	if err != nil || pid == 0 {
		return 0, nil, fmt.Errorf("read process status: no NSpid: %w", errGone)
	}
	return pid, uids, nil
}

// root opens the root directory of the process.
func (d *procDir) root() (*root, error) {
	fd, err := unix.Openat(d.fd, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root of process: %w", err)
	}
	return newRoot(fd)
}

// ownRoot is our own root directory.
func ownRoot() (*root, error) {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /: %w", err)
	}
	return newRoot(fd)
}

// newRoot takes over a directory.
func newRoot(fd int) (*root, error) {
	var st unix.Statx_t
	// DONT_SYNC: no word with the server of a network or user-space file system.
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO|unix.STATX_MNT_ID, &st)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("stat root directory: %w", err)
	}
	return &root{fd: fd, key: rootKey{mount: st.Mnt_id, inode: st.Ino, major: st.Dev_major, minor: st.Dev_minor}}, nil
}

func (r *root) close() { _ = unix.Close(r.fd) }

// open opens a regular file for reading. Symbolic links lead to where the process would get
// by them, never out of its root. Nothing but a regular file is opened, so that no device
// acts and no pipe blocks. flags may add unix.O_NOFOLLOW.
func (r *root) open(path string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(r.fd, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("open %s: %w", path, errNotRegular)
	}
	// By number, not by name: this is the file that was looked at.
	again, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return os.NewFile(uintptr(again), path), nil
}
