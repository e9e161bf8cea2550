package tracer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// StackSink gets what arrives about stacks, between the transitions and before the one
// that names them, from the goroutine that reads the ring: it must be quick.
type StackSink interface {
	// Stack is a stack that was walked in the kernel; it may be kept.
	Stack(StackSeen)
	// RawStack is one that was not, or not far enough; it may be kept.
	RawStack(RawStack)
	// Exec: the process runs another program; which one is told if it was wanted, and the
	// path by which it was started. Exit: it is gone.
	Exec(pid uint32, program object.Key, path string)
	Exit(pid uint32)
}

// StackSeen is a stack and what the kernel side did not know.
type StackSeen struct {
	event.Stack
	// Missing is the mapping without a table that ended the walk; its Key is zero otherwise.
	Missing object.VMA
	// NewProcess: nobody has set a runtime for the process.
	NewProcess bool
}

// Registers as a rule can start from them: the order of enum reg in bpf/events.h.
type Registers [bpfRegMax]uint64

// The registers that are used by name.
const (
	RegPC     = 2
	RegSP     = 3
	RegFP     = 4
	bpfRegMax = 16
)

// RawStack is a thread's registers and the innermost part of its stack.
type RawStack struct {
	ID     event.StackID
	At     event.KTime
	Task   event.Task
	Regs   Registers
	Memory []byte // from the stack pointer on
	// ThreadPointer is what pthread_self() gives in the thread; 0 unknown.
	ThreadPointer uint64
	// Reason is why the kernel side did not walk it.
	Reason  event.UnwindReason
	Missing object.VMA
	// NewProcess: nobody has set a runtime for the process.
	NewProcess bool
}

// StackConfig chooses which stacks are taken. The zero value takes none.
type StackConfig struct {
	// Sink gets them; nil: none are taken.
	Sink StackSink
	// PerSecond is how many one process may have, 0 is 2,000.
	PerSecond int
	// StuckAfter is the age from which the close of a wait has its stack taken, in ns.
	StuckAfter uint64
	// AllCloses: every close has.
	AllCloses bool
	// Unwinder is the way to walk: "" the best one that the kernel has.
	Unwinder Unwinder
}

// Unwinder is a way to walk user stacks.
type Unwinder string

// The ways, best first.
const (
	// UnwindTables: in the kernel, by tables made in Go. Needs 5.17 on amd64.
	UnwindTables Unwinder = "tables"
	// UnwindRaw: Go programs by frame pointers, the others in Go on a copy of the stack.
	UnwindRaw Unwinder = "raw"
	// UnwindFP: by frame pointers.
	UnwindFP Unwinder = "frame pointers"
	// UnwindNone: no stacks.
	UnwindNone Unwinder = "none"
)

const defaultStacksPerSecond = 2000

// number is that of enum unwinding in bpf/config.h.
func (u Unwinder) number() uint32 {
	switch u {
	case UnwindTables:
		return uint32(bpfUnwindingUNWINDER_TABLES)
	case UnwindRaw:
		return uint32(bpfUnwindingUNWINDER_RAW)
	case UnwindFP:
		return uint32(bpfUnwindingUNWINDER_FP)
	default:
		return uint32(bpfUnwindingUNWINDER_NONE)
	}
}

// bestUnwinder asks BTF what this kernel has, and says why it is not the best.
func bestUnwinder(types *btf.Spec) (Unwinder, string) {
	if !isX86(types) {
		return UnwindFP, "unwind tables are used on amd64 only"
	}
	if err := bpfFunctions(types, "BPF_FUNC_loop", "BPF_FUNC_find_vma"); err != nil {
		return UnwindRaw, err.Error()
	}
	return UnwindTables, "first choice that this kernel has"
}

func isX86(types *btf.Spec) bool {
	var regs *btf.Struct
	if types.TypeByName("pt_regs", &regs) != nil {
		return false
	}
	for _, m := range regs.Members {
		if m.Name == "ip" {
			return true
		}
	}
	return false
}

// bpfFunctions looks for helper functions: the kernel lists them in an enum.
func bpfFunctions(types *btf.Spec, names ...string) error {
	var ids *btf.Enum
	if err := types.TypeByName("bpf_func_id", &ids); err != nil {
		return fmt.Errorf("this kernel does not list its helper functions: %w", err)
	}
	have := make(map[string]bool, len(ids.Values))
	for _, v := range ids.Values {
		have[v.Name] = true
	}
	for _, name := range names {
		if !have[name] {
			return fmt.Errorf("%w: no helper %s (5.17 has it)", errUnsuited, name)
		}
	}
	return nil
}

