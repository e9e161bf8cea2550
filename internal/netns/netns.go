// Package netns finds the network namespaces of the machine and runs code inside
// one of them.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrGone says that the namespace ended, or the process that led to it did. It matches
// fs.ErrNotExist.
var ErrGone = fmt.Errorf("network namespace is gone: %w", fs.ErrNotExist)

// NS is one network namespace and a way to reach it.
type NS struct {
	// Inode is the namespace's identity on this machine, as event.Flow.Netns.
	Inode uint32
	// Path can be opened to enter it. A named path is preferred: it outlives processes.
	Path string
	// Name is the bind mount's file name, "host" for the namespace of pid 1, "" unknown.
	Name string
	// Pid is the lowest process id living in it, 0 when it has a name only.
	Pid uint32
}

// Do runs fn inside the namespace. Unlike the function Do it notices when the path
// has come to lead elsewhere (a reused pid): that is ErrGone too.
func (ns NS) Do(fn func() error) error { return do(ns.Path, ns.Inode, fn) }

// Current returns the inode of the calling thread's network namespace.
func Current() (uint32, error) {
	inode, err := readLink("/proc/thread-self/ns/net")
	if err != nil {
		return 0, fmt.Errorf("read own network namespace: %w", err)
	}
	return inode, nil
}

// Of returns the inode of the network namespace that pid's main thread lives in.
func Of(proc string, pid uint32) (uint32, error) {
	dir := proc + "/" + strconv.FormatUint(uint64(pid), 10)
	inode, err := readLink(dir + "/ns/net")
	if errors.Is(err, fs.ErrPermission) {
		// The kernel says EACCES for a process that ended after its directory was opened,
		// too (proc_ns_readlink in fs/proc/namespaces.c).
		if _, statErr := os.Lstat(dir); errors.Is(statErr, fs.ErrNotExist) {
			err = ErrGone
		}
	}
	if err != nil {
		return 0, fmt.Errorf("read network namespace of pid %d: %w", pid, gone(err))
	}
	return inode, nil
}

// readLink reads a /proc namespace link without entering the namespace.
func readLink(path string) (uint32, error) {
	text, err := os.Readlink(path)
	if err != nil {
		return 0, err
	}
	return parseLink(text)
}

// parseLink takes the inode out of "net:[4026531833]".
func parseLink(text string) (uint32, error) {
	digits, ok := strings.CutPrefix(text, "net:[")
	digits, closed := strings.CutSuffix(digits, "]")
	inode, err := strconv.ParseUint(digits, 10, 32)
	if !ok || !closed || err != nil {
		return 0, fmt.Errorf("parse namespace link %q: want net:[inode]", text)
	}
	return uint32(inode), nil
}

// gone maps the kernel's ways to say "no longer there" to ErrGone.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		if errors.Is(err, ErrGone) {
			return err
		}
		return fmt.Errorf("%w (%w)", ErrGone, err)
	}
	return err
}

// Do runs fn on a thread of its own that is inside the network namespace at path,
// and waits for it. fn must not start goroutines that need the namespace, nor hand out
// its thread. The caller's own thread never moves, so a failure to go back can only
// cost the other thread, which is then ended and not reused.
//
// A path that no longer leads anywhere gives an error matching ErrGone and
// fs.ErrNotExist.
func Do(path string, fn func() error) error { return do(path, 0, fn) }

// errExited: fn left its goroutine by runtime.Goexit, as t.FailNow does.
var errExited = errors.New("function ended its goroutine")

func do(path string, want uint32, fn func() error) error {
	result := make(chan error, 1)
	go func() {
		err := errExited
		defer func() { result <- err }()
		err = enter(path, want, fn)
	}()
	return <-result
}

// enter must run on a goroutine that ends right after it: where the thread could not be
// brought back it stays locked, and Go ends a locked thread with its goroutine.
func enter(path string, want uint32, fn func() error) (err error) {
	runtime.LockOSThread()
	clean := true
	defer func() {
		if clean {
			runtime.UnlockOSThread()
		}
	}()
	if unix.Gettid() == os.Getpid() {
		// /proc/PID/ns/net shows the main thread, so it must never be seen elsewhere; nor can
		// Go end it. While it is held here the next goroutine gets another one.
		return do(path, want, fn)
	}

	target, inode, err := openNet(path)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, gone(err))
	}
	defer func() { _ = target.Close() }()
	if want != 0 && inode != want {
		return fmt.Errorf("open network namespace %s: it is %d now, not %d: %w", path, inode, want, ErrGone)
	}
	home, homeInode, err := openNet("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer func() { _ = home.Close() }()
	if inode == homeInode {
		return fn() // needs no privilege
	}

	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, gone(err))
	}
	clean = false
	defer func() {
		if backErr := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); backErr != nil {
			err = errors.Join(err, fmt.Errorf("leave network namespace %s: %w", path, backErr))
			return
		}
		clean = true
	}()
	return fn()
}

// openNet opens a namespace file and returns the inode of what it leads to.
func openNet(path string) (*os.File, uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	inode, err := inodeOf(f)
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, inode, nil
}

// inodeOf fails unless f is a network namespace: a name whose bind mount is gone
// leaves an ordinary empty file.
func inodeOf(f *os.File) (uint32, error) {
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &sfs); err != nil {
		return 0, fmt.Errorf("statfs: %w", err)
	}
	if sfs.Type != unix.NSFS_MAGIC {
		return 0, fmt.Errorf("not a namespace file, its bind mount is gone: %w", ErrGone)
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil {
		return 0, fmt.Errorf("ask for the kind of namespace: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return 0, fmt.Errorf("not a network namespace (kind %#x): %w", kind, syscall.EINVAL)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("stat: %w", err)
	}
	return uint32(st.Ino), nil
}
