package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
)

// inner are the Go benchmarks of the way of an event, by package.
func inner() []struct{ pkg, benches string } {
	return []struct{ pkg, benches string }{
		{"./internal/tracer", "DecodeTransition"},
		{"./internal/lifecycle", "Untouched|Wait|Reconcile"},
		{"./internal/record", "TransitionJSON"},
		{"./internal/report", "Tail|List"},
		{"./internal/symbol", "Name|UserFrame"},
	}
}

// benched is one line of go test -bench.
type benched struct {
	name                 string
	ns, bytes, allocated float64
}

// goBenchmarks runs them and keeps ns and allocations.
func (s *stage) goBenchmarks(ctx context.Context) error {
	t := &table{name: "go", head: []string{"benchmark", "ns", "bytes", "allocations"}}
	for _, b := range inner() {
		all, err := s.goBenchmark(ctx, b.pkg, b.benches)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.report.fail("go/"+path.Base(b.pkg), err)
			t.rows = append(t.rows, []string{path.Base(b.pkg), s.report.why("go/" + path.Base(b.pkg)), "", ""})
			continue
		}
		for _, one := range all {
			name := path.Base(b.pkg) + "/" + one.name
			s.report.set("go/"+name, one.ns)
			s.report.set("go/allocations/"+name, one.allocated)
			t.rows = append(t.rows, []string{name, number(one.ns), number(one.bytes), number(one.allocated)})
		}
	}
	s.report.add(t)
	return nil
}

func (s *stage) goBenchmark(ctx context.Context, pkg, benches string) ([]benched, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	long := "200ms"
	if s.quick {
		long = "23x"
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^Benchmark("+benches+")$", "-benchmem", "-benchtime", long, "-count", "3", pkg)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.ReplaceAll(string(out), "\n", "; "))
	}
	all := parseBenchmarks(string(out))
	if len(all) == 0 {
		return nil, errors.New("no benchmark ran")
	}
	return all, nil
}

// parseBenchmarks takes the median of each benchmark, in the order they came.
func parseBenchmarks(out string) []benched {
	var order []string
	found := map[string][]benched{}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(fields[0], "Benchmark"), "-")
		b := benched{name: name, ns: math.NaN(), bytes: math.NaN(), allocated: math.NaN()}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				break
			}
			switch fields[i+1] {
			case "ns/op":
				b.ns = value
			case "B/op":
				b.bytes = value
			case "allocs/op":
				b.allocated = value
			}
		}
		if found[name] == nil {
			order = append(order, name)
		}
		found[name] = append(found[name], b)
	}
	var all []benched
	for _, name := range order {
		runs := found[name]
		all = append(all, benched{
			name:      name,
			ns:        medianBy(runs, func(b benched) float64 { return b.ns }),
			bytes:     medianBy(runs, func(b benched) float64 { return b.bytes }),
			allocated: medianBy(runs, func(b benched) float64 { return b.allocated }),
		})
	}
	return all
}
