package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
)

// costed are the runs and the time of one program of one tool, in one run of the load.
type costed struct {
	tool, program string
	perRun        float64
	// runs is for each transition, or for each read.
	runs float64
}

const (
	// setState is the hook of every transition, recvLength that of every read.
	setState   = "inet_sock_set_state"
	recvLength = "sock_recv_length"
	// readLoad is reads of a connection that lives, instead of churn.
	readLoad = "receive"
)

// costLoad is how much is done in one run, and how often.
func (s *stage) costLoad() (connections, reads, rounds int) {
	if s.quick {
		return 997, 4999, 1
	}
	return 10_007, 200_003, 3
}

// cost measures what the programs take in the kernel: of a transition, and of a read.
func (s *stage) cost(ctx context.Context) error {
	connections, reads, rounds := s.costLoad()
	var all []costed
	sums := map[string][]float64{}
	note := func(key string, t tool, load string, n, events int) {
		if ctx.Err() != nil || s.report.missing[key] != "" {
			return
		}
		found, err := s.costOf(ctx, t, load, n, events)
		if err != nil {
			s.report.fail(key, err)
			return
		}
		one := sumAt(found, t, setState)
		if load == readLoad {
			one = sumAt(found, t, recvLength)
		}
		s.report.say("%s %s ns", key, number(one))
		all, sums[key] = append(all, found...), append(sums[key], one)
	}
	for range s.rounds(rounds) {
		for _, t := range s.tools() {
			if (t.argv != nil || t.missing != nil) && t.name != toolTail {
				note(costKey(t.name), t, "churn", connections, connections*perConnection+perWorker)
			}
		}
		for _, t := range s.readers() {
			note(readKey(t.name), t, readLoad, reads, reads)
		}
	}
	for key, values := range sums {
		s.report.set(key, median(values))
	}
	s.report.add(costTable(all, s.report))
	return ctx.Err()
}

func costKey(name string) string { return "cost/" + name + "/" }

func readKey(name string) string { return "read/" + name + "/" }

// readers are what hooks reads, and the floor.
func (s *stage) readers() []tool {
	var found []tool
	for _, t := range s.tools() {
		if t.name == toolDiagnose || t.name == toolStacks || t.name == toolTailJSON {
			found = append(found, t)
		}
	}
	if s.quick {
		found = found[len(found)-1:]
	}
	return append(found, tool{
		name: toolEmpty, argv: s.childCommand("floor-receive", 0, 0), ready: ready, lost: floorLost,
	})
}

// costOf lets one tool watch one run of a load that makes so many events.
func (s *stage) costOf(ctx context.Context, t tool, load string, n, events int) (found []costed, err error) {
	counting, err := countRuns()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, counting.Close()) }()
	a, err := s.attach(ctx, t)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.detach()) }()
	before, err := programsOf(a.pid())
	if err != nil {
		return nil, err
	}
	if _, err := s.work(ctx, load, 1, n, nil); err != nil {
		return nil, err
	}
	after, err := programsOf(a.pid())
	if err != nil {
		return nil, err
	}
	who := t.name
	if load == readLoad {
		who += ", reads of a connection that lives"
	}
	for id, p := range after {
		runs := p.runs - before[id].runs
		if runs == 0 {
			continue
		}
		name := p.name
		if p.hook != "" {
			name += " at " + p.hook
		}
		found = append(found, costed{
			tool: who, program: name, perRun: float64(p.ns-before[id].ns) / float64(runs), runs: float64(runs) / float64(events),
		})
	}
	if len(found) == 0 {
		return nil, errors.New("no program of it has run")
	}
	found = slices.DeleteFunc(found, func(c costed) bool { return load == readLoad && !c.at(recvLength) })
	slices.SortFunc(found, func(a, b costed) int { return strings.Compare(a.program, b.program) })
	return found, nil
}

func (c *costed) at(hook string) bool { return strings.HasSuffix(c.program, " at "+hook) }

// sumAt is the time of all that runs at a hook, for each event there. Peers have one hook, and
// the kernel does not name it.
func sumAt(found []costed, t tool, hook string) float64 {
	var sum, runs float64
	for i := range found {
		if t.peer || found[i].at(hook) {
			// Whatever else happens on the host runs the programs too: the runs are the transitions.
			sum += found[i].perRun * found[i].runs
			runs = max(runs, found[i].runs)
		}
	}
	return sum / runs
}

// costTable has the median of each program.
func costTable(all []costed, r *report) *table {
	t := &table{name: "cost", head: []string{"with", "program", "ns a run", "runs for each"}}
	type key struct{ tool, program string }
	times, runs := map[key][]float64{}, map[key][]float64{}
	var order []key
	for _, c := range all {
		k := key{c.tool, c.program}
		if times[k] == nil {
			order = append(order, k)
		}
		times[k], runs[k] = append(times[k], c.perRun), append(runs[k], c.runs)
	}
	for _, k := range order {
		t.rows = append(t.rows, []string{k.tool, k.program, number(median(times[k])), number(median(runs[k]))})
	}
	for _, prefix := range slices.Sorted(maps.Keys(r.missing)) {
		if name, ok := strings.CutPrefix(prefix, "cost/"); ok && name != "" {
			t.rows = append(t.rows, []string{strings.TrimSuffix(name, "/"), r.missing[prefix], "", ""})
		}
	}
	return t
}
