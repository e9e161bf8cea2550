// Bench measures what tcpwaitd costs beside the tools people use now and beside the least that
// any tool must cost, all in one run.
//
// It makes its own load on loopback, in network namespaces of its own, and leaves nothing
// behind. A target that falls short is a result, no failure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// limit ends the whole run: what is not measured by then is said to be so.
const limit = 18 * time.Minute

func main() {
	if len(os.Args) > 1 && os.Args[1] == childArg {
		if err := runChild(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench child:", err)
			os.Exit(1)
		}
		return
	}
	// A second signal ends at once; what was started ends with us.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// part is one thing that is measured, and the keys of its values.
type part struct {
	name string
	keys []string
	run  func(*stage, context.Context) error
}

func parts() []part {
	return []part{
		{"cost", []string{"cost/", "read/"}, (*stage).cost},
		{"rate", []string{"rate/"}, (*stage).rate},
		{"few", []string{"few/"}, (*stage).few},
		{"fin", []string{"fin/"}, (*stage).fins},
		{"rest", []string{"rest/"}, (*stage).rest},
		{"stacks", []string{"stacks/"}, (*stage).stacks},
		{"go", []string{"go/"}, (*stage).goBenchmarks},
		{"held", []string{"list/", "memory/", "growth/"}, (*stage).held},
	}
}

// options are the flags.
type options struct {
	parts []part
	quick bool
	write bool
	// agent is the tcpwaitd to measure, "" one built for it.
	agent string
	// most rounds are made, 0 as many as each part wants; sockets is the most that are held.
	most, sockets int
}

func parse(args []string) (o options, err error) {
	var names []string
	for _, p := range parts() {
		names = append(names, p.name)
	}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	chosen := fs.String("run", "", "parts to run, of "+strings.Join(names, ",")+" (default all)")
	fs.BoolVar(&o.quick, "quick", false, "little of everything: to see that it works, not to measure")
	fs.BoolVar(&o.write, "write", false, "write the results into docs/performance.md")
	fs.IntVar(&o.most, "rounds", 0, "measure each at most so often (default: as often as it needs)")
	fs.IntVar(&o.sockets, "held", million, "hold at most so many sockets")
	fs.StringVar(&o.agent, "agent", "", "the tcpwaitd to measure (default: built from this module)")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	o.parts = parts()
	if *chosen != "" {
		wanted := strings.Split(*chosen, ",")
		for _, name := range wanted {
			if !slices.Contains(names, name) {
				return o, fmt.Errorf("no part %q: want some of %s", name, strings.Join(names, ","))
			}
		}
		o.parts = slices.DeleteFunc(o.parts, func(p part) bool { return !slices.Contains(wanted, p.name) })
	}
	if o.write && (o.quick || *chosen != "" || o.most > 0 || o.sockets < million) {
		return o, errors.New("-write wants a whole run, without -quick, -run, -rounds and -held")
	}
	return o, nil
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("not root: run it with sudo")
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r := newReport(out)
	r.machine = describeMachine()
	fmt.Fprintln(out, r.machine)
	s, err := newStage(ctx, o, r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	for _, p := range o.parts {
		began := time.Now()
		if err := p.run(s, ctx); err != nil {
			if errors.Is(ctx.Err(), context.Canceled) {
				return context.Canceled
			}
			for _, prefix := range p.keys {
				r.fail(prefix, fmt.Errorf("%s: %w", p.name, err))
			}
		}
		fmt.Fprintf(out, "%s took %v\n", p.name, time.Since(began).Round(time.Second))
	}
	for _, t := range []*table{r.reactTable(), r.targetTable()} {
		if len(t.rows) > 0 {
			r.add(t)
		}
	}
	if o.write {
		return r.write(ctx, s.sizes())
	}
	return nil
}