// stackMaps are needed only where stacks are taken; they are made as small as they can be
// elsewhere.
var stackMaps = []string{"walks", "memos", "rules", "runtimes", "budgets", "seen", "wanted_programs"}

// apply chooses the way of unwinding before the programs are loaded.
func (c *StackConfig) apply(spec *ebpf.CollectionSpec, u Unwinder) error {
	if u == UnwindNone {
		for _, name := range stackMaps {
			resize(spec, name, 1)
		}
	}
	perSecond := c.PerSecond
	if perSecond == 0 {
		perSecond = defaultStacksPerSecond
	}
	for name, value := range map[string]any{
		"unwinder":     u.number(),
		"stacks_per_s": uint32(perSecond),
		"stuck_after":  c.StuckAfter,
		"all_closes":   flag(c.AllCloses),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// Unwinder returns the way stacks are walked, and why this one.
func (t *Tracer) Unwinder() (Unwinder, string) { return t.unwinder, t.unwinderWhy }

// PutRules gives the kernel side the rules from number first on.
func (t *Tracer) PutRules(first int, rules []Rule) error {
	for i, r := range rules {
		if err := t.maps.Maps["rules"].Put(uint32(first+i), r); err != nil {
			return fmt.Errorf("put unwind rule %d: %w", first+i, err)
		}
	}
	return nil
}

// Rule is one rule of an unwind table, as struct rule in bpf/events.h.
type Rule struct {
	Flags, Base, Aux, Pad uint8
	Param, AuxParam       int32
}

// PutTable gives the kernel side the table of a file: ascending rows of file offset and,
// above 32 bits, rule. The rules must be there.
func (t *Tracer) PutTable(key object.Key, id event.ObjectID, rows []uint64) error {
	inner, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "table", Type: ebpf.Array, KeySize: 4, ValueSize: 8,
		MaxEntries: uint32(len(rows) + 1),
		Flags:      innerMapFlags,
	})
	if err != nil {
		return fmt.Errorf("make unwind table: %w", err)
	}
	// The outer map keeps it.
	defer inner.Close()
	if err := fillTable(inner, id, rows); err != nil {
		return err
	}
	k := keyOf(key)
	err = t.maps.Maps["tables"].Put(&k, inner)
	if err != nil {
		return fmt.Errorf("put unwind table: %w", err)
	}
	return nil
}

// Flags of the tables: of different sizes under one outer map, filled as memory.
const innerMapFlags = unix.BPF_F_INNER_MAP | unix.BPF_F_MMAPABLE

// fillTable writes rows behind row 0, which holds how many there are and the file's number.
func fillTable(m *ebpf.Map, id event.ObjectID, rows []uint64) error {
	size := (len(rows) + 1) * 8
	mem, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map unwind table of %d bytes: %w", size, err)
	}
	to := unsafe.Slice((*uint64)(unsafe.Pointer(&mem[0])), len(rows)+1)
	to[0] = uint64(len(rows)) | uint64(id)<<32
	copy(to[1:], rows)
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("unmap unwind table: %w", err)
	}
	return nil
}

// DropTable forgets a table.
func (t *Tracer) DropTable(key object.Key) error {
	k := keyOf(key)
	if err := t.maps.Maps["tables"].Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("drop unwind table: %w", err)
	}
	return nil
}

func keyOf(k object.Key) bpfFileKey {
	return bpfFileKey{Ino: k.Ino, Ctime: k.Ctime, Dev: k.Dev}
}

// SetWanted chooses the programs whose next start is told at once: their tables are missing
// and their processes do not live long enough to be looked at afterwards.
func (t *Tracer) SetWanted(add, drop []object.Key, total int) error {
	m := t.maps.Maps["wanted_programs"]
	for _, key := range add {
		k := keyOf(key)
		if err := m.Put(&k, uint8(1)); err != nil {
			return fmt.Errorf("want a program: %w", err)
		}
	}
	for _, key := range drop {
		k := keyOf(key)
		if err := m.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("want a program no more: %w", err)
		}
	}
	return t.set("wanted_count", uint32(total))
}

// SetRuntime says how to read the frames of a process; a zero runtime says that there is
// nothing to know.
func (t *Tracer) SetRuntime(pid uint32, r *event.Runtime, isGo bool) error {
	c := runtimeOf(r)
	c.Go = flag(isGo)
	if err := t.maps.Maps["runtimes"].Put(pid, &c); err != nil {
		return fmt.Errorf("set runtime of process %d: %w", pid, err)
	}
	return nil
}

