package testenv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroups is one mounted hierarchy of control groups.
type Cgroups struct {
	// Dir is where it is mounted.
	Dir string
}

// CgroupsV2 is the unified hierarchy. Where it is mounted nowhere it is, until the test ends.
func CgroupsV2(tb testing.TB) *Cgroups {
	tb.Helper()
	RequireRoot(tb)
	if dir := mounted(tb, "cgroup2", ""); dir != "" {
		return &Cgroups{dir}
	}
	return mountCgroups(tb, "cgroup2", "")
}

// CgroupsV1 is one of the old hierarchies: that of the pids controller where the machine has
// it, otherwise one without controllers that ends with the test.
func CgroupsV1(tb testing.TB) *Cgroups {
	tb.Helper()
	RequireRoot(tb)
	if dir := mounted(tb, "cgroup", "pids"); dir != "" {
		return &Cgroups{dir}
	}
	return mountCgroups(tb, "cgroup", fmt.Sprintf("none,name=tcpwaitd-test-%d", os.Getpid()))
}

// mounted finds a whole hierarchy in mountinfo, described in proc_pid_mountinfo(5).
func mounted(tb testing.TB, kind, option string) string {
	tb.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		before, after, _ := strings.Cut(line, " - ")
		at, super := strings.Fields(before), strings.Fields(after)
		if len(at) < 5 || len(super) < 3 || super[0] != kind || at[3] != "/" {
			continue
		}
		if option == "" || strings.Contains(","+super[2]+",", ","+option+",") {
			return at[4]
		}
	}
	return ""
}

func mountCgroups(tb testing.TB, kind, options string) *Cgroups {
	tb.Helper()
	dir := tb.TempDir()
	if err := unix.Mount("none", dir, kind, 0, options); err != nil {
		tb.Fatalf("mount %s %s: %v", kind, options, err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			tb.Errorf("unmount %s: %v", dir, err)
		}
	})
	return &Cgroups{dir}
}

// cgroupPatience is for processes that have ended to leave their groups.
const cgroupPatience = 60 * time.Second

// New makes the group and those above it; what it made ends with the test. Processes have to
// be gone by then.
func (c *Cgroups) New(tb testing.TB, path string) {
	tb.Helper()
	var made []string
	tb.Cleanup(func() {
		for i := len(made) - 1; i >= 0; i-- {
			removeCgroup(tb, made[i])
		}
	})
	dir := c.Dir
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		dir = filepath.Join(dir, name)
		switch err := os.Mkdir(dir, 0o755); {
		case err == nil:
			made = append(made, dir)
		case !errors.Is(err, os.ErrExist):
			tb.Fatalf("make control group: %v", err)
		}
	}
}

func removeCgroup(tb testing.TB, dir string) {
	tb.Helper()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Rmdir(dir)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return
		case errors.Is(err, unix.EBUSY) && hasCgroups(dir):
			return // another test's, which will be removed with it or stay for a third
		case time.Since(start) > cgroupPatience:
			tb.Errorf("remove control group %s: %v", dir, err)
			return
		}
	}
}

func hasCgroups(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if e.IsDir() {
			return true
		}
	}
	return false
}

// Procs is the file to write a pid into so that it moves to the group.
func (c *Cgroups) Procs(path string) string { return filepath.Join(c.Dir, path, "cgroup.procs") }

// Move moves a process and all its threads.
func (c *Cgroups) Move(tb testing.TB, path string, pid int) {
	tb.Helper()
	if err := os.WriteFile(c.Procs(path), []byte(strconv.Itoa(pid)), 0); err != nil {
		tb.Fatalf("move process %d: %v", pid, err)
	}
}
