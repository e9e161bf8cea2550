package tracer

import (
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/unwind"
)

// BenchmarkWalk is what a stack of connect() costs in the kernel, the memo warm: a C
// program without frame pointers, b.N connects, the time that the kernel counts for the
// state program with stacks less that without, over frames.
func BenchmarkWalk(b *testing.B) {
	client := filepath.Join(b.TempDir(), "connect")
	if out, err := exec.Command("gcc", "-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls",
		"-o", client, "testdata/connect.c").CombinedOutput(); err != nil {
		b.Fatalf("build the client: %v\n%s", err, out)
	}
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		b.Skipf("the kernel does not count run times: %v", err)
	}
	defer stats.Close()
	const connects = 5003
	var with, without time.Duration
	var frames, stacks int
	for range b.N {
		w, s, f := runConnects(b, client, connects, UnwindTables)
		o, _, _ := runConnects(b, client, connects, UnwindNone)
		with, without, frames, stacks = with+w, without+o, frames+f, stacks+s
	}
	if stacks == 0 {
		b.Fatal("no complete stack")
	}
	perStack := float64(with-without) / float64(stacks)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(perStack, "ns/stack")
	b.ReportMetric(perStack/(float64(frames)/float64(b.N)), "ns/frame")
	b.ReportMetric(float64(frames)/float64(b.N), "frames")
	b.ReportMetric(float64(frameSize), "B/frame")
}

// runConnects returns the time spent in the state program, the complete stacks taken and
// the frames of one.
func runConnects(b *testing.B, client string, connects int, way Unwinder) (spent time.Duration, stacks, frames int) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go swallow(l)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	cmd := exec.Command(client, port, strconv.Itoa(connects))
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	pid := uint32(cmd.Process.Pid)
	sink := &heard{}
	tr, err := Open(Config{Live: true, Filter: event.Filter{Pids: []uint32{pid}}, Stacks: StackConfig{Sink: sink, Unwinder: way, PerSecond: 1 << 30}})
	if err != nil {
		b.Fatal(err)
	}
	defer tr.Close()
	reg := object.NewRegistry("/proc")
	defer reg.Close()
	if way == UnwindTables {
		teachAbout(b, tr, reg, pid)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- tr.Run(ctx, func(*event.Transition) error { return nil }, nil) }()
	before := stateTime(b, tr)
	_, err = io.WriteString(in, "\n")
	if err = errors.Join(err, cmd.Wait()); err != nil {
		b.Fatal(err)
	}
	spent = stateTime(b, tr) - before
	cancel()
	if err := errors.Join(<-done, tr.Drain(func(*event.Transition) error { return nil })); err != nil {
		b.Fatal(err)
	}
	for _, s := range sink.stacks {
		if s.Quality == event.QualityComplete {
			frames = len(s.Frames)
		}
	}
	st, err := tr.Stats()
	if err != nil {
		b.Fatal(err)
	}
	return spent, int(st.Stacks), frames
}

func swallow(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Close()
	}
}

func stateTime(b *testing.B, tr *Tracer) time.Duration {
	b.Helper()
	for _, coll := range tr.progs {
		if p := coll.Programs["state"]; p != nil {
			st, err := p.Stats()
			if err != nil {
				b.Fatal(err)
			}
			return st.Runtime
		}
	}
	b.Fatal("no state program")
	return 0
}

func teachAbout(tb testing.TB, tr *Tracer, reg *object.Registry, pid uint32) []object.Mapped {
	tb.Helper()
	all, err := tr.Mappings(tb.Context(), pid)
	if err != nil || len(all[pid]) == 0 {
		tb.Fatalf("mappings of process %d: %v, %v", pid, all, err)
	}
	rules := unwind.NewRules()
	var maps []object.Mapped
	for _, vma := range all[pid] {
		m := object.Mapped{VMA: vma}
		if vma.Key != (object.Key{}) {
			m.Object = teachFile(tb, tr, reg, rules, pid, &vma)
		}
		maps = append(maps, m)
	}
	if err := tr.SetRuntime(pid, &event.Runtime{}, false); err != nil {
		tb.Fatal(err)
	}
	return maps
}

func teachFile(tb testing.TB, tr *Tracer, reg *object.Registry, rules *unwind.Rules, pid uint32, vma *object.VMA) *object.Object {
	tb.Helper()
	o, err := reg.Open(pid, vma)
	if err != nil {
		tb.Fatal(err)
	}
	table, err := unwind.ReadFile(o.File, rules)
	if err != nil {
		tb.Fatal(err)
	}
	var upload []Rule
	for _, r := range rules.From(0) {
		upload = append(upload, Rule(r))
	}
	if err := errors.Join(tr.PutRules(0, upload), tr.PutTable(vma.Key, o.ID, table.Rows)); err != nil {
		tb.Fatal(err)
	}
	return o
}
