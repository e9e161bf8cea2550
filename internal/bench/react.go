package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// few runs list from nothing with few sockets, those of every cause of the leaker.
func (s *stage) few(ctx context.Context) (err error) {
	leaks, n, err := s.leaks(ctx)
	defer func() {
		for _, p := range leaks {
			err = errors.Join(err, s.stop(p))
		}
	}()
	if err != nil {
		return err
	}
	rounds := 23
	if s.quick {
		rounds = 3
	}
	var times []float64
	l := lister{name: listTable, argv: []string{s.agent, "list"}, whole: func(lines, n int) bool { return lines >= n }}
	for range s.rounds(rounds) {
		r, err := s.runLister(ctx, l, "", n, childPatience)
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		times = append(times, r.wall.Seconds()*1e3)
	}
	s.report.set("few/median", median(times))
	s.report.set("few/worst", slices.Max(times))
	s.report.set("few/sockets", float64(n))
	return nil
}

// perCause sockets are leaked in each way.
const perCause = 23

// leaks starts the leaker once for each cause, and says how many sockets list must show at
// least.
func (s *stage) leaks(ctx context.Context) (leaks []*process, n int, err error) {
	leaker, err := s.build(ctx, "./internal/testenv/leaker")
	if err != nil {
		return nil, 0, err
	}
	causes, err := causesOf(ctx, leaker)
	if err != nil {
		return nil, 0, err
	}
	home, err := s.child(ctx, "home", 0, 0, "")
	if err != nil {
		return nil, 0, err
	}
	leaks = append(leaks, home)
	for _, cause := range causes {
		p, err := s.start(command{
			argv:  []string{leaker, "-cause", cause, "-n", strconv.Itoa(perCause)},
			netns: fmt.Sprintf("/proc/%d/ns/net", home.pid()), piped: true, stderr: os.Stderr,
		})
		if err != nil {
			return leaks, 0, err
		}
		leaks = append(leaks, p)
	}
	for _, p := range leaks[1:] {
		if _, err := p.line(ctx); err != nil {
			return leaks, 0, fmt.Errorf("leak: %w", err)
		}
	}
	return leaks, perCause * len(causes), nil
}

// causesOf asks the leaker for what it knows, and leaves out what does not stand still.
func causesOf(ctx context.Context, leaker string) ([]string, error) {
	p, err := start(command{argv: []string{leaker, "-cause", "?"}, stderr: new(bytes.Buffer)})
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		_ = p.cmd.Process.Kill()
		<-p.done
		return nil, ctx.Err()
	}
	_, names, found := strings.Cut(p.cmd.Stderr.(*bytes.Buffer).String(), "want one of ")
	causes := slices.DeleteFunc(strings.Fields(names), func(name string) bool {
		return name == "healthy" || strings.HasPrefix(name, "grow")
	})
	if !found || len(causes) == 0 {
		return nil, errors.New("leaker names no causes")
	}
	return causes, nil
}

