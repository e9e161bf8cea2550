package main

import (
	"fmt"
	"math"
	"strings"
)

// target is one row of the table that says whether tcpwaitd is as cheap as it is meant to be.
type target struct {
	what, goal string
	// needs are the keys of the values that measure gets, in this order.
	needs []string
	// measure says what came out, and whether that is good enough.
	measure func(v []float64) (text string, ok bool)
}

// atMost is a target for a ratio of the first value to the second.
func atMost(what string, limit float64, value, base string) target {
	return target{
		what: what, goal: "≤ " + number(limit) + " ×", needs: []string{value, base},
		measure: func(v []float64) (string, bool) {
			return fmt.Sprintf("%s × (%s of %s)", number(v[0]/v[1]), number(v[0]), number(v[1])), v[0]/v[1] <= limit
		},
	}
}

// faster is a target for how many times as fast the first is as the second.
func faster(what string, times float64, ours, theirs string) target {
	return target{
		what: what, goal: "≥ " + number(times) + " × faster", needs: []string{ours, theirs},
		measure: func(v []float64) (string, bool) {
			return fmt.Sprintf("%s × (%s and %s)", number(v[1]/v[0]), number(v[0]), number(v[1])), v[1]/v[0] >= times
		},
	}
}

// within is a target for a value with a unit.
func within(what string, limit float64, unit, key string) target {
	return target{
		what: what, goal: "≤ " + number(limit) + " " + unit, needs: []string{key},
		measure: func(v []float64) (string, bool) { return number(v[0]) + " " + unit, v[0] <= limit },
	}
}

// keeps is a target for a ratio of rates.
func keeps(what string, least float64, key string) target {
	return target{
		what: what, goal: fmt.Sprintf("≥ %.2f of none", least), needs: []string{key + "ratio"},
		measure: func(v []float64) (string, bool) { return fmt.Sprintf("%.2f", v[0]), v[0] >= least },
	}
}

const (
	hundredThousand = 100_000
	million         = 1_000_000
)

func targets() []target {
	return append(append(kernelTargets(), agentTargets()...), heldTargets()...)
}

// kernelTargets are about the programs, and about what they leave of the host's speed.
func kernelTargets() []target {
	const serve = " (the watcher: `diagnose --for` without stacks)"
	return []target{
		atMost("transition with record, owner and batched ring, ns in BPF: of the bare batched-ring program", 1.6, costKey(toolTailJSON), costKey(toolRecord)),
		faster("the same, beside tcpstates", 15, costKey(toolTailJSON), costKey(toolTcpstates)),
		faster("the same, beside bpftrace", 15, costKey(toolTailJSON), costKey(toolBpftrace)),
		atMost("read of a socket not in CLOSE_WAIT, ns in BPF: of an empty program", 1.5, readKey(toolDiagnose), readKey(toolEmpty)),
		keeps("churn, 1 worker, watching"+serve, 0.93, rateKey(toolDiagnose, 1)),
		keeps("churn, 4 workers, watching"+serve, 0.93, rateKey(toolDiagnose, 4)),
		keeps("churn, 1 worker, `tail -o json` to a file", 0.85, rateKey(toolTailJSON, 1)),
		keeps("churn, 4 workers, `tail -o json` to a file", 0.75, rateKey(toolTailJSON, 4)),
		keeps("churn, 1 worker, stacks on (`diagnose`)", 0.85, rateKey(toolStacks, 1)),
		keeps("churn, 4 workers, stacks on (`diagnose`)", 0.85, rateKey(toolStacks, 4)),
		{
			what: "transitions lost by `tail -o json`, 4 workers, the worst run", goal: "none",
			needs: []string{rateKey(toolTailJSON, 4) + "lost", rateKey(toolTailJSON, 4) + "rate"},
			measure: func(v []float64) (string, bool) {
				return percent(v[0]) + " at " + number(v[1]*perConnection) + "/s", v[0] <= 0
			},
		},
	}
}