func runtimeOf(r *event.Runtime) bpfRuntime {
	p, h := &r.Python, &r.HotSpot
	c := bpfRuntime{
		Python:           p.Runtime,
		InterpretersHead: p.InterpretersHead, ThreadsHead: p.ThreadsHead,
		ThreadNext: p.ThreadNext, ThreadId: p.ThreadID,
		Cframe: p.CFrame, CurrentFrame: p.CurrentFrame, NoCframe: flag(p.NoCFrame),
		FramePrevious: p.Previous, FrameCode: p.Code,
		FrameInstruction: p.Instruction, FrameEntry: p.Entry,
		EntryMask: p.EntryMask, EntryValue: p.EntryValue,
		InterpreterLow: h.InterpreterLow, InterpreterHigh: h.InterpreterHigh,
		SegmentLog2: h.SegmentLog2, BlockHeader: h.BlockHeader, BlobFrameSize: h.FrameSize,
		Hotspot: flag(h.Present()), V8: flag(r.V8), Trampoline: flag(r.PythonTrampoline),
	}
	for i, heap := range h.Heaps {
		c.Heaps[i] = bpfCodeHeap{Low: heap.Low, High: heap.High, Segmap: heap.Segmap}
	}
	return c
}

// NotSampled returns for each process how many stacks it had too many.
func (t *Tracer) NotSampled() (map[uint32]uint64, error) {
	all := map[uint32]uint64{}
	var pid uint32
	var b bpfBudget
	var spents []bpfSpent
	if err := t.maps.Maps["spents"].Lookup(uint32(0), &spents); err != nil {
		return nil, fmt.Errorf("read spent stack budgets: %w", err)
	}
	it := t.maps.Maps["budgets"].Iterate()
	for it.Next(&pid, &b) {
		n := b.Limited
		for _, s := range spents {
			if s.Tgid == pid && s.Epoch == b.Epoch {
				n += s.Limited
			}
		}
		if n > 0 {
			all[pid] = n
		}
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read stack budgets: %w", err)
	}
	return all, nil
}

// Mappings returns the executable mappings by process, of one process or, with pid 0, of
// all, as the unwinder sees them.
func (t *Tracer) Mappings(ctx context.Context, pid uint32) (map[uint32][]object.VMA, error) {
	raw, err := t.readRows(ctx, factMappings, pid)
	if err != nil {
		return nil, err
	}
	all := map[uint32][]object.VMA{}
	for len(raw) >= mappingRowSize {
		row := (*bpfMappingRow)(unsafe.Pointer(&raw[0]))
		all[row.Tgid] = append(all[row.Tgid], vmaOf(&row.Mapping))
		raw = raw[mappingRowSize:]
	}
	return all, nil
}

// Threads returns where the threads of a process stand now: those that wait in the
// kernel. The process is not stopped.
func (t *Tracer) Threads(ctx context.Context, pid uint32) ([]RawStack, error) {
	raw, err := t.readRows(ctx, factThreads, pid)
	if err != nil {
		return nil, err
	}
	var all []RawStack
	var row bpfRawStack
	for len(raw) >= threadRowSize {
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&row)), threadRowSize), raw)
		all = append(all, rawStackOf(&row))
		raw = raw[threadRowSize:]
	}
	return all, nil
}

// errNoIterator: the hook table says why.
var errNoIterator = errors.New("not supported by this kernel")

// maxIteratorBytes bounds what one pass may give: 23,000 threads, or a million mappings.
const maxIteratorBytes = 768 << 20

func (t *Tracer) readRows(ctx context.Context, fact string, pid uint32) ([]byte, error) {
	t.snapshotMu.Lock()
	defer t.snapshotMu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	if t.iters[fact] == nil {
		return nil, fmt.Errorf("read %s: %w", fact, errNoIterator)
	}
	if err := t.set("chosen_tgid", pid); err != nil {
		return nil, err
	}
	r, err := t.iters[fact].Open()
	if err != nil {
		return nil, fmt.Errorf("open iterator of %s: %w", fact, err)
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(contextReader{ctx, r}, maxIteratorBytes))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", fact, err)
	}
	return raw, nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx  context.Context
	from io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}

