package owner

import (
	"container/list"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/netns"
)

// ErrGone says that the process ended, or its pid is another process by now.
var ErrGone = errors.New("process is gone")

// ErrUnknown says that the task carries no pid, so there is nothing to look up.
var ErrUnknown = errors.New("task is unknown")

// tick is the unit of start times in /proc/PID/stat.
const tick = 10 * time.Millisecond

// Process is what is known of one process. Empty strings and zero numbers are unknown.
type Process struct {
	Pid uint32
	// Start is the task's own, exact; where that was not recorded, the start of its tick.
	Start     event.BootTime
	StartTime time.Time
	// Comm, Exe and Cmdline come from the process and can hold any byte.
	Comm, Exe string
	Cmdline   []string
	// Unit is the systemd unit, Container the container's id, Pod the uid of the pod.
	Unit, Container, Pod string
	Netns                uint32
	// FDsOpen and FDLimit (the soft RLIMIT_NOFILE) are set by LookupFDs only.
	FDsOpen, FDLimit uint64
	// Gone: the process ended. What the resolver still remembered of it is filled in.
	Gone bool
}

// Options of a Resolver; the zero value is usable.
type Options struct {
	// Proc is where procfs is mounted, "" means /proc.
	Proc string
	// Max bounds how many processes are remembered, 0 means 4096.
	Max int
	// Boot is the wall time at boot; zero: taken from the kernel's clocks once.
	Boot time.Time
}

// Resolver looks processes up and remembers what does not change in their life. It
// may be used from several goroutines.
type Resolver struct {
	fs   procfs.FS
	proc string
	boot time.Time
	max  int

	mu      sync.Mutex
	entries map[identity]*list.Element // of *entry
	recent  list.List                  // most recently used first
}

// identity tells a reused pid apart: no pid is given out twice within a tick.
type identity struct {
	pid   uint32
	ticks uint64
}

type entry struct {
	id    identity
	image image
	proc  Process
}

// image changes when a process executes another program. The address of the stack is
// random for each and reads 0 where we may not trace the process.
type image struct {
	comm  string
	stack uint64
}

// New returns a Resolver. It fails where no procfs is mounted.
func New(o Options) (*Resolver, error) {
	if o.Proc == "" {
		o.Proc = procfs.DefaultMountPoint
	}
	if o.Max <= 0 {
		o.Max = 4096
	}
	tree, err := procfs.NewFS(o.Proc)
	if err != nil {
		return nil, fmt.Errorf("open procfs: %w", err)
	}
	if o.Boot.IsZero() {
		if o.Boot, err = bootTime(); err != nil {
			return nil, err
		}
	}
	return &Resolver{
		fs: tree, proc: o.Proc, boot: o.Boot, max: o.Max,
		entries: map[identity]*list.Element{},
	}, nil
}

// Boot is the wall time at which the host booted, by which start times were dated.
func (r *Resolver) Boot() time.Time { return r.boot }

// bootTime is the wall time at which CLOCK_BOOTTIME was 0. The btime line of /proc/stat
// says the same to a second only.
func bootTime() (time.Time, error) {
	var wall, boot unix.Timespec
	if err := errors.Join(
		unix.ClockGettime(unix.CLOCK_REALTIME, &wall),
		unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot),
	); err != nil {
		return time.Time{}, fmt.Errorf("read clocks: %w", err)
	}
	return time.Unix(0, wall.Nano()-boot.Nano()).UTC(), nil
}

// Lookup returns the facts of the task's process. Each call reads /proc/PID/stat, so that
// a process that ended or a pid that was reused is noticed: then the error is ErrGone
// and the result says what the task and an earlier Lookup knew. The rest is read
// once per process and again when it executed another program.
// A task without start time is taken at its pid's word.
func (r *Resolver) Lookup(t event.Task) (Process, error) {
	if t.Pid == 0 {
		return Process{}, ErrUnknown
	}
	p, stat, err := r.alive(t)
	if err != nil {
		if errors.Is(err, ErrGone) {
			return r.remains(t), err
		}
		return Process{Pid: t.Pid, Start: t.Start, Comm: t.Comm.String()}, err
	}
	id := identity{t.Pid, stat.Starttime}
	now := image{stat.Comm, stat.StartStack}
	if known, ok := r.recall(id); ok && known.image == now {
		return known.proc, nil
	}
	facts := r.read(t, p, stat)
	// In the middle of exec() a process has a program and no arguments yet.
	if facts.Exe == "" || len(facts.Cmdline) > 0 {
		r.remember(entry{id, now, facts})
	}
	return facts, nil
}

