// Package stack keeps the stacks that come from the kernel side and gives it what it needs
// to walk more of them: unwind tables of the files that processes with sockets run, and
// the layout of their language runtimes.
//
// Everything slow (reading files, unwinding copies, asking a runtime for names) is done
// by one worker, so that the reader of the ring never waits for it.
package stack

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
	"github.com/tcpwaitd/tcpwaitd/internal/unwind"
)

const (
	// maxStacks is how many different stacks are kept: twice what the kernel side takes
	// for sent, about 500 bytes each.
	maxStacks = 32768
	// maxQueue bounds the work that waits; what is beyond is counted as evicted.
	maxQueue = 4096
	// maxProcesses is how many processes are known at a time.
	maxProcesses = 1024
	// cacheBytes bounds the tables held in Go for copies of stacks.
	cacheBytes = 8 << 20
)

// Options of a Keeper.
type Options struct {
	// Proc is where procfs is mounted.
	Proc string
	// Symbols: see symbol.Options.
	Symbols symbol.Options
	// Log gets what went wrong with one file or process; it costs names, nothing else.
	Log *slog.Logger
}

// Keeper keeps stacks. It is a tracer.StackSink; Start it once the tracer is open.
type Keeper struct {
	proc    string
	log     *slog.Logger
	objects *object.Registry
	rules   *unwind.Rules
	tables  *tables
	walker  *unwind.Unwinder
	// Only the worker uses these.
	wanted   map[object.Key]bool
	attempts map[uint32]int // by pid, to read a runtime
	symbols  *symbol.Symbolizer
	kernel   *tracer.Tracer

	mu        sync.Mutex
	changed   *sync.Cond // queue, working or closed
	stacks    map[event.StackID]*list.Element
	order     *list.List // of *kept, newest first
	processes map[uint32]*process
	queue     []func()
	working   bool
	closed    bool
	evicted   uint64
	done      chan struct{}
}

// kept is a stack, and its names once somebody asked or they had to be read at once.
type kept struct {
	event.Stack
	frames []symbol.Frame
	// named: frames are final, even if there are none.
	named bool
	// pending: a copy of the stack waits for being unwound.
	pending bool
}

// New returns a keeper that knows nothing.
func New(o Options) *Keeper {
	k := &Keeper{
		proc: o.Proc, log: o.Log, objects: object.NewRegistry(o.Proc), rules: unwind.NewRules(),
		symbols: symbol.New(o.Symbols),
		stacks:  map[event.StackID]*list.Element{}, order: list.New(),
		processes: map[uint32]*process{}, wanted: map[object.Key]bool{}, attempts: map[uint32]int{}, done: make(chan struct{}),
	}
	k.changed = sync.NewCond(&k.mu)
	k.tables = newTables(k)
	k.walker = k.newWalker()
	return k
}

// Start lets the worker run, and has it learn the processes that have sockets already.
func (k *Keeper) Start(t *tracer.Tracer, pids map[uint32]bool) {
	k.kernel = t
	k.do(func() { k.learnAll(pids) })
	go k.work()
}

// Close ends the worker and frees everything.
func (k *Keeper) Close() error {
	k.mu.Lock()
	started := k.kernel != nil && !k.closed
	k.closed = true
	k.changed.Broadcast()
	k.mu.Unlock()
	if started {
		<-k.done
	}
	return errors.Join(k.symbols.Close(), k.objects.Close())
}

// do queues work. Where too much waits already it is dropped and counted.
func (k *Keeper) do(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.doLocked(f)
}

func (k *Keeper) doLocked(f func()) bool {
	if k.closed || len(k.queue) >= maxQueue {
		k.evicted++
		return false
	}
	k.queue = append(k.queue, f)
	k.changed.Broadcast()
	return true
}

