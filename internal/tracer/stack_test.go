package tracer

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

var errEnough = errors.New("heard enough")

// heard is a sink that keeps what it gets.
type heard struct {
	stacks []StackSeen
	raw    []RawStack
	execs  []uint32
	exits  []uint32
}

func (h *heard) Stack(s StackSeen)                       { h.stacks = append(h.stacks, s) }
func (h *heard) RawStack(r RawStack)                     { h.raw = append(h.raw, r) }
func (h *heard) Exec(pid uint32, _ object.Key, _ string) { h.execs = append(h.execs, pid) }
func (h *heard) Exit(pid uint32)                         { h.exits = append(h.exits, pid) }

// Every way to unwind passes the verifier of this kernel and gives a stack for a
// connect().
func TestStackOfConnect(t *testing.T) {
	for _, way := range []Unwinder{UnwindTables, UnwindRaw, UnwindFP} {
		t.Run(string(way), func(t *testing.T) {
			ns := testenv.NewNetns(t)
			sink := &heard{}
			tr := openIn(t, ns, Config{Live: true, Stacks: StackConfig{Sink: sink, Unwinder: way}})
			var addr string
			if err := ns.Do(func() error {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					return err
				}
				defer l.Close()
				addr = l.Addr().String()
				c, err := net.Dial("tcp", addr)
				if err != nil {
					return err
				}
				return c.Close()
			}); err != nil {
				t.Fatal(err)
			}
			got := collect(t, tr, func(got []event.Transition) bool {
				for i := range got {
					if got[i].Old == event.SynSent && got[i].Stacks[event.StackOpen] != 0 {
						return true
					}
				}
				return false
			})
			t.Logf("%d transitions, %d stacks, %d raw", len(got), len(sink.stacks), len(sink.raw))
			for _, s := range sink.stacks {
				t.Logf("%+v", s)
			}
			for _, s := range sink.raw {
				t.Logf("raw %v %v %d bytes %v missing %+v", s.Task.Pid, s.Reason, len(s.Memory), s.Regs[:5], s.Missing)
			}
		})
	}
}

// The kernel walks this very program to the end of the goroutine: by tables, and where
// there are none by frame pointers, which Go keeps.
func TestWalkToTheEnd(t *testing.T) {
	ns := testenv.NewNetns(t)
	sink := &heard{}
	tr := openIn(t, ns, Config{Live: true, Stacks: StackConfig{Sink: sink}})
	reg := object.NewRegistry("/proc")
	defer reg.Close()
	way, _ := tr.Unwinder()
	want := map[Unwinder]event.Quality{UnwindTables: event.QualityComplete, UnwindFP: event.QualityFPOnly}[way]
	var maps []object.Mapped
	if way == UnwindTables {
		maps = teachAbout(t, tr, reg, uint32(os.Getpid()))
	}
	if err := ns.Do(dialOnce); err != nil {
		t.Fatal(err)
	}
	collect(t, tr, func(got []event.Transition) bool {
		return slices.ContainsFunc(got, func(tr event.Transition) bool {
			return tr.Old == event.SynSent && tr.Stacks[event.StackOpen] != 0
		})
	})
	if len(sink.raw) > 0 {
		t.Fatalf("the kernel gave up: %v, missing %+v", sink.raw[0].Reason, sink.raw[0].Missing)
	}
	for _, s := range sink.stacks {
		if s.Quality != want {
			t.Errorf("quality %v, want %v; %v", s.Quality, want, s.Reason)
		}
		names := functionsOf(s.Frames, maps)
		if len(names) == 0 || names[len(names)-1] != "runtime.goexit" ||
			!slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".dialOnce") }) {
			t.Errorf("stack %q", names)
		}
	}
	if len(sink.stacks) == 0 {
		t.Error("no stack")
	}
}

// functionsOf names frames of this program.
func functionsOf(frames []event.Frame, maps []object.Mapped) []string {
	var names []string
	for _, f := range frames {
		pc := f.Addr
		for _, m := range maps {
			if f.Kind == event.FrameFile && m.Object != nil && m.Object.ID == f.Object &&
				f.Addr >= m.Offset && f.Addr-m.Offset < m.End-m.Start {
				pc = f.Addr - m.Offset + m.Start
			}
		}
		if f.Return {
			pc--
		}
		name := "?"
		if fn := runtime.FuncForPC(uintptr(pc)); fn != nil {
			name = fn.Name()
		}
		names = append(names, name)
	}
	return names
}

func dialOnce() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	return c.Close()
}

// A process that opens connections all the time does not pay for a stack each time, and
// is told so.
func TestStacksAreLimited(t *testing.T) {
	const perSecond = 5
	ns := testenv.NewNetns(t)
	sink := &heard{}
	tr := openIn(t, ns, Config{Live: true, Stacks: StackConfig{Sink: sink, PerSecond: perSecond, Unwinder: UnwindFP}})
	began := Now()
	var connected, with int
	for connected < 10*perSecond {
		if err := ns.Do(dialOnce); err != nil {
			t.Fatal(err)
		}
		connected++
	}
	seconds := int(Now().Sub(began)/time.Second) + 2 // those it began and ended in
	collect(t, tr, func(got []event.Transition) bool {
		connects := 0
		with = 0
		for i := range got {
			if got[i].Old == event.Close && got[i].New == event.SynSent {
				connects++
				if got[i].Stacks[event.StackOpen] != 0 {
					with++
				}
			}
		}
		return connects >= connected
	})
	if with == 0 || with > seconds*perSecond {
		t.Errorf("%d of %d connects have a stack, in at most %d seconds with %d each", with, connected, seconds, perSecond)
	}
	stats, err := tr.Stats()
	if err != nil {
		t.Fatal(err)
	}
	limited, err := tr.NotSampled()
	if err != nil {
		t.Fatal(err)
	}
	if n := limited[uint32(os.Getpid())]; n == 0 || n != stats.StacksLimited {
		t.Errorf("%d stacks of this process not taken, %d of all; they are the only ones", n, stats.StacksLimited)
	}
	if int(stats.Stacks) < with {
		t.Errorf("%d stacks taken, %d seen", stats.Stacks, with)
	}
}

// What is known of a program is forgotten when its process runs another, or ends.
func TestExecAndExitAreTold(t *testing.T) {
	ns := testenv.NewNetns(t)
	sink := &heard{}
	tr := openIn(t, ns, Config{Live: true, Stacks: StackConfig{Sink: sink}})
	// This process counts as one with sockets; so do the programs it starts.
	if err := tr.SetRuntime(uint32(os.Getpid()), &event.Runtime{}, false); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := uint32(cmd.Process.Pid)
	listen := func(enough func() bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		err := tr.Run(ctx, func(*event.Transition) error { return nil }, func() error {
			if enough() {
				return errEnough
			}
			return nil
		})
		if !errors.Is(err, errEnough) {
			t.Fatalf("not told: %v; execs %v, exits %v", err, sink.execs, sink.exits)
		}
	}
	listen(func() bool { return slices.Contains(sink.execs, pid) })
	if err := tr.SetRuntime(pid, &event.Runtime{}, false); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	listen(func() bool { return slices.Contains(sink.exits, pid) })
	var rt bpfRuntime
	if err := tr.maps.Maps["runtimes"].Lookup(pid, &rt); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("the runtime of process %d is still known: %v", pid, err)
	}
}
