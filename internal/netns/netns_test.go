package netns_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/netns"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

func TestDoEntersAndReturns(t *testing.T) {
	ns := testenv.NewNetns(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home := current(t)
	var inside uint32
	if err := netns.Do(ns.Path, func() (err error) {
		inside, err = netns.Current()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if inside != ns.Inode || current(t) != home || home == ns.Inode {
		t.Errorf("home %d, inside %d, want %d, then %d", home, inside, ns.Inode, current(t))
	}
}

func current(t *testing.T) uint32 {
	t.Helper()
	inode, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	return inode
}

// The main thread stands for the process in /proc, so not even for a moment may it be
// somewhere else.
func TestDoSparesTheMainThread(t *testing.T) {
	ns := testenv.NewNetns(t)
	for range 200 {
		if err := ns.Do(func() error {
			if unix.Gettid() == os.Getpid() {
				t.Error("runs on the main thread")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// The threads of the pool must stay at home, whatever fn does.
func TestDoLeavesNoThreadBehind(t *testing.T) {
	ns := testenv.NewNetns(t)
	errOwn := errors.New("own")
	for range 50 {
		if err := netns.Do(ns.Path, func() error { return errOwn }); !errors.Is(err, errOwn) {
			t.Fatalf("error of fn is lost: %v", err)
		}
		if err := netns.Do(ns.Path, func() error { runtime.Goexit(); return nil }); err == nil {
			t.Fatal("fn that ends its goroutine gives no error")
		}
	}
	home, err := netns.Of("/proc", uint32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	want := "net:[" + strconv.FormatUint(uint64(home), 10) + "]"
	// A thread that is not brought home ends with its goroutine, which is after Do has returned.
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		away := elsewhere(t, want)
		if len(away) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%v are not in %s", away, want)
		}
	}
}

// elsewhere are the threads of this process that are in another network namespace.
func elsewhere(t *testing.T, home string) (away []string) {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(threads) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, thread := range threads {
		if link, err := os.Readlink(thread); err == nil && link != home {
			away = append(away, thread)
		}
	}
	return away
}

func TestDoOwnNamespaceNeedsNoPrivilege(t *testing.T) {
	called := false
	if err := netns.Do("/proc/self/ns/net", func() error { called = true; return nil }); err != nil || !called {
		t.Errorf("called %v: %v", called, err)
	}
}

func TestDoGone(t *testing.T) {
	stale := filepath.Join(t.TempDir(), "stale")
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	dead := "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/net"
	for _, path := range []string{stale, dead, "/run/netns/never-there"} {
		err := netns.Do(path, func() error { t.Errorf("fn ran in %s", path); return nil })
		if !errors.Is(err, netns.ErrGone) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want gone", path, err)
		}
	}
	// A path that leads to another namespace than when it was listed.
	moved := netns.NS{Inode: 1, Path: "/proc/self/ns/net"}
	if err := moved.Do(func() error { return nil }); !errors.Is(err, netns.ErrGone) {
		t.Errorf("moved path: %v, want gone", err)
	}
	if err := netns.Do("/proc/self/ns/uts", func() error { return nil }); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("namespace of another kind: %v", err)
	}
}

func TestList(t *testing.T) {
	named := testenv.NewNetns(t)
	l := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: 1, Netns: named.Path})
	empty := testenv.NewNetns(t)

	all, err := netns.List("/proc")
	if err != nil && !errors.Is(err, fs.ErrPermission) { // a sandbox hides processes from root too
		t.Fatal(err)
	}
	seen := map[uint32]netns.NS{}
	for _, ns := range all {
		if _, twice := seen[ns.Inode]; twice {
			t.Errorf("%d is listed twice", ns.Inode)
		}
		seen[ns.Inode] = ns
	}
	if ns := seen[named.Inode]; ns.Name != named.Name || ns.Path != named.Path ||
		ns.Pid != uint32(min(l.Pid, l.Peer)) {
		t.Errorf("namespace with processes and name: %+v", ns)
	}
	if ns := seen[empty.Inode]; ns.Name != empty.Name || ns.Pid != 0 {
		t.Errorf("namespace without process: %+v", ns)
	}
	host := all[0]
	if host.Name != "host" {
		t.Errorf("the host's is not first: %+v", host)
	}
	for _, ns := range all {
		if err := ns.Do(func() error { return nil }); err != nil && !errors.Is(err, netns.ErrGone) {
			t.Errorf("%+v cannot be entered: %v", ns, err)
		}
	}
}

func BenchmarkList(b *testing.B) {
	for b.Loop() {
		if _, err := netns.List("/proc"); err != nil {
			if !errors.Is(err, fs.ErrPermission) {
				b.Fatal(err)
			}
		}
	}
}

// Of several names the one a person chose counts; a file without a namespace behind it
// names nothing.
func TestNames(t *testing.T) {
	ns := testenv.NewNetns(t)
	made := "cni-3f4e5d6c-7a8b-4c9d-8e0f-" + strconv.FormatInt(int64(1e11+os.Getpid()), 10)
	path := filepath.Join(filepath.Dir(ns.Path), made)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(path) })
	wantName := func(want netns.Name) {
		t.Helper()
		if got := netns.Names("/proc", true)[ns.Inode]; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	wantName(netns.Name{Text: ns.Name})
	if err := unix.Mount(ns.Path, path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	wantName(netns.Name{Text: ns.Name})
	if err := unix.Unmount(ns.Path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	wantName(netns.Name{Text: made, Generated: true})
}
