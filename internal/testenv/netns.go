package testenv

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/netns"
)

// netnsDir is where iproute2 keeps its names, so that `ip netns exec` works on ours.
const netnsDir = "/run/netns"

// Netns is a network namespace with the loopback interface up.
type Netns struct {
	Name, Path string
	Inode      uint32
}

// Do runs fn inside the namespace, see netns.Do.
func (n *Netns) Do(fn func() error) error { return netns.Do(n.Path, fn) }

// NewNetns makes a network namespace that ends with the test. It needs root but no
// iproute2.
func NewNetns(tb testing.TB) *Netns {
	tb.Helper()
	return newNetns(tb, func() error { return nil })
}

// NewNetnsOfOneBucket makes one whose connections all stand in the first bucket of a table of its
// own. Needs Linux 6.1.
func NewNetnsOfOneBucket(tb testing.TB) *Netns {
	tb.Helper()
	return newNetns(tb, func() error {
		// The setting is the parent's, which is left at once.
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		return os.WriteFile("/proc/sys/net/ipv4/tcp_child_ehash_entries", []byte("1"), 0)
	})
}

// newNetns calls before on the thread that will make the namespace.
func newNetns(tb testing.TB, before func() error) *Netns {
	tb.Helper()
	RequireRoot(tb)
	name := "tcpwaitd-test-" + strings.ToLower(rand.Text()[:8])
	n := &Netns{Name: name, Path: filepath.Join(netnsDir, name)}
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		tb.Fatalf("make namespace: %v", err)
	}
	f, err := os.OpenFile(n.Path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		tb.Fatalf("make namespace: %v", err)
	}
	_ = f.Close()
	tb.Cleanup(func() { n.remove(tb) })

	made := make(chan error, 1)
	go func() { made <- n.make(before) }()
	if err := <-made; err != nil {
		tb.Fatalf("make namespace %s: %v", name, err)
	}
	return n
}

// make must run on a goroutine of its own that ends with it: the thread stays in the new
// namespace and locked, so Go ends it.
func (n *Netns) make(before func() error) (err error) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// Go cannot end the main thread, and /proc/PID/ns/net shows it. While it is held here
		// the next goroutine gets another one.
		defer runtime.UnlockOSThread()
		made := make(chan error, 1)
		go func() { made <- n.make(before) }()
		return <-made
	}
	if err := before(); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if n.Inode, err = netns.Current(); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	if err := unix.Mount("/proc/thread-self/ns/net", n.Path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount at %s: %w", n.Path, err)
	}
	return nil
}

func (n *Netns) remove(tb testing.TB) {
	tb.Helper()
	// EINVAL: nothing is mounted there, because making it failed.
	if err := unix.Unmount(n.Path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		tb.Errorf("unmount %s: %v", n.Path, err)
	}
	if err := os.Remove(n.Path); err != nil {
		tb.Errorf("remove namespace: %v", err)
	}
}

// loopbackUp sets IFF_UP on lo in the calling thread's namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("name interface: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return fmt.Errorf("read flags of lo: %w", err)
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
