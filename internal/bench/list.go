package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lister is a command that names the sockets in CLOSE_WAIT with who holds them.
type lister struct {
	name string
	argv []string
	// inside runs in the namespace of the sockets: others than ours see no further.
	inside bool
	peer   bool
	// max is the most sockets it is run with, 0 for all.
	max int
	// whole says whether so many lines are the answer for n sockets.
	whole func(lines, n int) bool
	// missing is why it cannot be run here.
	missing error
}

// The names of the listers.
const (
	listTable    = "list"
	listJSON     = "list -o json"
	listDiagnose = "diagnose --for 0"
	listFloor    = "floor: two iterators, binary"
	listSs       = "ss -tnp state close-wait"
	listSsAlone  = "ss -tn state close-wait"
	listLsof     = "lsof -nP -iTCP -sTCP:CLOSE_WAIT"
	listNetstat  = "netstat -tnp"
)

func (s *stage) listers() []lister {
	each := func(lines, n int) bool { return lines >= n }
	some := func(lines, _ int) bool { return lines > 0 }
	all := []lister{
		{name: listTable, argv: []string{s.agent, "list"}, whole: each},
		{name: listJSON, argv: []string{s.agent, "list", "-o", "jsonl"}, whole: each, max: 100_000},
		{name: listDiagnose, argv: []string{s.agent, "diagnose", "--for", "0"}, whole: some},
		{name: listFloor, argv: s.childCommand("floor-walk", 0, 0), inside: true, whole: some},
	}
	for name, max := range map[string]int{listSs: 500_000, listSsAlone: 0, listLsof: 500_000, listNetstat: 500_000} {
		argv := strings.Fields(name)
		_, err := exec.LookPath(argv[0])
		if err != nil {
			err = errors.New("not installed")
		}
		all = append(all, lister{name: name, argv: argv, inside: true, peer: true, whole: each, max: max, missing: err})
	}
	slices.SortStableFunc(all[4:], func(a, b lister) int { return strings.Compare(b.name, a.name) })
	return all
}

// listed is one run of a lister.
type listed struct {
	wall, cpu time.Duration
	// rss is the most that was resident, bytes.
	rss uint64
	// passes is the time of the iterators alone, of the floor.
	passes time.Duration
}

// counter counts lines, and keeps the first bytes.
type counter struct {
	lines int
	head  []byte
}

func (c *counter) Write(p []byte) (int, error) {
	c.lines += bytes.Count(p, []byte{'\n'})
	if len(c.head) < 256 {
		c.head = append(c.head, p[:min(len(p), 256)]...)
	}
	return len(p), nil
}

var errNotDone = errors.New("not done")

// runLister runs it once, with n sockets held, for so long at most.
func (s *stage) runLister(ctx context.Context, l lister, netns string, n int, patience time.Duration) (r listed, err error) {
	if l.missing != nil {
		return r, l.missing
	}
	var out counter
	c := command{argv: l.argv, stdout: &out, stderr: io.Discard}
	if l.inside {
		c.netns = netns
	}
	p, err := s.start(c)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.stop(p)) }()
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.done
		return r, fmt.Errorf("%w in %v", errNotDone, patience)
	case <-ctx.Done():
		return r, ctx.Err()
	}
	state := p.cmd.ProcessState
	if code := state.ExitCode(); code != 0 && (l.peer || code > 4) {
		return r, fmt.Errorf("ended with %d", code)
	}
	if !l.whole(out.lines, n) {
		return r, fmt.Errorf("%d lines for %d sockets", out.lines, n)
	}
	r = listed{wall: p.ended.Sub(p.began), cpu: state.UserTime() + state.SystemTime()}
	if ru, ok := state.SysUsage().(*syscall.Rusage); ok {
		r.rss = uint64(ru.Maxrss) << 10
	}
	if l.name == listFloor {
		r.passes, err = parseWalk(string(out.head), n)
	}
	return r, err
}

// parseWalk reads what the floor says, and checks that it met everybody.
func parseWalk(text string, n int) (time.Duration, error) {
	fields := strings.Fields(text)
	if len(fields) != 3 {
		return 0, fmt.Errorf("parse %q: want sockets, holders and ns", text)
	}
	var numbers [3]int64
	for i, f := range fields {
		var err error
		if numbers[i], err = strconv.ParseInt(f, 10, 64); err != nil {
			return 0, fmt.Errorf("parse %q: %w", text, err)
		}
	}
	if numbers[0] < int64(n) || numbers[1] < int64(n) {
		return 0, fmt.Errorf("it met %d sockets and %d holders of %d", numbers[0], numbers[1], n)
	}
	return time.Duration(numbers[2]), nil
}

