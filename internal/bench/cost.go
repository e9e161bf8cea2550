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

// setState is the hook of every transition.
const setState = "inet_sock_set_state"

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
	transitions := map[string][]float64{}
	readTimes := map[string][]float64{}
	for range s.rounds(rounds) {
		for _, t := range s.tools() {
			if t.argv == nil && t.missing == nil || t.name == toolTail {
				continue
			}
			found, err := s.costOf(ctx, t, "churn", connections, connections*perConnection+perWorker)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				s.report.fail("cost/"+t.name, err)
				continue
			}
			s.report.say("%s: %s ns a transition", t.name, number(perTransition(found, t)))
			all = append(all, found...)
			transitions[t.name] = append(transitions[t.name], perTransition(found, t))
		}
		for _, t := range s.readers() {
			found, err := s.costOf(ctx, t, "receive", reads, reads)
			if err != nil {
				return err
			}
			for _, c := range found {
				if c.isRead() {
					c.tool += ", reads of a connection that lives"
					all = append(all, c)
					s.report.say("%s: %s ns a read", t.name, number(c.perRun))
					readTimes[t.name] = append(readTimes[t.name], c.perRun)
				}
			}
		}
	}
	for name, values := range transitions {
		s.report.set("cost/"+name, median(values))
	}
	for name, values := range readTimes {
		s.report.set("read/"+name, median(values))
	}
	s.report.add(costTable(all, s.report))
	return nil
}

// readers are what hooks reads, and the floor.
func (s *stage) readers() []tool {
	var found []tool
	for _, t := range s.tools() {
		if t.name == toolDiagnose || t.name == toolStacks || t.name == toolTailJSON {
			found = append(found, t)
		}
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
	if _, err := s.work(ctx, load, 1, n); err != nil {
		return nil, err
	}
	after, err := programsOf(a.pid())
	if err != nil {
		return nil, err
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
			tool: t.name, program: name, perRun: float64(p.ns-before[id].ns) / float64(runs), runs: float64(runs) / float64(events),
		})
	}
	if len(found) == 0 {
		return nil, errors.New("no program of it has run")
	}
	slices.SortFunc(found, func(a, b costed) int { return strings.Compare(a.program, b.program) })
	return found, nil
}

// isRead reports whether a program runs at reads.
func (c *costed) isRead() bool {
	return c.at("sock_recv_length") || c.at("tcp_recvmsg")
}

func (c *costed) at(hook string) bool { return strings.HasSuffix(c.program, " at "+hook) }

// perTransition adds up what runs at the tracepoint. Peers have no other hook, and the kernel
// does not name theirs.
func perTransition(found []costed, t tool) float64 {
	var sum, runs float64
	for i := range found {
		if t.peer || found[i].at(setState) {
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
		if name, ok := strings.CutPrefix(prefix, "cost/"); ok {
			t.rows = append(t.rows, []string{name, r.missing[prefix], "", ""})
		}
	}
	return t
}
