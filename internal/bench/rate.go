package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// rated is one run of churn with one tool attached.
type rated struct {
	// rate is in connections a second, beside that with nothing attached, just before.
	rate, beside float64
	// user and total are the tool's CPU time for each transition of the load, in µs.
	user, total float64
	// missing is how many transitions it did not write, of those it should have; said is how
	// many it says it lost.
	missing, said, made int
	// timed of those made were made while time was taken.
	timed int
}

// workersOf are the numbers of workers: with one the other CPU is free for the tool.
func workersOf() []int { return []int{1, 4} }

// rateLoad is how many connections a run makes, peers have fewer, and how many rounds.
func (s *stage) rateLoad(t tool) (connections, rounds int) {
	switch {
	case s.quick:
		return 1996, 1
	case t.peer:
		return 10_004, 3
	default:
		return 20_004, 9
	}
}

// rateBudget is the time after which no more rounds begin.
const rateBudget = 8 * time.Minute

// rate measures how many short connections a second the host makes with each tool attached,
// what the tool uses for it, and what it loses.
func (s *stage) rate(ctx context.Context) error {
	tools := s.tools()
	results := map[string][]rated{}
	counts := workersOf()
	if s.quick {
		counts = counts[1:]
	}
	for _, workers := range counts {
		deadline := time.Now().Add(rateBudget / time.Duration(len(counts)))
		for round := 0; s.rateRound(ctx, tools, workers, round, results); round++ {
			// Whole rounds only: a tool that is left out would be compared with other moments.
			if _, most := s.rateLoad(tool{}); round+1 < s.rounds(most) && time.Now().After(deadline) {
				s.report.note("churn with %s was measured %d times, then time was up", workersText(workers), round+1)
				break
			}
		}
	}
	for _, workers := range counts {
		s.setRates(tools, workers, results)
	}
	s.report.add(rateTable(tools, counts, s.report))
	return ctx.Err()
}

func workersText(n int) string {
	if n == 1 {
		return "1 worker"
	}
	return strconv.Itoa(n) + " workers"
}

// rateRound measures each tool that needs another round, and reports whether any did.
func (s *stage) rateRound(ctx context.Context, tools []tool, workers, round int, results map[string][]rated) (more bool) {
	for i := range tools {
		// Each round begins with another one: what a run leaves behind falls on all alike.
		t := tools[(round+i)%len(tools)]
		if t.argv == nil {
			continue
		}
		n, rounds := s.rateLoad(t)
		if round >= s.rounds(rounds) || s.report.missing[rateTool(t.name)] != "" || ctx.Err() != nil {
			continue
		}
		more = true
		// The speed of the machine changes within seconds.
		none, err := s.rateOf(ctx, tool{name: toolNothing}, workers, n)
		if err != nil {
			s.report.fail(rateTool(toolNothing), err)
			continue
		}
		one, err := s.rateOf(ctx, t, workers, n)
		if err != nil {
			s.report.fail(rateTool(t.name), err)
			continue
		}
		one.beside, none.beside = none.rate, none.rate
		s.report.say("%s, %s: %s connections/s beside %s", t.name, workersText(workers), number(one.rate), number(none.rate))
		key, free := rateKey(t.name, workers), rateKey(toolNothing, workers)
		results[key], results[free] = append(results[key], *one), append(results[free], *none)
	}
	return more
}

func rateTool(name string) string { return "rate/" + name + "/" }

func rateKey(name string, workers int) string { return rateTool(name) + strconv.Itoa(workers) + "/" }

// rateOf is one run.
func (s *stage) rateOf(ctx context.Context, t tool, workers, connections int) (r *rated, err error) {
	a, err := s.attach(ctx, t)
	if err != nil {
		return nil, err
	}
	var before usage
	if a != nil {
		// finish detaches on the way that is no error.
		defer func() {
			if err != nil {
				err = errors.Join(err, a.detach())
			}
		}()
	}
	took, err := s.work(ctx, "churn", workers, connections, func() (err error) {
		if a != nil {
			before, err = usageOf(a.pid())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	r = &rated{rate: float64(connections) / took.Seconds(), timed: connections * perConnection}
	r.made = r.timed + workers*(warmUp*perConnection+perWorker)
	if a == nil {
		return r, nil
	}
	return r, a.account(ctx, before, r)
}

// account waits until the tool is done with what came, and notes what it took.
func (a *attached) account(ctx context.Context, before usage, r *rated) error {
	if err := a.quiet(ctx); err != nil {
		return err
	}
	now, err := usageOf(a.pid())
	if err != nil {
		return err
	}
	used := now.minus(before)
	r.user, r.total = used.user.Seconds()*1e6/float64(r.timed), used.total.Seconds()*1e6/float64(r.timed)
	lines, lost, err := a.finish()
	if err != nil {
		return fmt.Errorf("end %s: %w", a.name, err)
	}
	r.said = lost
	if a.wanted != nil {
		r.missing = r.made - lines
	}
	return nil
}

func (s *stage) setRates(tools []tool, workers int, results map[string][]rated) {
	pick := func(key string, of func(*rated) float64) float64 {
		var values []float64
		for i := range results[key] {
			values = append(values, of(&results[key][i]))
		}
		return median(values)
	}
	for _, t := range tools {
		key := rateKey(t.name, workers)
		all := results[key]
		if len(all) == 0 {
			continue
		}
		s.report.set(key+"rate", pick(key, func(r *rated) float64 { return r.rate }))
		s.report.set(key+"ratio", pick(key, func(r *rated) float64 { return r.rate / r.beside }))
		s.report.set(key+"user", pick(key, func(r *rated) float64 { return r.user }))
		s.report.set(key+"cpu", pick(key, func(r *rated) float64 { return r.total }))
		// Of losses the worst run counts.
		worst := slices.MaxFunc(all, func(a, b rated) int { return a.lost() - b.lost() })
		s.report.set(key+"lost", float64(worst.lost())/float64(worst.made))
		s.report.set(key+"runs", float64(len(all)))
	}
}

// lost is what is not there, or what it says, whichever is more.
func (r *rated) lost() int { return max(r.missing, r.said) }

func rateTable(tools []tool, counts []int, r *report) *table {
	t := &table{name: "rate", head: []string{
		"attached", "workers", "connections/s", "of none", "user µs a transition", "CPU µs a transition", "lost", "runs",
	}}
	for _, workers := range counts {
		for _, tool := range tools {
			key := rateKey(tool.name, workers)
			row := []string{tool.name, strconv.Itoa(workers)}
			if _, ok := r.values[key+"rate"]; !ok {
				t.rows = append(t.rows, append(row, "-", "-", "-", "-", "-", r.why(key)))
				continue
			}
			row = append(row, number(r.values[key+"rate"]), number(r.values[key+"ratio"]))
			if tool.argv == nil {
				row = append(row, "", "", "")
			} else {
				row = append(row, number(r.values[key+"user"]), number(r.values[key+"cpu"]), percent(r.values[key+"lost"]))
			}
			t.rows = append(t.rows, append(row, number(r.values[key+"runs"])))
		}
	}
	return t
}

func percent(x float64) string {
	if x == 0 {
		return "0"
	}
	return number(x*100) + " %"
}
