package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// TestMain is a child where the bench started itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childArg {
		if err := runChild(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"-run", "rate,cost", "-quick"})
	if err != nil || len(o.parts) != 2 || !o.quick {
		t.Errorf("%+v, %v", o, err)
	}
	for _, args := range [][]string{{"-run", "nothing"}, {"-write", "-quick"}, {"-write", "-run", "cost"}, {"-write", "-rounds", "1"}, {"extra"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
}

// A quick run measures everything once, and leaves nothing behind.
func TestQuick(t *testing.T) {
	testenv.RequireRoot(t)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Setenv(peersEnv, "")
	before := countersOn(t)
	var out strings.Builder
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := run(ctx, []string{"-quick", "-run", "cost,rate,held,few,fin,rest"}, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	text := out.String()
	for _, want := range []string{
		"floor_record at inet_sock_set_state", "state at inet_sock_set_state",
		toolTailJSON + "  ", "two iterators", "first verdict", "FIN to the line in `tail`, median",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("not in the output: %s", want)
		}
	}
	for line := range strings.Lines(text) {
		// What it is about is measured with many sockets only, or by programs that need not be here.
		if strings.Contains(line, "not measured: ") && !strings.Contains(line, "not in this run") &&
			!strings.Contains(line, "not in $PEERS") && !strings.Contains(line, "not installed") {
			t.Errorf("%s", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	left, err := filepath.Glob(filepath.Join(tmp, "tcpwaitd-bench-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if after := countersOn(t); after != before {
		t.Errorf("kernel.bpf_stats_enabled is %s, was %s", after, before)
	}
}

// Cancelled, a run ends soon, with all it started.
func TestInterrupted(t *testing.T) {
	testenv.RequireRoot(t)
	s, err := newStage(t.Context(), options{agent: "/nowhere", quick: true}, newReport(new(strings.Builder)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c, err := s.newCrowd(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.grow(ctx, 23); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := c.grow(ctx, 46); err == nil {
		t.Error("it went on")
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	for _, p := range append(c.holders, c.home) {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", p.pid())); err == nil {
			t.Errorf("process %d is still there", p.pid())
		}
	}
	if _, err := os.Stat(s.dir); err == nil {
		t.Errorf("%s is still there", s.dir)
	}
}

func countersOn(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/kernel/bpf_stats_enabled")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}
