package tracer

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// The facts hooks are needed for, in the order they are attached.
const (
	factHolders     = "holders"
	factSockets     = "sockets"
	factAccept      = "accept"
	factRead        = "read"
	factWrite       = "write"
	factMiniBefore  = "fin_wait2_mini_socket"
	factMiniAfter   = "late_time_wait"
	factTimeWait    = "time_wait"
	factTransitions = "transitions"
	factNested      = "nested_transitions"
	factMappings    = "mappings"
	factThreads     = "threads"
	factExec        = "exec"
	factExit        = "exit"
	factFork        = "fork"
	factFamily      = "family"
)

// hook is one way of learning one fact.
type hook struct {
	fact    string
	program string // name in bpf/tcpwaitd.bpf.c
	kind    string
	targets []string // kernel names; all are attached to the same program
	// params is the number of parameters the kernel function must have, 0 any.
	params int
	// required: without it the tracer cannot run at all.
	required bool
	// live: needed only while watching, not for a single snapshot.
	live bool
	// optIn names the option that must ask for it; it costs everybody something.
	optIn string
	// unless names a fact that makes this one unnecessary; stacks and Config.Users need it
	// all the same.
	unless string
	// stacks, family: needed only where stacks are taken or a family is followed.
	stacks, family bool
	// timeWait: needed only where transitions to TIME_WAIT are wanted.
	timeWait bool
}

// wanted: somebody has asked for what the hook gives.
func (h *hook) wanted(cfg *Config) bool {
	if h.live && !cfg.Live || h.timeWait && !cfg.wantsTimeWait() {
		return false
	}
	return !h.stacks && !h.family || h.stacks && cfg.Stacks.Sink != nil || h.family && cfg.Family != 0
}

// The kinds of hooks.
const (
	kindTpBTF      = "tp_btf"
	kindFentry     = "fentry"
	kindFexit      = "fexit"
	kindTracepoint = "tracepoint"
	kindIter       = "iter"
)

// table is the hook table: for each fact the ways to learn it, best first. doctor, the
// metric hooks_attached and the docs are made from it.
var table = []hook{
	{fact: factHolders, program: "dump_files", kind: kindIter, targets: []string{"task_file"}, required: true},
	{fact: factSockets, program: "dump_tcp", kind: kindIter, targets: []string{"tcp"}, required: true},
	{fact: factAccept, program: "accept_2", kind: kindFexit, targets: []string{"inet_csk_accept"}, params: 2, live: true},
	{fact: factAccept, program: "accept_4", kind: kindFexit, targets: []string{"inet_csk_accept"}, params: 4, live: true},
	{fact: factAccept, program: "accept_exit", kind: kindTracepoint, targets: []string{"sys_exit_accept4", "sys_exit_accept"}, live: true, optIn: "syscall accept"},
	{fact: factRead, program: "recv", kind: kindTpBTF, targets: []string{"sock_recv_length"}, live: true},
	{fact: factRead, program: "recv_5", kind: kindFexit, targets: []string{"tcp_recvmsg"}, params: 5, live: true},
	{fact: factRead, program: "recv_6", kind: kindFexit, targets: []string{"tcp_recvmsg"}, params: 6, live: true},
	{fact: factWrite, program: "send_length", kind: kindTpBTF, targets: []string{"sock_send_length"}, live: true, unless: factAccept},
	{fact: factWrite, program: "send_3", kind: kindFexit, targets: []string{"tcp_sendmsg"}, params: 3, live: true, unless: factAccept},
	{fact: factMiniBefore, program: "mini_before", kind: kindFentry, targets: []string{"tcp_timewait_state_process"}, live: true, timeWait: true},
	{fact: factMiniAfter, program: "mini_after", kind: kindFexit, targets: []string{"tcp_timewait_state_process"}, live: true, timeWait: true},
	// After these: it leaves mini-sockets to them.
	{fact: factTimeWait, program: "mini_socket", kind: kindFexit, targets: []string{"inet_twsk_alloc"}, params: 3, live: true, timeWait: true},
	{fact: factTransitions, program: "state", kind: kindTpBTF, targets: []string{"inet_sock_set_state"}, required: true, live: true},
	{fact: factMappings, program: "dump_mappings", kind: kindIter, targets: []string{"task_vma"}, stacks: true},
	{fact: factThreads, program: "dump_threads", kind: kindIter, targets: []string{"task"}, stacks: true},
	{fact: factExec, program: "process_exec", kind: kindTpBTF, targets: []string{"sched_process_exec"}, live: true, stacks: true, family: true},
	{fact: factExit, program: "process_exit", kind: kindTpBTF, targets: []string{"sched_process_exit"}, live: true, stacks: true, family: true},
	{fact: factFork, program: "process_fork", kind: kindTpBTF, targets: []string{"sched_process_fork"}, live: true, family: true},
	// After the fork hook: what that one misses is there now.
	{fact: factFamily, program: "dump_family", kind: kindIter, targets: []string{"task"}, live: true, family: true},
	// After the other: it must find out whether that one ran.
	{fact: factNested, program: "state_refused", kind: kindTpBTF, targets: []string{"inet_sock_set_state"}, required: true, live: true},
}

