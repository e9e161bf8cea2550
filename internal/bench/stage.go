package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// stage is where the measuring happens: the programs built for it, the processes that run, and
// all that must be put back at the end.
type stage struct {
	// dir is a directory of our own; self is this program.
	dir, self string
	options
	report *report

	mu      sync.Mutex
	running map[*process]bool
	undo    []func() error
}

// newStage makes the directory and builds what is to be measured, unless o.agent names it.
func newStage(ctx context.Context, o options, r *report) (s *stage, err error) {
	s = &stage{options: o, report: r, running: map[*process]bool{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.self, err = os.Executable(); err != nil {
		return s, fmt.Errorf("find own program: %w", err)
	}
	if s.dir, err = os.MkdirTemp("", "tcpwaitd-bench-"); err != nil {
		return s, fmt.Errorf("make directory: %w", err)
	}
	s.undo = append(s.undo, func() error { return os.RemoveAll(s.dir) })
	s.mountTracefs()
	if s.agent == "" {
		s.agent, err = s.build(ctx, "./cmd/tcpwaitd")
	}
	return s, err
}

// build compiles a command of this module, as the tests do.
func (s *stage) build(ctx context.Context, dir string) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	path := filepath.Join(s.dir, filepath.Base(dir))
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, dir)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", dir, err, out)
	}
	return path, nil
}

// moduleRoot is the directory of go.mod.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// mountTracefs is for the peers: tcpwaitd needs none.
func (s *stage) mountTracefs() {
	const dir = "/sys/kernel/tracing"
	if _, err := os.Stat(filepath.Join(dir, "events")); err == nil {
		return
	}
	if err := unix.Mount("tracefs", dir, "tracefs", 0, ""); err != nil {
		s.report.note("tracefs cannot be mounted: %v", err)
		return
	}
	s.undo = append(s.undo, func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
}

// close ends what runs and puts everything back, the last first.
func (s *stage) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for p := range s.running {
		_ = p.cmd.Process.Kill()
		go p.wait()
		<-p.done
	}
	for i := range s.undo {
		errs = append(errs, s.undo[len(s.undo)-1-i]())
	}
	s.undo = nil
	return errors.Join(errs...)
}

// start starts a program that ends with the stage.
func (s *stage) start(c command) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := start(c)
	if err == nil {
		s.running[p] = true
	}
	return p, err
}

// stop ends it before.
func (s *stage) stop(p *process) error {
	err := p.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, p)
	return err
}

// childCommand starts this program as a child.
func (s *stage) childCommand(name string, n, index int) []string {
	return []string{s.self, childArg, name, "-n", strconv.Itoa(n), "-index", strconv.Itoa(index)}
}

// child starts one in a namespace (alone: one of its own) and waits until it is ready.
func (s *stage) child(ctx context.Context, name string, n, index int, netns string) (*process, error) {
	p, err := s.start(command{argv: s.childCommand(name, n, index), netns: netns, alone: netns == "", piped: true, stderr: os.Stderr})
	if err != nil {
		return nil, err
	}
	if _, err := p.line(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), s.stop(p))
	}
	return p, nil
}

// work starts children of one kind in namespaces of their own, lets them begin together, and
// returns the time until the last one is done.
//
// warmed, if not nil, is called after all are warm, and before time is taken.
func (s *stage) work(ctx context.Context, name string, workers, n int, warmed func() error) (took time.Duration, err error) {
	var all []*process
	defer func() {
		for _, p := range all {
			err = errors.Join(err, s.stop(p))
		}
	}()
	for i := range workers {
		p, err := s.child(ctx, name, n/workers, i, "")
		if err != nil {
			return 0, err
		}
		all = append(all, p)
	}
	if warmed != nil {
		if err := tellAll(ctx, all, warm); err != nil {
			return 0, err
		}
	}
	if err := settle(ctx); err != nil {
		return 0, err
	}
	if warmed != nil {
		if err := warmed(); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	if err := tellAll(ctx, all, "go"); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// settle waits until the processors are at rest: what is left of the last run's namespaces is not the
// next one's business. For a host that is never at rest it waits a second.
func settle(ctx context.Context) error {
	const (
		window  = 50 * time.Millisecond
		windows = 4
		tick    = 0.01 // seconds, of /proc/stat
	)
	until := time.Now().Add(time.Second)
	before, err := busy()
	for quiet := 0; quiet < windows && err == nil && time.Now().Before(until); {
		if err := sleep(ctx, window); err != nil {
			return err
		}
		var now float64
		now, err = busy()
		quiet++
		if now-before > tick*1.5 {
			quiet = 0
		}
		before = now
	}
	return err
}

// busy is how long all processors together have been busy, seconds.
func busy() (float64, error) {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return 0, fmt.Errorf("open /proc: %w", err)
	}
	stat, err := proc.Stat()
	if err != nil {
		return 0, fmt.Errorf("read CPU time of the host: %w", err)
	}
	t := stat.CPUTotal
	return t.User + t.Nice + t.System + t.IRQ + t.SoftIRQ, nil
}

// tellAll tells children what to do, and returns when all have answered.
func tellAll(ctx context.Context, all []*process, what string) error {
	for _, p := range all {
		if _, err := p.stdin.Write([]byte(what + "\n")); err != nil {
			return fmt.Errorf("tell %s: %w", what, err)
		}
	}
	for _, p := range all {
		if _, err := p.line(ctx); err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
	}
	return nil
}

// rounds is how often something is measured: as often as it should, unless -rounds says less.
func (s *stage) rounds(usual int) int {
	if s.most > 0 {
		return min(usual, s.most)
	}
	return usual
}
