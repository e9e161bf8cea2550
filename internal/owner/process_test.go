package owner_test

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/procfs"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/netns"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// patience bounds waiting for a fact; slow emulated machines need most of it.
const patience = 60 * time.Second

func newResolver(tb testing.TB, o owner.Options) *owner.Resolver {
	tb.Helper()
	r, err := owner.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// taskOf is the task as the kernel would give it, to a tick.
func taskOf(tb testing.TB, pid int) event.Task {
	tb.Helper()
	p, err := procfs.NewProc(pid)
	if err != nil {
		tb.Fatal(err)
	}
	stat, err := p.Stat()
	if err != nil {
		tb.Fatal(err)
	}
	return event.Task{Pid: uint32(pid), Start: event.BootTime(stat.Starttime * 10_000_000), Comm: event.MakeComm(stat.Comm)}
}

func TestLookupSelf(t *testing.T) {
	r := newResolver(t, owner.Options{})
	task := taskOf(t, os.Getpid())
	task.Start += 1234567 // the kernel's own is finer than the tick
	for _, tt := range []event.Task{task, {Pid: task.Pid}} {
		got, err := r.LookupFDs(tt)
		if err != nil {
			t.Fatal(err)
		}
		exe, _ := os.Executable()
		net, _ := netns.Of("/proc", task.Pid)
		if got.Pid != task.Pid || got.Exe != exe || !slices.Equal(got.Cmdline, os.Args) || got.Netns != net || got.Gone {
			t.Errorf("%+v", got)
		}
		if got.Start.Ticks() != task.Start.Ticks() || tt.Start != 0 && got.Start != tt.Start {
			t.Errorf("start %d, want %d", got.Start, task.Start)
		}
		if age := time.Since(got.StartTime); age < -time.Second || age > time.Hour {
			t.Errorf("started %v ago", age)
		}
		if got.FDsOpen < 3 || got.FDLimit < got.FDsOpen {
			t.Errorf("%d of %d descriptors", got.FDsOpen, got.FDLimit)
		}
	}
}

func TestLookupTellsReusedPids(t *testing.T) {
	r := newResolver(t, owner.Options{})
	task := taskOf(t, os.Getpid())
	for _, tt := range []struct {
		ticks int64
		gone  bool
	}{{0, false}, {1, false}, {-1, false}, {2, true}, {-2, true}, {500, true}} {
		shifted := task
		shifted.Start += event.BootTime(tt.ticks * 10_000_000)
		shifted.Comm = event.MakeComm("former")
		got, err := r.Lookup(shifted)
		if errors.Is(err, owner.ErrGone) != tt.gone || got.Gone != tt.gone {
			t.Errorf("%d ticks off: gone %v, %v; want %v", tt.ticks, got.Gone, err, tt.gone)
		}
		if tt.gone && (got.Comm != "former" || got.Exe != "" || got.StartTime.IsZero()) {
			t.Errorf("%d ticks off: %+v is not what the task knew", tt.ticks, got)
		}
	}
	if _, err := r.Lookup(event.Task{}); !errors.Is(err, owner.ErrUnknown) {
		t.Errorf("empty task: %v", err)
	}
}

func TestLookupRemembersTheDead(t *testing.T) {
	r := newResolver(t, owner.Options{})
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	alive := lookupProgram(t, r, taskOf(t, cmd.Process.Pid), "cat")
	// Before it ran the program it had the name of this one.
	task := taskOf(t, cmd.Process.Pid)
	_ = stdin.Close()
	_ = cmd.Wait()

	dead, err := r.Lookup(task)
	if !errors.Is(err, owner.ErrGone) || !dead.Gone || dead.Exe != alive.Exe || len(dead.Cmdline) != 1 {
		t.Errorf("remembered %+v: %v", dead, err)
	}
	stranger, err := newResolver(t, owner.Options{}).Lookup(task)
	if !errors.Is(err, owner.ErrGone) || !stranger.Gone || stranger.Exe != "" || stranger.Comm != alive.Comm {
		t.Errorf("never seen alive %+v: %v", stranger, err)
	}
}

func TestLookupZombieIsGone(t *testing.T) {
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	task := taskOf(t, cmd.Process.Pid)
	_ = stdin.Close()
	r := newResolver(t, owner.Options{})
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		_, err := r.Lookup(task)
		if errors.Is(err, owner.ErrGone) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("an exited process is alive: %v", err)
		}
	}
}

// lookupProgram waits until the process runs the program and has its name and arguments: exec.Cmd's
// Start returns while the kernel is still at it.
func lookupProgram(t *testing.T, r *owner.Resolver, task event.Task, name string) owner.Process {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		p, err := r.Lookup(task)
		if err == nil && p.Comm == name && len(p.Cmdline) > 0 && strings.HasSuffix(p.Cmdline[0], name) {
			return p
		}
		if time.Now().After(end) {
			t.Fatalf("%+v: %v", p, err)
		}
	}
}

// A shell that replaces itself keeps pid and start time.
func TestLookupSeesExec(t *testing.T) {
	cmd := exec.Command("sh", "-c", "read x; exec cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close(); _ = cmd.Wait() }()
	r := newResolver(t, owner.Options{})
	task := taskOf(t, cmd.Process.Pid)
	lookupProgram(t, r, task, "sh")
	if _, err := stdin.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		after, err := r.Lookup(task)
		if err != nil {
			t.Fatal(err)
		}
		if after.Comm == "cat" && len(after.Cmdline) == 1 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still %+v", after)
		}
	}
}

func TestLookupIsBoundedAndConcurrent(t *testing.T) {
	r := newResolver(t, owner.Options{Max: 1})
	tasks := []event.Task{taskOf(t, os.Getpid()), taskOf(t, os.Getppid())}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				want := tasks[i%2]
				if got, err := r.Lookup(want); err != nil || got.Pid != want.Pid {
					t.Errorf("%+v: %v", got, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestLookupCountsDescriptors(t *testing.T) {
	l := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: 1009})
	r := newResolver(t, owner.Options{})
	got, err := r.LookupFDs(taskOf(t, l.Pid))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/" + itoa(l.Pid) + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	if got.FDsOpen != uint64(len(entries)) || got.FDsOpen < 1009 {
		t.Errorf("%d descriptors, want %d", got.FDsOpen, len(entries))
	}
}

func TestNewNeedsProcfs(t *testing.T) {
	if _, err := owner.New(owner.Options{Proc: t.TempDir() + "/none"}); err == nil {
		t.Error("a missing procfs is not an error")
	}
}

func TestHostPidNS(t *testing.T) {
	host, err := owner.HostPidNS()
	if err != nil {
		t.Fatal(err)
	}
	link, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	if host != (link == "pid:[4026531836]") {
		t.Errorf("host %v in %s", host, link)
	}
}

func BenchmarkLookup(b *testing.B) {
	r := newResolver(b, owner.Options{})
	task := taskOf(b, os.Getpid())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Lookup(task); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLookupFDs(b *testing.B) {
	r := newResolver(b, owner.Options{})
	l := testenv.StartLeaker(b, testenv.Options{Cause: "eof_ignored", N: 15_000})
	task := taskOf(b, l.Pid)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.LookupFDs(task); err != nil {
			b.Fatal(err)
		}
	}
}