// LookupFDs is Lookup with the descriptors counted. Since Linux 6.2 that is one stat();
// before, the directory is read.
func (r *Resolver) LookupFDs(t event.Task) (Process, error) {
	facts, err := r.Lookup(t)
	if err != nil {
		return facts, err
	}
	// Where it ended just now the counts stay unknown; what Lookup saw was true.
	if p, err := r.fs.Proc(int(t.Pid)); err == nil {
		if n, err := p.FileDescriptorsLen(); err == nil {
			facts.FDsOpen = uint64(n)
		}
		if limits, err := p.Limits(); err == nil {
			facts.FDLimit = limits.OpenFiles
		}
	}
	return facts, nil
}

// alive returns the process behind t if it still is the same one.
func (r *Resolver) alive(t event.Task) (procfs.Proc, procfs.ProcStat, error) {
	p, err := r.fs.Proc(int(t.Pid))
	if err != nil {
		return p, procfs.ProcStat{}, lookupError(t.Pid, err)
	}
	stat, err := p.Stat()
	if err != nil {
		return p, stat, lookupError(t.Pid, err)
	}
	if t.Start != 0 && !sameTick(stat.Starttime, t.Start.Ticks()) {
		return p, stat, fmt.Errorf("pid %d belongs to another process now: %w", t.Pid, ErrGone)
	}
	// A zombie holds no descriptor any more, unless only its main thread has ended.
	if (stat.State == "Z" || stat.State == "X") && stat.NumThreads <= 1 {
		return p, stat, fmt.Errorf("pid %d has exited: %w", t.Pid, ErrGone)
	}
	return p, stat, nil
}

func lookupError(pid uint32, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("pid %d: %w", pid, ErrGone)
	}
	return fmt.Errorf("look up pid %d: %w", pid, err)
}

// sameTick allows for a start time that was rounded on its way.
func sameTick(a, b uint64) bool { return a == b || a == b+1 || a+1 == b }

// read collects the facts; each one that cannot be read stays unknown.
func (r *Resolver) read(t event.Task, p procfs.Proc, stat procfs.ProcStat) Process {
	facts := Process{Pid: t.Pid, Start: t.Start, Comm: stat.Comm}
	if facts.Start == 0 {
		facts.Start = event.BootTime(stat.Starttime) * event.BootTime(tick)
	}
	facts.StartTime = r.boot.Add(time.Duration(facts.Start))
	facts.Exe, _ = p.Executable()
	facts.Cmdline, _ = p.CmdLine()
	facts.Netns, _ = netns.Of(r.proc, t.Pid)
	if raw, err := r.readFile(t.Pid, "cgroup"); err == nil {
		g := ParseCgroup(raw)
		facts.Unit, facts.Container, facts.Pod = g.Unit, g.Container, g.Pod
	}
	return facts
}

// remains is what can be said of a process that is no longer there.
func (r *Resolver) remains(t event.Task) Process {
	if t.Start != 0 {
		for _, ticks := range []uint64{t.Start.Ticks(), t.Start.Ticks() - 1, t.Start.Ticks() + 1} {
			if known, ok := r.recall(identity{t.Pid, ticks}); ok {
				known.proc.Gone = true
				return known.proc
			}
		}
	}
	facts := Process{Pid: t.Pid, Start: t.Start, Comm: t.Comm.String(), Gone: true}
	if t.Start != 0 {
		facts.StartTime = r.boot.Add(time.Duration(t.Start))
	}
	return facts
}

func (r *Resolver) readFile(pid uint32, name string) ([]byte, error) {
	return os.ReadFile(r.proc + "/" + strconv.FormatUint(uint64(pid), 10) + "/" + name)
}

func (r *Resolver) recall(id identity) (entry, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	el, ok := r.entries[id]
	if !ok {
		return entry{}, false
	}
	r.recent.MoveToFront(el)
	return *el.Value.(*entry), true
}

func (r *Resolver) remember(e entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if el, ok := r.entries[e.id]; ok {
		el.Value = &e
		r.recent.MoveToFront(el)
		return
	}
	r.entries[e.id] = r.recent.PushFront(&e)
	if r.recent.Len() > r.max {
		oldest := r.recent.Remove(r.recent.Back()).(*entry)
		delete(r.entries, oldest.id)
	}
}
