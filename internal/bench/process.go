package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/netns"
)

const (
	// endPatience is how long a process may take to end after SIGINT.
	endPatience = time.Minute
	// childPatience is how long a child may take for what it was told to do.
	childPatience = 2 * time.Minute
)

// command is a program to start.
type command struct {
	argv []string
	// netns is the path of the network namespace to start it in, "" ours; alone gives it a new
	// one.
	netns string
	alone bool
	// stdout is where its output goes, nil nowhere; stderr the same.
	stdout, stderr io.Writer
	// piped gives the process a standard input that ends when ours does, and lines to read.
	piped bool
}

// process is a program that was started.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner
	began time.Time
	done  chan struct{}
	// ended is when it was over, err why; both are set before done is closed.
	ended time.Time
	err   error
	once  sync.Once
}

// start never leaves a process behind: it dies with the thread that started it, and threads of
// this program live as long as the program.
func start(c command) (*process, error) {
	p := &process{cmd: exec.Command(c.argv[0], c.argv[1:]...), done: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	if c.alone {
		p.cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNET
	}
	p.cmd.Stdout, p.cmd.Stderr = c.stdout, c.stderr
	if c.piped {
		if err := p.pipe(); err != nil {
			return nil, err
		}
	}
	begin := func() error {
		p.began = time.Now()
		return p.cmd.Start()
	}
	var err error
	if c.netns == "" {
		err = begin()
	} else {
		err = netns.Do(c.netns, begin)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(c.argv[0]), err)
	}
	if !c.piped {
		// Otherwise Wait would close the pipe before all is read.
		go p.wait()
	}
	return p, nil
}

func (p *process) pipe() (err error) {
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	p.lines = bufio.NewScanner(out)
	return nil
}

func (p *process) wait() {
	p.once.Do(func() {
		p.err = p.cmd.Wait()
		p.ended = time.Now()
		close(p.done)
	})
	<-p.done
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// over reports whether it has ended.
func (p *process) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop ends it as Ctrl-C does, and by force if that does not help in time.
func (p *process) stop() error {
	if p.stdin != nil {
		_ = p.stdin.Close()
		go p.wait()
	} else if !p.over() {
		_ = p.cmd.Process.Signal(os.Interrupt)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(endPatience):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not end within %v", filepath.Base(p.cmd.Path), endPatience)
	}
}

// line reads the next line of a piped process.
func (p *process) line(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, childPatience)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })
	defer stop()
	if p.lines.Scan() {
		return p.lines.Text(), nil
	}
	return "", errors.Join(errors.New("no answer"), ctx.Err(), p.lines.Err())
}

// usage is what a process has used of the CPUs.
type usage struct{ user, total time.Duration }

func (u usage) minus(v usage) usage { return usage{u.user - v.user, u.total - v.total} }

// hz is USER_HZ, which is 100 on all that Linux runs on today.
const hz = 100

// usageOf reads it for a living process. The total is exact; the kernel knows the share of user
// time by sampling.
func usageOf(pid int) (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, fmt.Errorf("read CPU time: %w", err)
	}
	user, system, err := parseStat(string(stat))
	if err != nil {
		return usage{}, err
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return usage{}, err
	}
	u := usage{user: user}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		ns, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(ns, 10, 64)
		if err != nil {
			return usage{}, fmt.Errorf("parse %s: %w", path, err)
		}
		u.total += time.Duration(n)
	}
	u.total = max(u.total, user+system)
	return u, nil
}

// parseStat takes user and system time out of /proc/PID/stat.
func parseStat(stat string) (user, system time.Duration, err error) {
	end := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[end+1:])
	if end < 0 || len(fields) < 13 {
		return 0, 0, fmt.Errorf("parse stat %q: too short", stat)
	}
	for i, to := range []*time.Duration{&user, &system} {
		ticks, err := strconv.ParseInt(fields[11+i], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("parse stat: %w", err)
		}
		*to = time.Duration(ticks) * time.Second / hz
	}
	return user, system, nil
}

// memory is what a process has resident, bytes.
type memory struct {
	rss uint64
	// ring is the part that is maps of the kernel, mapped: the ring counts twice there.
	ring uint64
}

func memoryOf(pid int) (memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return memory{}, fmt.Errorf("read memory: %w", err)
	}
	return parseSmaps(text), nil
}

// parseSmaps adds up the Rss lines of /proc/PID/smaps.
func parseSmaps(text []byte) (m memory) {
	ring := false
	for line := range bytes.Lines(text) {
		first, rest, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		switch {
		case bytes.Equal(first, []byte("Rss:")):
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(string(rest)), " kB"), 10, 64)
			if err != nil {
				continue
			}
			m.rss += kib << 10
			if ring {
				m.ring += kib << 10
			}
		case !bytes.HasSuffix(first, []byte(":")):
			ring = bytes.Contains(line, []byte("bpf-map"))
		}
	}
	return m
}

// quiet waits until the process does little, for some seconds at most.
func (p *process) quiet(ctx context.Context) error {
	const (
		step = 100 * time.Millisecond
		// little is more than a reader that polls takes, and less than any that works.
		little = 5 * time.Millisecond
		steps  = 3
	)
	deadline := time.Now().Add(15 * time.Second)
	before, err := usageOf(p.pid())
	for calm := 0; calm < steps && err == nil && time.Now().Before(deadline); {
		if err = sleep(ctx, step); err != nil {
			break
		}
		var now usage
		if now, err = usageOf(p.pid()); err != nil {
			break
		}
		calm++
		if now.total-before.total > little {
			calm = 0
		}
		before = now
	}
	return err
}

// sleep ends early with ctx.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
