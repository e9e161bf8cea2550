package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sizes are how many sockets are held, one after the other.
func (s *stage) sizes() []int {
	if s.quick {
		return []int{1000}
	}
	all := []int{1000, 10_000, hundredThousand, 500_000, million}
	return slices.DeleteFunc(all, func(n int) bool { return n > s.sockets })
}

// held measures with more and more sockets held: the listers, the memory of a live watcher, and
// how long it takes to the first verdict.
func (s *stage) held(ctx context.Context) (err error) {
	c, err := s.newCrowd(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.end()) }()
	if err := s.noteOthers(ctx); err != nil {
		return err
	}
	if err := s.watcherMemory(ctx, 0); err != nil {
		return err
	}
	sizes := s.sizes()
	for _, n := range sizes {
		if err := s.heldAt(ctx, c, n); err != nil {
			s.failAt(n, err)
		}
	}
	s.listTables(sizes)
	s.memoryTable(append([]int{0}, sizes...))
	return ctx.Err()
}

// noteOthers says so if the host has sockets of its own that ours list, and others do not.
func (s *stage) noteOthers(ctx context.Context) error {
	const few = 100
	var out counter
	p, err := s.start(command{argv: []string{s.agent, "list"}, stdout: &out, stderr: io.Discard})
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
	}
	if err := errors.Join(ctx.Err(), s.stop(p)); err != nil {
		return err
	}
	if out.lines > few {
		s.report.note("%s sockets in CLOSE_WAIT are not of this run: tcpwaitd lists them too", thousands(float64(out.lines)))
	}
	return nil
}

// heldAt measures with n sockets. An error is for what was to come after it as well.
func (s *stage) heldAt(ctx context.Context, c *crowd, n int) error {
	began := time.Now()
	if err := c.grow(ctx, n); err != nil {
		return err
	}
	s.report.say("%s sockets are held by %d processes after %v",
		thousands(float64(n)), len(c.holders), time.Since(began).Round(time.Millisecond))
	if err := s.list(ctx, c); err != nil {
		return err
	}
	if err := s.watcherMemory(ctx, n); err != nil {
		s.report.fail(memoryKey(n), err)
	}
	if err := s.verdict(ctx, n); err != nil {
		s.report.fail(memoryKey(n)+"verdict", err)
	}
	return ctx.Err()
}

// failAt: what is not yet measured with n sockets never will be.
func (s *stage) failAt(n int, err error) {
	for _, l := range s.listers() {
		if key := listKey(l.name, n); s.report.missing[key] == "" {
			s.report.missing[key] = reasonOf(err)
		}
	}
	s.report.fail(memoryKey(n), err)
}

func memoryKey(n int) string { return "memory/" + strconv.Itoa(n) + "/" }

// watcherMemory starts a watcher with n sockets held and keeps what it and the kernel take.
func (s *stage) watcherMemory(ctx context.Context, n int) (err error) {
	before, err := slabs()
	if err != nil {
		return err
	}
	free := meminfo()["SUnreclaim"]
	a, err := s.attach(ctx, s.tool(toolDiagnose))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.detach()) }()
	m, err := memoryOf(a.pid())
	if err != nil {
		return err
	}
	after, err := slabs()
	if err != nil {
		return err
	}
	key := memoryKey(n)
	s.report.set(key+"rss", float64(m.rss)/(1<<20))
	s.report.set(key+"own", float64(m.rss-m.ring)/(1<<20))
	if n > 0 {
		s.report.set(key+"kernel", perSocket(before, after, n))
		s.report.set(key+"slab", (float64(meminfo()["SUnreclaim"])-float64(free))/float64(n))
	}
	return nil
}

// tool finds one by its name; all names are constants of this package.
func (s *stage) tool(name string) tool {
	for _, t := range s.tools() {
		if t.name == name {
			return t
		}
	}
	return tool{name: name, missing: errors.New("no such tool")}
}

// slab is one cache of the kernel's allocator.
type slab struct {
	objects, size uint64
}

// slabs reads them by name.
func slabs() (map[string]slab, error) {
	f, err := os.Open("/proc/slabinfo")
	if err != nil {
		return nil, fmt.Errorf("read slabs: %w", err)
	}
	defer func() { _ = f.Close() }()
	return parseSlabs(f)
}

func parseSlabs(r io.Reader) (map[string]slab, error) {
	found := map[string]slab{}
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) < 4 || strings.HasPrefix(fields[0], "#") || fields[0] == "slabinfo" {
			continue
		}
		var numbers [3]uint64
		for i := range numbers {
			var err error
			if numbers[i], err = strconv.ParseUint(fields[1+i], 10, 64); err != nil {
				return nil, fmt.Errorf("parse slab %s: %w", fields[0], err)
			}
		}
		found[fields[0]] = slab{objects: numbers[0], size: numbers[2]}
	}
	return found, scanner.Err()
}

// perSocket is how many bytes the kernel allocated for each of n sockets: in caches that grew by
// at least half an object for each. Others grew for other reasons.
func perSocket(before, after map[string]slab, n int) float64 {
	var bytes uint64
	for name, a := range after {
		if grown := int64(a.objects) - int64(before[name].objects); grown >= int64(n)/2 {
			bytes += uint64(grown) * a.size
		}
	}
	return float64(bytes) / float64(n)
}

func (s *stage) memoryTable(sizes []int) {
	t := &table{name: "memory", head: []string{
		"open waits", "agent resident MiB", "without the ring MiB", "kernel bytes a socket (slab objects)", "all slabs grew, bytes a socket", "first verdict ms",
	}}
	for _, n := range sizes {
		row := []string{thousands(float64(n))}
		for _, key := range []string{"rss", "own", "kernel", "slab", "verdict"} {
			row = append(row, number(valueOr(s.report.values, memoryKey(n)+key)))
		}
		t.rows = append(t.rows, row)
	}
	s.report.add(t)
}

// firstVerdict is what diagnose says as soon as it has seen the present.
const firstVerdict = "at present "

// verdict measures the time from the start of diagnose to the first it says of the sockets.
func (s *stage) verdict(ctx context.Context, n int) error {
	rounds := 5
	if s.quick || n > hundredThousand {
		rounds = 1
	}
	var times []float64
	for range s.rounds(rounds) {
		took, err := s.verdictOnce(ctx)
		if err != nil {
			return fmt.Errorf("first verdict: %w", err)
		}
		times = append(times, took.Seconds()*1e3)
	}
	s.report.set(memoryKey(n)+"verdict", median(times))
	return nil
}

func (s *stage) verdictOnce(ctx context.Context) (took time.Duration, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("make pipe: %w", err)
	}
	defer func() { _ = r.Close() }()
	p, err := s.start(command{argv: []string{s.agent, "diagnose", "-v", "--for", watch}, stderr: w, stdout: io.Discard})
	_ = w.Close()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.stop(p)) }()
	kill := time.AfterFunc(childPatience, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	defer context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })()
	for scanner := bufio.NewScanner(r); scanner.Scan(); {
		if strings.HasPrefix(scanner.Text(), firstVerdict) {
			took = time.Since(p.began)
			// What it says while it ends must not block it.
			go func() { _, _ = io.Copy(io.Discard, r) }()
			return took, nil
		}
	}
	return 0, errors.Join(errors.New("it ended without one"), ctx.Err())
}
