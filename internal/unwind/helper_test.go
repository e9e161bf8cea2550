//go:build amd64

package unwind

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// requireTool returns the path of a program, or skips the test.
func requireTool(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		testenv.Skip(tb, name, err.Error())
	}
	return path
}

// requireFile returns the first file that matches one of the patterns, or skips the test.
func requireFile(tb testing.TB, patterns ...string) string {
	tb.Helper()
	for _, p := range patterns {
		if found, _ := filepath.Glob(p); len(found) > 0 {
			return found[0]
		}
	}
	testenv.Skip(tb, filepath.Base(patterns[0]), "no such file: "+strings.Join(patterns, ", "))
	return ""
}

// build compiles testdata/chain.c.
func build(tb testing.TB, compiler string, flags ...string) string {
	tb.Helper()
	requireTool(tb, compiler)
	out := filepath.Join(tb.TempDir(), "chain")
	args := append([]string{"-O2", "-o", out}, flags...)
	runTool(tb, compiler, append(args, filepath.Join("testdata", "chain.c"))...)
	return out
}

// buildGo compiles testdata/chain.go.
func buildGo(tb testing.TB, flags ...string) string {
	tb.Helper()
	requireTool(tb, "go")
	out := filepath.Join(tb.TempDir(), "chain")
	args := append([]string{"build", "-o", out}, flags...)
	runTool(tb, "go", append(args, filepath.Join("testdata", "chain.go"))...)
	return out
}

func runTool(tb testing.TB, name string, args ...string) {
	tb.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// thread is a thread of a running program that is blocked in a system call.
type thread struct {
	pid, tid int
}

// start runs a program and returns when one of its threads is blocked in the system call:
// by its number and, where that is not enough to tell, its first argument.
func start(tb testing.TB, call int, firstArg string, name string, args ...string) thread {
	tb.Helper()
	cmd := exec.Command(name, args...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	want := strconv.Itoa(call) + " " + firstArg
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", cmd.Process.Pid))
		for _, task := range tasks {
			if b, err := os.ReadFile(task + "/syscall"); err == nil && strings.HasPrefix(string(b), want) {
				tid, _ := strconv.Atoi(filepath.Base(task))
				return thread{cmd.Process.Pid, tid}
			}
		}
	}
	tb.Fatalf("%s %v: no thread entered system call %q", name, args, want)
	return thread{}
}

// Numbers of system calls on x86-64.
const (
	sysRead   = unix.SYS_READ
	sysAccept = unix.SYS_ACCEPT
)

// rawBytes is how much of a stack the kernel side copies.
const rawBytes = 32 << 10

// snapshot takes the registers and the stack of a thread, as the kernel side would.
func (th thread) snapshot(tb testing.TB) *Snapshot {
	tb.Helper()
	runtime.LockOSThread() // ptrace is bound to it
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(th.tid); err != nil {
		if errors.Is(err, unix.EPERM) {
			testenv.Skip(tb, "ptrace", err.Error())
		}
		tb.Fatalf("seize %d: %v", th.tid, err)
	}
	defer func() { _ = unix.PtraceDetach(th.tid) }()
	if err := unix.PtraceInterrupt(th.tid); err != nil {
		tb.Fatalf("interrupt %d: %v", th.tid, err)
	}
	if _, err := unix.Wait4(th.tid, nil, unix.WALL, nil); err != nil {
		tb.Fatalf("wait for %d: %v", th.tid, err)
	}
	var r unix.PtraceRegs
	if err := unix.PtraceGetRegs(th.tid, &r); err != nil {
		tb.Fatalf("registers of %d: %v", th.tid, err)
	}
	s := &Snapshot{Task: event.Task{Pid: uint32(th.pid), Tid: uint32(th.tid)}}
	for reg, v := range map[uint8]uint64{
		RegPC: r.Rip, RegSP: r.Rsp, RegFP: r.Rbp, RegRAX: r.Rax, RegRDI: r.Rdi, RegR8: r.R8, RegR9: r.R9,
		RegR11: r.R11, RegR13: r.R13, RegR15: r.R15,
	} {
		s.Regs[reg] = v
	}
	s.Stack = make([]byte, rawBytes)
	n, err := memory(th.pid).ReadAt(s.Stack, r.Rsp)
	if n == 0 {
		tb.Fatalf("stack of %d: %v", th.tid, err)
	}
	s.Stack = s.Stack[:n]
	return s
}

// memory is the memory of a process by process_vm_readv.
type memory int

func (m memory) ReadAt(buf []byte, addr uint64) (int, error) {
	const page = 4096
	done := 0
	for done < len(buf) { // page by page: one that is not there ends a larger copy early
		n := min(len(buf)-done, page-int((addr+uint64(done))%page))
		local := []unix.Iovec{{Base: &buf[done], Len: uint64(n)}}
		remote := []unix.RemoteIovec{{Base: uintptr(addr) + uintptr(done), Len: n}}
		got, err := unix.ProcessVMReadv(int(m), local, remote, 0)
		if err != nil {
			return done, err
		}
		if done += got; got < n {
			return done, io.ErrUnexpectedEOF
		}
	}
	return done, nil
}

// process describes a running process from /proc.
func process(tb testing.TB, pid int) *object.Process {
	tb.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	p := &object.Process{Pid: uint32(pid), Memory: memory(pid)}
	objects := map[string]*object.Object{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var v object.VMA
		var perms, dev, path string
		var ino uint64
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s %x %s %d %s", &v.Start, &v.End, &perms, &v.Offset, &dev, &ino, &path); n < 6 {
			tb.Fatalf("maps of %d: %q", pid, lines.Text())
		}
		if perms[2] != 'x' {
			continue
		}
		m := object.Mapped{VMA: v}
		if ino != 0 {
			m.Key = object.Key{Ino: ino}
			if objects[path] == nil {
				objects[path] = openObject(tb, path, len(objects)+1)
			}
			m.Object = objects[path]
		}
		p.Maps = append(p.Maps, m)
	}
	return p
}

