package pipeline

import (
	"context"
	"errors"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// Doctor tries everything that live commands need and says how it went. What it may not
// see is a failed check, not an error.
func (e *Engine) Doctor(context.Context) (*record.Doctor, error) {
	var checks []record.Check
	for _, c := range tracer.Checks(e.cfg.Proc) {
		checks = append(checks, record.Check(c))
	}
	load, stacks, hooks := e.checkLoad()
	checks = append(checks, load)
	checks = append(checks, e.degradations(hooks)...)
	if hooks != nil {
		checks = append(checks, stacks)
	}
	release, machine := tracer.Release()
	d := record.NewDoctor(release, machine, checks, hooks, e.misleadingSysctls())
	return &d, nil
}

// checkLoad opens the tracer as the live commands do, stacks included.
func (e *Engine) checkLoad() (load, stacks record.Check, hooks []event.Hook) {
	load = record.Check{Name: "load", OK: true, Detail: "all required hooks attach"}
	t, err := e.open(tracer.Config{Live: true, Stacks: tracer.StackConfig{Sink: noStacks{}}})
	var refused *CannotRunError
	switch {
	case errors.As(err, &refused):
		return record.Check{Name: "load", Detail: refused.Reason(), Cure: refused.Cure}, stacks, nil
	case err != nil:
		return record.Check{Name: "load", Detail: err.Error(), Cure: "report this: it is a defect of tcpwaitd"}, stacks, nil
	}
	defer t.Close()
	return load, stackCheck(t.Unwinder()), t.Hooks()
}

// noStacks is a sink for who only wants to know whether stacks could be taken.
type noStacks struct{}

func (noStacks) Stack(tracer.StackSeen)          {}
func (noStacks) RawStack(tracer.RawStack)        {}
func (noStacks) Exec(uint32, object.Key, string) {}
func (noStacks) Exit(uint32)                     {}

// stackCheck says how far the stacks of user code can be believed here.
func stackCheck(way tracer.Unwinder, why string) record.Check {
	c := record.Check{Name: "user stacks", OK: true}
	switch way {
	case tracer.UnwindTables:
		c.Detail = "in the kernel, by unwind tables"
	case tracer.UnwindRaw:
		c.Detail = "degraded: Go programs by frame pointers, 64 stacks a second of other processes from copies (" + why + ")"
		c.Cure = "Linux 5.17 or newer"
	default:
		c.Detail = "degraded: by frame pointers, true for Go programs only (" + why + ")"
		c.Cure = "none on this machine; names other than Go's are marked fp-only"
	}
	return c
}

// degradations are things it runs without, with what is then missing.
func (e *Engine) degradations(hooks []event.Hook) []record.Check {
	checks := []record.Check{{Name: "pid namespace", OK: true, Detail: "the host's"}}
	if host, err := owner.HostPidNS(); err != nil {
		checks[0].Detail = "unknown: " + err.Error()
	} else if !host {
		checks[0].Detail = "degraded: " + pidNamespaceCause
		checks[0].Cure = pidNamespaceCure
	}
	tracefs := record.Check{Name: "tracefs", OK: true, Detail: tracer.Tracefs()}
	if tracefs.Detail == "" {
		tracefs.Detail = "not mounted; only --syscall-accept needs it"
		tracefs.Cure = "mount -t tracefs tracefs /sys/kernel/tracing"
	}
	jit := record.Check{Name: "bpf jit", OK: true, Detail: "on"}
	if tracer.JIT(e.cfg.Proc) == "0" {
		jit.Detail = "degraded: off, every event costs several times more"
		jit.Cure = "sysctl net.core.bpf_jit_enable=1"
	}
	checks = append(checks, tracefs, jit)
	if hooks == nil {
		// Nothing was loaded, so nothing is known of hooks.
		return checks
	}
	return append(checks, acceptCheck(hooks))
}

// acceptCheck says by which fact the owner of an accepted connection is found.
func acceptCheck(hooks []event.Hook) record.Check {
	c := record.Check{Name: "owner at accept", OK: true}
	for _, h := range hooks {
		if h.Fact == "accept" && h.Attached {
			c.Detail = h.Kind + " " + h.Hook
			return c
		}
	}
	c.Detail = "degraded: no hook sees accept(); the first read or write names the owner, a descriptor scan the holders"
	c.Cure = "a kernel that permits fexit, or --syscall-accept at the price of a little time in every system call"
	return c
}
