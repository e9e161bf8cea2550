package stack

import (
	"cmp"
	"context"
	"debug/buildinfo"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol/hotspot"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol/python"
	v8 "github.com/tcpwaitd/tcpwaitd/internal/symbol/v8"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// process is what is known of one process. Only the worker changes it.
type process struct {
	object.Process
	namers  []symbol.Namer
	runtime event.Runtime
	python  *python.Runtime
	java    *hotspot.Runtime
	// gone: it has ended, its pid may be another one's.
	gone bool
}

// forget makes the next stack of the pid that of a new process.
func (k *Keeper) forget(pid uint32) { delete(k.processes, pid) }

// process returns what is known of a pid, nil if nothing is.
func (k *Keeper) process(pid uint32) *process {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.processes[pid]
}

// learnAll looks at processes in one pass over the mappings of all.
func (k *Keeper) learnAll(pids map[uint32]bool) {
	all, err := k.kernel.Mappings(context.Background(), 0)
	if err != nil {
		k.log.Info("executable mappings", "error", err)
		return
	}
	for pid := range pids {
		if vmas := all[pid]; len(vmas) > 0 {
			k.adopt(&event.Task{Pid: pid}, vmas)
		}
	}
	k.learnCommon(all)
	// Reading many files at once leaves more behind than all that follows.
	debug.FreeOSMemory()
	k.log.Info("unwind tables", "processes", len(pids), "files", k.tables.order.Len(), "bytes", k.tables.bytes, "rules", k.tables.uploaded)
}

// What many processes map is what the next one will map, too: libc, mostly. A process that
// lives for a moment only can then be walked when it comes.
const (
	commonTo  = 3
	maxCommon = 16
)

// learnCommon makes the tables of the files that most processes map.
func (k *Keeper) learnCommon(all map[uint32][]object.VMA) {
	type file struct {
		pid uint32
		vma object.VMA
		n   int
	}
	seen := map[object.Key]*file{}
	for pid, vmas := range all {
		for _, vma := range vmas {
			if f := seen[vma.Key]; f != nil {
				f.n++
			} else if vma.Key != (object.Key{}) {
				seen[vma.Key] = &file{pid, vma, 1}
			}
		}
	}
	files := slices.SortedFunc(maps.Values(seen), func(a, b *file) int { return b.n - a.n })
	for _, f := range files[:min(len(files), maxCommon)] {
		if f.n >= commonTo {
			k.open(f.pid, f.vma)
		}
	}
	k.tables.wait()
}

// preload makes the tables of a program that has just been started. Its runtime cannot be
// looked at yet: the process stays unknown until its first stack.
func (k *Keeper) preload(pid uint32) {
	delete(k.attempts, pid)
	all, err := k.kernel.Mappings(context.Background(), pid)
	if err != nil {
		k.log.Debug("executable mappings", "pid", pid, "error", err)
		return
	}
	for _, vma := range all[pid] {
		k.open(pid, vma)
	}
	k.tables.wait()
}

// learn looks at the process of a task, if it is new. What cannot be looked at any more is
// known without mappings: its stacks have no names of its runtime, but are not asked for
// again each time.
func (k *Keeper) learn(t *event.Task) *process {
	if p := k.known(t); p != nil {
		return p
	}
	all, err := k.kernel.Mappings(context.Background(), t.Pid)
	if err != nil || len(all[t.Pid]) == 0 {
		k.log.Debug("executable mappings", "pid", t.Pid, "error", err)
	}
	return k.adopt(t, all[t.Pid])
}

// known returns what is known of the process of a task. Another start time is another
// process with the same pid.
func (k *Keeper) known(t *event.Task) *process {
	p := k.process(t.Pid)
	if p == nil || p.Start != 0 && t.Start != 0 && p.Start != t.Start {
		return nil
	}
	return p
}

// adopt loads what a process runs and tells the kernel side about its runtime.
func (k *Keeper) adopt(t *event.Task, vmas []object.VMA) *process {
	pid := t.Pid
	p := &process{Process: object.Process{Pid: pid, Start: t.Start, Memory: object.OpenMemory(pid)}}
	for _, vma := range vmas {
		p.Maps = append(p.Maps, k.open(pid, vma))
	}
	slices.SortFunc(p.Maps, byStart)
	again := k.detect(p)
	k.tables.wait()
	k.mu.Lock()
	if len(k.processes) >= maxProcesses {
		k.makeRoom()
	}
	k.processes[pid] = p
	k.mu.Unlock()
	// The next stack asks again where a runtime is not ready yet.
	if !again {
		k.tellRuntime(p)
	}
	return p
}

// tellRuntime makes the process known to the kernel side.
func (k *Keeper) tellRuntime(p *process) {
	way, _ := k.kernel.Unwinder()
	if way == tracer.UnwindNone {
		return
	}
	isGo := way == tracer.UnwindRaw && k.isGo(p.Pid)
	if err := k.kernel.SetRuntime(p.Pid, &p.runtime, isGo); err != nil {
		k.log.Info("stacks of a process stay incomplete", "pid", p.Pid, "error", err)
	}
}

// makeRoom forgets a process that is gone, or any.
func (k *Keeper) makeRoom() {
	victim := uint32(0)
	for pid, p := range k.processes {
		victim = pid
		if p.gone {
			break
		}
	}
	delete(k.processes, victim)
	delete(k.attempts, victim)
	k.evicted++
}

// open finds the file of a mapping and gives its table to the kernel side.
func (k *Keeper) open(pid uint32, vma object.VMA) object.Mapped {
	m := object.Mapped{VMA: vma}
	if vma.Key == (object.Key{}) {
		return m
	}
	o, err := k.objects.Open(pid, &vma)
	if errors.Is(err, fs.ErrNotExist) {
		k.want(vma.Key)
	}
	if err != nil {
		k.log.Debug("mapped file", "pid", pid, "error", err)
		return m
	}
	m.Object = o
	k.loadTable(o)
	return m
}

// loadTable: a file without a table costs its frames their callers, nothing else.
func (k *Keeper) loadTable(o *object.Object) {
	if err := k.tables.load(o); err != nil {
		k.log.Debug("unwind table", "file", o.Path, "error", err)
	}
}

// maxAttempts is how often a runtime is looked at that cannot be read: it may be starting,
// or have changed under the reading.
const maxAttempts = 5

// detect finds the language runtimes that are not known yet, and reports whether it is
// worth looking again. One that cannot be read costs its frames' names.
func (k *Keeper) detect(p *process) (again bool) {
	errs := []error{k.detectPython(p), k.detectJava(p), k.detectJS(p)}
	err := errors.Join(errs...)
	if err == nil {
		return false
	}
	if len(k.attempts) > maxProcesses {
		clear(k.attempts)
	}
	k.attempts[p.Pid]++
	again = k.attempts[p.Pid] < maxAttempts
	k.log.Info("frames of a language runtime are not shown", "pid", p.Pid, "error", err, "again", again)
	return again
}

func (k *Keeper) detectPython(p *process) error {
	if p.python != nil {
		return nil
	}
	found, err := python.Detect(&p.Process)
	if err != nil || found == nil {
		return err
	}
	p.python = found
	p.namers = append(p.namers, found)
	// With trampolines every Python frame has a native one, and the perf map its name.
	if p.runtime.PythonTrampoline = found.Trampoline(); !p.runtime.PythonTrampoline {
		p.runtime.Python = found.Layout()
	}
	return nil
}

func (k *Keeper) detectJava(p *process) error {
	if p.java != nil {
		return nil
	}
	found, err := hotspot.Detect(&p.Process)
	if err != nil || found == nil {
		return err
	}
	p.java = found
	p.runtime.HotSpot = found.Layout()
	p.namers = append(p.namers, found)
	return nil
}

func (k *Keeper) detectJS(p *process) error {
	if p.runtime.V8 {
		return nil
	}
	found, err := v8.Detect(&p.Process)
	if err != nil || found == nil {
		return err
	}
	p.runtime.V8 = true
	p.namers = append(p.namers, found)
	return nil
}

// isGo: its own code keeps frame pointers that can be believed.
func (k *Keeper) isGo(pid uint32) bool {
	f, err := os.Open(filepath.Join(k.proc, strconv.FormatUint(uint64(pid), 10), "exe"))
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = buildinfo.Read(f)
	return err == nil
}

func byStart(a, b object.Mapped) int { return cmp.Compare(a.Start, b.Start) }

// learnMapping adds one mapping to a known process: a library that was loaded later.
func (k *Keeper) learnMapping(t *event.Task, vma *object.VMA) *process {
	p := k.learn(t)
	i, found := slices.BinarySearchFunc(p.Maps, object.Mapped{VMA: *vma}, byStart)
	if found && p.Maps[i].Key == vma.Key && p.Maps[i].Object != nil {
		// The table was dropped to make room, or not ready when the stack was taken.
		k.loadTable(p.Maps[i].Object)
		k.tables.wait()
		return p
	}
	list := slices.DeleteFunc(slices.Clone(p.Maps), func(m object.Mapped) bool {
		return m.Start < vma.End && vma.Start < m.End
	})
	list = append(list, k.open(t.Pid, *vma))
	slices.SortFunc(list, byStart)
	return k.refresh(p, list)
}

// refresh looks again for runtimes that are not known yet, in a process with these
// mappings, and tells the kernel side. Who names a stack meanwhile has the old process.
func (k *Keeper) refresh(p *process, list []object.Mapped) *process {
	fresh := &process{
		Process: p.Process, namers: slices.Clone(p.namers), runtime: p.runtime,
		python: p.python, java: p.java, gone: p.gone,
	}
	fresh.Maps = list
	again := k.detect(fresh)
	k.tables.wait()
	k.mu.Lock()
	k.processes[p.Pid] = fresh
	k.mu.Unlock()
	if !again {
		k.tellRuntime(fresh)
	}
	return fresh
}

// learnFor looks at the process of a stack that was walked without knowing its runtime.
func (k *Keeper) learnFor(s *kept) {
	p := k.known(&s.Task)
	if p == nil {
		p = k.learn(&s.Task)
	} else if !p.gone {
		// Known here, not there: it was starting, or made room.
		p = k.refresh(p, p.Maps)
	}
	if p.python == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s.Quality, s.Reason = event.QualityTruncated, event.ReasonNewRuntime
}