func openObject(tb testing.TB, path string, id int) *object.Object {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = f.Close() })
	return &object.Object{ID: event.ObjectID(id), Path: path, File: f}
}

// symbols are the functions of one file, by file offset.
type symbols []symbol

type symbol struct {
	start, end uint64
	name       string
}

// readSymbols reads .symtab, and .dynsym for what is not in it.
func readSymbols(tb testing.TB, path string) symbols {
	tb.Helper()
	f, err := elf.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	all, _ := f.Symbols()
	dynamic, _ := f.DynamicSymbols()
	var found symbols
	for _, s := range append(all, dynamic...) {
		if elf.ST_TYPE(s.Info) != elf.STT_FUNC || s.Section == elf.SHN_UNDEF {
			continue
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_LOAD && s.Value >= p.Vaddr && s.Value < p.Vaddr+p.Filesz {
				start := s.Value - p.Vaddr + p.Off
				found = append(found, symbol{start, start + s.Size, s.Name})
			}
		}
	}
	return found
}

// find returns the function at a file offset. Of several the longest name wins, which
// for glibc is the one with the fewest surprises (__libc_start_main@...).
func (s symbols) find(off uint64) (found symbol, ok bool) {
	for _, sym := range s {
		if off >= sym.start && (off < sym.end || sym.start == sym.end && off == sym.start) && (!ok || sym.name < found.name) {
			found, ok = sym, true
		}
	}
	return found, ok
}

// namer names frames.
type namer map[event.ObjectID]symbols

func newNamer(tb testing.TB, p *object.Process) namer {
	tb.Helper()
	n := namer{}
	for _, m := range p.Maps {
		if m.Object != nil && n[m.Object.ID] == nil {
			n[m.Object.ID] = readSymbols(tb, m.Object.Path)
		}
	}
	return n
}

// functions is what an Unwinder can be given.
func (n namer) functions(id event.ObjectID, off uint64) (start, end uint64, ok bool) {
	s, ok := n[id].find(off)
	return s.start, s.end, ok
}

func (n namer) names(frames []event.Frame) []string {
	var names []string
	for _, f := range frames {
		off := f.Addr
		if f.Return {
			off--
		}
		s, ok := n[f.Object].find(off)
		if !ok {
			s.name = fmt.Sprintf("%d+%#x", f.Object, off)
		}
		names = append(names, s.name)
	}
	return names
}

// hasInOrder reports whether want occurs in names in that order, without anything between.
func hasInOrder(names, want []string) bool {
	for i := range names {
		if i+len(want) <= len(names) && slices.Equal(names[i:i+len(want)], want) {
			return true
		}
	}
	return false
}

// gdbPCs returns what gdb takes for the PCs of a thread's frames, inlined ones left out.
func gdbPCs(t *testing.T, th thread) []uint64 {
	t.Helper()
	gdb := requireTool(t, "gdb")
	const script = `
f = gdb.newest_frame()
while f is not None:
    if f.type() != gdb.INLINE_FRAME: print("PC %x" % f.pc())
    f = f.older()
`
	file := filepath.Join(t.TempDir(), "pcs.py")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(gdb, "-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set auto-load off",
		"-p", strconv.Itoa(th.tid), "-ex", "set backtrace past-main on", "-ex", "source "+file).CombinedOutput()
	if err != nil {
		t.Fatalf("gdb: %v\n%s", err, out)
	}
	var pcs []uint64
	for _, line := range strings.Split(string(out), "\n") {
		if hex, ok := strings.CutPrefix(line, "PC "); ok {
			pc, err := strconv.ParseUint(hex, 16, 64)
			if err != nil {
				t.Fatalf("gdb says %q", line)
			}
			pcs = append(pcs, pc)
		}
	}
	if len(pcs) == 0 {
		t.Fatalf("gdb found no frames:\n%s", out)
	}
	return pcs
}