// fins measures how long it takes from the end of one side to the line of tail that says so.
func (s *stage) fins(ctx context.Context) (err error) {
	n := 211
	if s.quick {
		n = 23
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer func() { _ = r.Close() }()
	seen := watchFins(r)
	a, err := s.attachTo(ctx, s.tool(toolTailJSON), w)
	_ = w.Close()
	if err != nil {
		return err
	}
	ends, err := s.finTimes(ctx, n)
	if err == nil {
		err = sleep(ctx, 200*time.Millisecond)
	}
	if err := errors.Join(err, a.detach()); err != nil {
		return err
	}
	lines := seen()
	var delays []float64
	for port, at := range ends {
		if line, ok := lines[port]; ok {
			delays = append(delays, float64(line-at)/1e6)
		}
	}
	if len(delays) != n {
		return fmt.Errorf("fin: %d lines for %d ends", len(delays), n)
	}
	s.report.set("fin/median", median(delays))
	s.report.set("fin/worst", slices.Max(delays))
	return nil
}

// finTimes lets a child end connections, and returns when each ended, by its port.
func (s *stage) finTimes(ctx context.Context, n int) (ends map[int]int64, err error) {
	c, err := s.child(ctx, "fins", n, 0, "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop(c)) }()
	if _, err := c.stdin.Write([]byte("go\n")); err != nil {
		return nil, fmt.Errorf("begin fins: %w", err)
	}
	ends = map[int]int64{}
	for {
		line, err := c.line(ctx)
		if err != nil {
			return nil, fmt.Errorf("fins: %w", err)
		}
		if line == "end" {
			return ends, nil
		}
		var port int
		var at int64
		if _, err := fmt.Sscan(line, &port, &at); err != nil {
			return nil, fmt.Errorf("parse %q: %w", line, err)
		}
		ends[port] = at
	}
}

// watchFins reads records as they come, and returns a function that waits for the end and says
// when each connection to the load was seen entering CLOSE_WAIT, by the peer's port.
func watchFins(r io.Reader) func() map[int]int64 {
	seen := map[int]int64{}
	var done sync.WaitGroup
	done.Go(func() {
		const portField = `"rport":`
		for scanner := bufio.NewScanner(r); scanner.Scan(); {
			at := monotonic()
			line := scanner.Text()
			if !strings.Contains(line, `"new_state":"CLOSE_WAIT"`) || !ofLoad([]byte(line)) {
				continue
			}
			_, rest, _ := strings.Cut(line, portField)
			digits, _, _ := strings.Cut(rest, ",")
			if port, err := strconv.Atoi(digits); err == nil {
				seen[port] = at
			}
		}
	})
	return func() map[int]int64 {
		done.Wait()
		return seen
	}
}

// rest measures what tail and diagnose take of a CPU while nothing of ours happens.
func (s *stage) rest(ctx context.Context) error {
	long := 10 * time.Second
	if s.quick {
		long = time.Second
	}
	names := []string{toolTailJSON, toolDiagnose, toolStacks}
	if s.quick {
		names = names[:1]
	}
	for _, name := range names {
		share, seen, err := s.restOf(ctx, name, long)
		if err != nil {
			return fmt.Errorf("rest: %w", err)
		}
		s.report.set("rest/"+name, share*100)
		s.report.set("seen/"+name, seen)
	}
	return nil
}

// restOf returns the share of one CPU, and how many transitions the host made a second.
func (s *stage) restOf(ctx context.Context, name string, long time.Duration) (share, seen float64, err error) {
	a, err := s.attach(ctx, s.tool(name))
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, a.detach()) }()
	counting, err := countRuns()
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, counting.Close()) }()
	runs, err := transitionsOf(a.pid())
	if err != nil {
		return 0, 0, err
	}
	before, err := usageOf(a.pid())
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := sleep(ctx, long); err != nil {
		return 0, 0, err
	}
	after, err := usageOf(a.pid())
	if err != nil {
		return 0, 0, err
	}
	took := time.Since(began).Seconds()
	now, err := transitionsOf(a.pid())
	return after.minus(before).total.Seconds() / took, float64(now-runs) / took, err
}

// transitionsOf is how often a program at the tracepoint has run.
func transitionsOf(pid int) (uint64, error) {
	programs, err := programsOf(pid)
	var most uint64
	for _, p := range programs {
		if p.hook == setState {
			most = max(most, p.runs)
		}
	}
	return most, err
}

// reactTable has what few, fins and rest measured, as far as they ran.
func (r *report) reactTable() *table {
	t := &table{name: "react", head: []string{"what", "median", "worst"}}
	add := func(what, median, worst string, unit string) {
		cell := func(key string) string {
			if v, ok := r.values[key]; ok {
				return number(v) + unit
			}
			return notMeasured + ": " + r.why(key)
		}
		if _, ok := r.values[median]; !ok && r.why(median) == notRun {
			return
		}
		row := []string{what, cell(median), ""}
		if worst != "" {
			row[2] = cell(worst)
		}
		t.rows = append(t.rows, row)
	}
	add("`list` from nothing, "+number(valueOr(r.values, "few/sockets"))+" sockets", "few/median", "few/worst", " ms")
	add("FIN to the line of `tail -o json`", "fin/median", "fin/worst", " ms")
	for _, name := range []string{toolTailJSON, toolDiagnose, toolStacks} {
		what := "CPU of `" + name + "` at rest"
		if seen, ok := r.values["seen/"+name]; ok {
			what += " (the host made " + number(seen) + " transitions a second)"
		}
		add(what, "rest/"+name, "", " % of a core")
	}
	return t
}