// without says what is missing where no way to a fact works.
var without = map[string]string{
	factHolders:     "cannot run",
	factSockets:     "cannot run",
	factAccept:      "the first read or write names the owner, a descriptor scan the holders",
	factRead:        "nobody watches EOF being told; no owner by reading",
	factWrite:       "no owner by writing",
	factMiniBefore:  "as `late_time_wait`",
	factMiniAfter:   "a mini-socket in FIN_WAIT2 is taken for the TIME_WAIT that it becomes: inferred",
	factTimeWait:    "inferred from the transition that ends the full socket",
	factTransitions: "cannot watch",
	factNested:      "cannot watch",
	factMappings:    "no unwind tables: stacks by frame pointers",
	factThreads:     "nobody can say where the threads of a process stand",
	factExec:        "the first stacks after an exec may be truncated; a process keeps the name it was forked with",
	factExit:        "what is known of a process is kept until it is the oldest; when one of a family ended is not known",
	factFork:        "no process can be followed with its descendants",
	factFamily:      "no process can be followed with its descendants",
}

// HookFact is one fact of the hook table: the ways to learn it, best first, and what is
// missing without any.
type HookFact struct {
	Name, Without string
	Ways          []string
}

// HookTable is the hook table for the docs.
func HookTable() []HookFact {
	var facts []HookFact
	for _, h := range table {
		if len(facts) == 0 || facts[len(facts)-1].Name != h.fact {
			facts = append(facts, HookFact{Name: h.fact, Without: without[h.fact]})
		}
		way := h.kind + " `" + strings.Join(h.targets, "` and `") + "`"
		if h.params != 0 {
			way += fmt.Sprintf(" of %d arguments", h.params)
		}
		if h.optIn != "" {
			way += ", if asked for"
		}
		f := &facts[len(facts)-1]
		f.Ways = append(f.Ways, way)
	}
	return facts
}

// rows of the hook table as they came out.
type hookResult struct {
	hook
	target   string
	attached bool
	reason   string
}

func (r *hookResult) event() event.Hook {
	return event.Hook{Fact: r.fact, Hook: r.target, Kind: r.kind, Attached: r.attached, Reason: r.reason}
}

// errUnsuited: this kernel has no such hook, or in another form.
var errUnsuited = errors.New("not in this kernel")

// suits asks BTF, never the version.
func (h *hook) suits(kernel *btf.Spec) error {
	switch h.kind {
	case kindTpBTF:
		var proto *btf.Typedef
		if err := kernel.TypeByName("btf_trace_"+h.targets[0], &proto); err != nil {
			return fmt.Errorf("%w: no tracepoint %s", errUnsuited, h.targets[0])
		}
	case kindFentry, kindFexit:
		var fn *btf.Func
		if err := kernel.TypeByName(h.targets[0], &fn); err != nil {
			return fmt.Errorf("%w: no function %s", errUnsuited, h.targets[0])
		}
		return h.suitsParams(fn)
	}
	return nil
}

func (h *hook) suitsParams(fn *btf.Func) error {
	proto, ok := fn.Type.(*btf.FuncProto)
	if !ok || h.params == 0 || len(proto.Params) == h.params {
		return nil
	}
	return fmt.Errorf("%w: %s takes %d arguments, this program expects %d",
		errUnsuited, fn.Name, len(proto.Params), h.params)
}

// attach connects a loaded program to one kernel name.
func (h *hook) attach(prog *ebpf.Program, target string) (link.Link, error) {
	switch h.kind {
	case kindIter:
		return link.AttachIter(link.IterOptions{Program: prog})
	case kindTracepoint:
		return link.Tracepoint("syscalls", target, prog, nil)
	default:
		return link.AttachTracing(link.TracingOptions{Program: prog})
	}
}

// why words an error of loading or attaching for a user. Not permitted and not
// supported are different things to do something about.
func why(err error) string {
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, errUnsuited):
		return err.Error()
	case errors.As(err, &verifier) && len(verifier.Log) > 0:
		return fmt.Sprintf("rejected by the verifier, a defect of tcpwaitd: %v", err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		// The library blames RLIMIT_MEMLOCK, which matters before 5.11 only.
		return "not permitted by this kernel"
	case errors.Is(err, os.ErrNotExist):
		return fmt.Sprintf("not found: %v", err)
	default:
		return fmt.Sprintf("not supported by this kernel: %v", err)
	}
}