func (k *Keeper) work() {
	defer close(k.done)
	k.mu.Lock()
	defer k.mu.Unlock()
	for {
		for len(k.queue) == 0 && !k.closed {
			k.changed.Wait()
		}
		if k.closed {
			return
		}
		f := k.queue[0]
		k.queue[0] = nil
		k.queue = k.queue[1:]
		k.working = true
		k.mu.Unlock()
		f()
		k.mu.Lock()
		k.working = false
		k.changed.Broadcast()
	}
}

// Settle waits until everything that has arrived is worked in, or ctx ends.
func (k *Keeper) Settle(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.changed.Broadcast()
	})
	defer stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	for (len(k.queue) > 0 || k.working) && !k.closed && ctx.Err() == nil {
		k.changed.Wait()
	}
}

// Pending reports whether one of these stacks waits for being unwound.
func (k *Keeper) Pending(ids *event.Stacks) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		if e := k.stacks[id]; e != nil && e.Value.(*kept).pending {
			return true
		}
	}
	return false
}

// Evicted is how many stacks and pieces of work made room for others.
func (k *Keeper) Evicted() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.evicted
}

// keep stores a stack under its id, in place of what was there.
func (k *Keeper) keep(s *kept) {
	if e := k.stacks[s.ID]; e != nil {
		e.Value = s
		k.order.MoveToFront(e)
		return
	}
	k.stacks[s.ID] = k.order.PushFront(s)
	for k.order.Len() > maxStacks {
		old := k.order.Remove(k.order.Back()).(*kept)
		delete(k.stacks, old.ID)
		k.evicted++
	}
}

// Stack implements tracer.StackSink.
func (k *Keeper) Stack(s tracer.StackSeen) {
	k.mu.Lock()
	defer k.mu.Unlock()
	kept := &kept{Stack: s.Stack}
	k.keep(kept)
	if s.NewProcess {
		k.doLocked(func() { k.learnFor(kept) })
	}
	if s.Missing.Key != (object.Key{}) {
		missing := s.Missing
		k.doLocked(func() { k.learnMapping(&kept.Task, &missing) })
	}
	if hasRuntimeFrames(s.Frames) || k.mustPlace(s.Frames) {
		// What the runtime says is true now; later it may have moved, or be gone.
		k.doLocked(func() { k.name(kept) })
	}
}

// mustPlace: addresses say something only while the process has its mappings.
func (k *Keeper) mustPlace(frames []event.Frame) bool {
	return len(frames) > 0 && frames[len(frames)-1].Kind == event.FrameUnmapped
}

func hasRuntimeFrames(frames []event.Frame) bool {
	for i := range frames {
		switch f := &frames[i]; f.Kind {
		case event.FramePython, event.FrameInterpreted, event.FrameCompiled, event.FrameAnon:
			return true
		default:
			if f.Aux != 0 {
				return true
			}
		}
	}
	return false
}

// RawStack implements tracer.StackSink.
func (k *Keeper) RawStack(r tracer.RawStack) {
	k.mu.Lock()
	defer k.mu.Unlock()
	kept := &kept{Stack: event.Stack{
		ID: r.ID, At: r.At, Task: r.Task, Quality: event.QualityTruncated, Reason: r.Reason,
	}}
	kept.pending = k.doLocked(func() { k.unwindRaw(kept, &r) })
	k.keep(kept)
}

// Exec implements tracer.StackSink: the program is another one.
func (k *Keeper) Exec(pid uint32, program object.Key, path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forget(pid)
	if program != (object.Key{}) {
		// Not for the worker: the process may be gone when it comes to this.
		if o, err := k.objects.OpenProgram(pid, program, path); err == nil {
			k.doLocked(func() { k.readWanted(o) })
		}
		return
	}
	k.doLocked(func() { k.preload(pid) })
}

// Exit implements tracer.StackSink. What is known of the process is kept: its stacks may
// still be asked for.
func (k *Keeper) Exit(pid uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.processes[pid]; p != nil {
		p.gone = true
	}
}