// listPatience is how long a peer may take, and how often each is run, with so many sockets.
func (s *stage) listPatience(n int) (patience time.Duration, rounds int) {
	switch {
	case s.quick:
		return 10 * time.Second, 1
	case n <= 10_000:
		return 20 * time.Second, 5
	case n <= hundredThousand:
		return 30 * time.Second, 7
	case n <= 500_000:
		return 20 * time.Second, 1
	default:
		return time.Minute, 1
	}
}

// peerRounds is how often peers are run at most with many sockets, of which each takes seconds.
const peerRounds = 3

// list runs each lister with n sockets held, by turns, and keeps the medians.
func (s *stage) list(ctx context.Context, c *crowd) error {
	patience, rounds := s.listPatience(c.n)
	if err := settle(ctx); err != nil {
		return err
	}
	all := map[string][]listed{}
	for round := range s.rounds(rounds) {
		for _, l := range s.listers() {
			key := listKey(l.name, c.n)
			if s.report.missing[key] != "" || (l.peer && round >= peerRounds && c.n >= hundredThousand) {
				continue
			}
			if s.report.missing[listTool(l.name)] != "" {
				continue
			}
			if l.max > 0 && c.n > l.max {
				s.report.missing[key] = "not run with so many"
				continue
			}
			limit := patience
			if !l.peer {
				limit = childPatience
			}
			r, err := s.runLister(ctx, l, c.netns(), c.n, limit)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				s.report.fail(key, err)
				if errors.Is(err, errNotDone) {
					// More sockets will not make it faster.
					s.report.missing[listTool(l.name)] = "not done with fewer"
				}
				continue
			}
			s.report.say("%s: %v with %s sockets", l.name, r.wall.Round(time.Millisecond), thousands(float64(c.n)))
			all[key] = append(all[key], r)
		}
	}
	for key, runs := range all {
		s.report.set(key+"wall", medianBy(runs, func(r listed) float64 { return r.wall.Seconds() * 1e3 }))
		s.report.set(key+"cpu", medianBy(runs, func(r listed) float64 { return r.cpu.Seconds() * 1e3 }))
		s.report.set(key+"rss", medianBy(runs, func(r listed) float64 { return float64(r.rss) / (1 << 20) }))
		if strings.Contains(key, listFloor) {
			s.report.set(key+"passes", medianBy(runs, func(r listed) float64 { return r.passes.Seconds() * 1e3 }))
		}
	}
	return nil
}

func medianBy[T any](all []T, of func(T) float64) float64 {
	var values []float64
	for _, v := range all {
		values = append(values, of(v))
	}
	return median(values)
}

func listTool(name string) string { return "list/" + name + "/" }

func listKey(name string, n int) string { return listTool(name) + strconv.Itoa(n) + "/" }

// growth is the exponent of a lister's time from so many sockets on.
func (r *report) growth(name string, sizes []int, from int) float64 {
	var x, y []float64
	for _, n := range sizes {
		if wall, ok := r.values[listKey(name, n)+"wall"]; ok && n >= from {
			x, y = append(x, float64(n)), append(y, wall)
		}
	}
	return exponent(x, y)
}

// listTables has the time of each lister with each number of sockets, and what it used.
func (s *stage) listTables(sizes []int) {
	r := s.report
	head := []string{"wall ms with so many sockets"}
	for _, n := range sizes {
		head = append(head, thousands(float64(n)))
	}
	wall := &table{name: "list", head: append(head, "exponent")}
	cost := &table{name: "list_cost", head: []string{"CPU ms / most resident MiB"}}
	cost.head = append(cost.head, head[1:]...)
	for _, l := range s.listers() {
		row, costRow := []string{l.name}, []string{l.name}
		passes := []string{"of it the two passes"}
		for _, n := range sizes {
			key := listKey(l.name, n)
			cell, used := "-", "-"
			if ms, ok := r.values[key+"wall"]; ok {
				cell = number(ms)
				used = number(r.values[key+"cpu"]) + " / " + number(r.values[key+"rss"])
			} else if reason := r.why(key); reason != "" {
				cell = reason
			}
			row, costRow = append(row, cell), append(costRow, used)
			passes = append(passes, number(valueOr(r.values, key+"passes")))
		}
		e := r.growth(l.name, sizes, 10_000)
		r.set("growth/"+l.name, e)
		wall.rows = append(wall.rows, append(row, number(e)))
		cost.rows = append(cost.rows, costRow)
		if l.name == listFloor {
			wall.rows = append(wall.rows, append(passes, ""))
		}
	}
	r.add(wall)
	r.add(cost)
}

// valueOr is NaN for what was not measured.
func valueOr(values map[string]float64, key string) float64 {
	if v, ok := values[key]; ok {
		return v
	}
	return math.NaN()
}
