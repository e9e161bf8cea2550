package tracer

import (
	"net"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// heard is a sink that keeps what it gets.
type heard struct {
	stacks []StackSeen
	raw    []RawStack
	execs  []uint32
	exits  []uint32
}

func (h *heard) Stack(s StackSeen)   { h.stacks = append(h.stacks, s) }
func (h *heard) RawStack(r RawStack) { h.raw = append(h.raw, r) }
func (h *heard) Exec(pid uint32)     { h.execs = append(h.execs, pid) }
func (h *heard) Exit(pid uint32)     { h.exits = append(h.exits, pid) }

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