const (
	stackHeadSize  = int(unsafe.Offsetof(bpfStack{}.Frames))
	frameSize      = int(unsafe.Sizeof(bpfFrame{}))
	rawStackSize   = int(unsafe.Sizeof(bpfRawStack{}))
	threadRowSize  = int(unsafe.Offsetof(bpfRawStack{}.Memory)) + threadBytes
	lifeSize       = int(unsafe.Offsetof(bpfLife{}.Path))
	mappingRowSize = int(unsafe.Sizeof(bpfMappingRow{}))

	// THREAD_BYTES of bpf/threads.h
	threadBytes = 16384

	// enum ring_kind
	ringTransition = 1
	ringStack      = 2
	ringRawStack   = 3
	ringExec       = 4
	ringExit       = 5

	// enum stack_flags
	stackNewProcess = 1 << 0

	// struct frame
	frameKindShift   = 60
	frameReturn      = 1 << 59
	frameObjectShift = 40
	frameObjectMask  = 1<<19 - 1
	frameOffsetMask  = 1<<40 - 1
	frameAddrMask    = 1<<59 - 1
)

// errShort is a record that is shorter than its kind.
var errShort = errors.New("short record")

// decodeStack copies what the sink may keep.
func decodeStack(raw []byte) (StackSeen, error) {
	if len(raw) < stackHeadSize {
		return StackSeen{}, errShort
	}
	head := *(*[stackHeadSize]byte)(raw)
	c := (*bpfStack)(unsafe.Pointer(&head))
	if c.N > uint32(len(c.Frames)) || len(raw) < stackHeadSize+int(c.N)*frameSize {
		return StackSeen{}, errShort
	}
	s := StackSeen{
		Stack: event.Stack{
			ID: event.StackID(c.Id), At: event.KTime(c.At), Task: taskOf(&c.Task),
			Quality: event.Quality(c.Quality), Reason: event.UnwindReason(c.Reason),
			Frames: make([]event.Frame, c.N),
		},
		Missing:    vmaOf(&c.Missing),
		NewProcess: c.Flags&stackNewProcess != 0,
	}
	for i := range s.Frames {
		f := (*bpfFrame)(unsafe.Pointer(&raw[stackHeadSize+i*frameSize]))
		s.Frames[i] = frameOf(f.Where, f.Aux)
	}
	return s, nil
}

func frameOf(where, aux uint64) event.Frame {
	f := event.Frame{
		Kind:   event.FrameKind(where >> frameKindShift),
		Return: where&frameReturn != 0,
		Addr:   where & frameAddrMask, Aux: aux,
	}
	if f.Kind == event.FrameFile {
		f.Object = event.ObjectID(where >> frameObjectShift & frameObjectMask)
		f.Addr = where & frameOffsetMask
	}
	return f
}

func rawStackOf(c *bpfRawStack) RawStack {
	n := min(int(c.Len), len(c.Memory))
	return RawStack{
		ID: event.StackID(c.Id), At: event.KTime(c.At), Task: taskOf(&c.Task),
		ThreadPointer: c.ThreadPointer, Regs: Registers(c.Regs), Memory: append([]byte(nil), c.Memory[:n]...),
		Reason: event.UnwindReason(c.Reason), Missing: vmaOf(&c.Missing),
		NewProcess: c.Flags&stackNewProcess != 0,
	}
}

func vmaOf(c *bpfMapping) object.VMA {
	return object.VMA{
		Start: c.Start, End: c.End, Offset: c.Offset,
		Key: keyFrom(&c.Key),
	}
}

func keyFrom(c *bpfFileKey) object.Key {
	return object.Key{Ino: c.Ino, Ctime: c.Ctime, Dev: c.Dev}
}

// takeStack hands everything that is no transition to the sink.
func (t *Tracer) takeStack(kind uint8, raw []byte) error {
	sink := t.cfg.Stacks.Sink
	if sink == nil {
		return fmt.Errorf("record of kind %d: nobody wants it", kind)
	}
	switch kind {
	case ringStack:
		s, err := decodeStack(raw)
		if err != nil {
			return err
		}
		sink.Stack(s)
	case ringRawStack:
		if len(raw) < rawStackSize {
			return errShort
		}
		sink.RawStack(rawStackOf((*bpfRawStack)(unsafe.Pointer(&raw[0]))))
	case ringExec, ringExit:
		if len(raw) < lifeSize {
			return errShort
		}
		c := (*bpfLife)(unsafe.Pointer(&raw[0]))
		if kind == ringExec {
			sink.Exec(c.Tgid, keyFrom(&c.Program), unix.ByteSliceToString(raw[lifeSize:]))
		} else {
			sink.Exit(c.Tgid)
		}
	default:
		return fmt.Errorf("record of unknown kind %d", kind)
	}
	return nil
}