// agentTargets are about the process, on a host where little waits.
func agentTargets() []target {
	return []target{
		within("user CPU of `tail -o json` for each transition, 1 worker", 0.8, "µs", rateKey(toolTailJSON, 1)+"user"),
		within("user CPU of `tail -o json` for each transition, 4 workers", 0.8, "µs", rateKey(toolTailJSON, 4)+"user"),
		within("user CPU of `tail` for each transition, 1 worker", 0.8, "µs", rateKey(toolTail, 1)+"user"),
		within("user CPU of `tail` for each transition, 4 workers", 0.8, "µs", rateKey(toolTail, 4)+"user"),
		decodeTarget(),
		within("`list` with few sockets, from nothing, median", 150, "ms", "few/median"),
		within("unwind tables of six servers", 10, "MiB", "stacks/tables"),
		within("resident memory with their stacks", 60, "MiB", "stacks/rss"),
		within("`tail` at rest", 0.5, "% of a core", "rest/"+toolTailJSON),
		within("the watcher at rest, without stacks", 0.5, "% of a core", "rest/"+toolDiagnose),
		within("the watcher at rest, with stacks", 0.5, "% of a core", "rest/"+toolStacks),
		within("FIN to the line in `tail`, worst", 50, "ms", "fin/worst"),
		within("FIN to the line in `tail`, median", 10, "ms", "fin/median"),
	}
}

// decodeTarget: of the ten transitions of a connection two are of a wait.
func decodeTarget() target {
	names := []string{"tracer/DecodeTransition", "lifecycle/Untouched", "lifecycle/Wait"}
	t := target{what: "decode and lifecycle of a transition: 8 of 10 touch no wait", goal: "≤ 150 ns, 0 allocations"}
	for _, name := range names {
		t.needs = append(t.needs, "go/"+name)
	}
	for _, name := range names {
		t.needs = append(t.needs, "go/allocations/"+name)
	}
	t.measure = func(v []float64) (string, bool) {
		ns := v[0] + (8*v[1]+v[2])/perConnection
		allocations := v[3] + v[4] + v[5]
		return fmt.Sprintf("%s ns, %.0f allocations", number(ns), allocations), ns <= 150 && allocations <= 0
	}
	return t
}

// heldTargets are about many sockets in CLOSE_WAIT.
func heldTargets() []target {
	wall := func(name string, n int) string { return listKey(name, n) + "wall" }
	floor := func(n int) string { return listKey(listFloor, n) + "passes" }
	return []target{
		faster("`list` of 100,000 with owner, holders, cause, ms: beside `ss -tnp`", 20, wall(listTable, hundredThousand), wall(listSs, hundredThousand)),
		faster("the same, beside lsof", 10, wall(listTable, hundredThousand), wall(listLsof, hundredThousand)),
		atMost("the same, of the two-iterator floor (passes only)", 3, wall(listTable, hundredThousand), floor(hundredThousand)),
		atMost("`list` of 1,000,000, ms: of the two-iterator floor (passes only)", 3, wall(listTable, million), floor(million)),
		{
			what: "growth of `list`'s time from 10,000 on", goal: "exponent ≤ 1.05", needs: []string{"growth/" + listTable},
			measure: func(v []float64) (string, bool) { return fmt.Sprintf("%.2f", v[0]), v[0] <= 1.05 },
		},
		within("memory of `list` with 1,000,000", 500, "MiB", listKey(listTable, million)+"rss"),
		within("start to first verdict with 100,000 stuck sockets", 1000, "ms", memoryKey(hundredThousand)+"verdict"),
		within("resident memory of the watcher, no open waits", 30, "MiB", memoryKey(0)+"rss"),
		within("resident memory of the watcher, 100,000 open waits", 60, "MiB", memoryKey(hundredThousand)+"rss"),
		within("kernel memory for each tracked socket", 512, "B", memoryKey(hundredThousand)+"kernel"),
	}
}

const (
	fellShort   = "**short**"
	notMeasured = "not measured"
)

// row judges a target by what was measured.
func (t *target) row(r *report) []string {
	var values []float64
	var reasons []string
	for _, key := range t.needs {
		v, ok := r.values[key]
		if !ok {
			reasons = append(reasons, r.why(key))
		}
		values = append(values, v)
	}
	if len(reasons) > 0 {
		return []string{t.what, notMeasured + ": " + reasons[0], t.goal, "?"}
	}
	text, ok := t.measure(values)
	if !ok || strings.Contains(text, fmt.Sprint(math.Inf(1))) {
		return []string{t.what, text, t.goal, fellShort}
	}
	return []string{t.what, text, t.goal, "ok"}
}

// targetTable is the end of each run; what the run was not to measure is left out.
func (r *report) targetTable() *table {
	t := &table{name: "targets", head: []string{"what", "measured", "target", ""}}
	for _, one := range targets() {
		if row := one.row(r); row[1] != notMeasured+": "+notRun {
			t.rows = append(t.rows, row)
		}
	}
	return t
}
