package hotspot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// chain is how Waits comes to its read, whatever the JDK does in between.
var chain = []string{
	"sun.nio.ch.SocketDispatcher.read0", "sun.nio.ch.NioSocketImpl.implRead", "java.net.Socket$SocketInputStream.read",
	"Waits$Source.next", "Waits.readRequest", "Waits.request", "Waits.lambda$handle$1", "java.util.stream.IntPipeline$Head.forEach",
	"Waits.handle", "Waits.lambda$serve$0", "Waits.serve", "Waits.main",
}

const (
	// cold is so little work that nothing is compiled, hot so much that everything is.
	cold = 10
	hot  = 30_000
)

// TestStacks compares every frame of every thread with what the JVM itself prints.
func TestStacks(t *testing.T) {
	for _, jdk := range jdks(t) {
		t.Run(jdk.name, func(t *testing.T) {
			for name, options := range map[string][]string{
				"default":     {"-Xbatch"},
				"interpreter": {"-Xint"},
				"other heap": {
					"-Xbatch", "-XX:+UseZGC", "-XX:ReservedCodeCacheSize=64m", "-Xshare:off",
					"-XX:+UnlockExperimentalVMOptions", "-XX:CodeCacheSegmentSize=64",
				},
				"C1": {"-Xbatch", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:+PreserveFramePointer"},
			} {
				t.Run(name, func(t *testing.T) {
					j := startJava(t, jdk, options, nil)
					r := j.detect(t)
					compiled := 0
					for _, work := range []int{cold, hot} {
						j.work(t, work)
						main := j.waitInRead(t)
						got := r.stacks(t, j)
						checkStacks(t, got, parseThreadPrint(j.jcmd(t, "Thread.print")))
						checkOrder(t, functions(got[main]), chain)
						compiled = len(withLine(got[main]))
					}
					if interpreted := name == "interpreter"; interpreted != (compiled == 0) {
						t.Errorf("%d compiled frames after much work", compiled)
					}
				})
			}
		})
	}
}

// withLine are the frames that have one: compiled ones.
func withLine(stack []symbol.Frame) []symbol.Frame {
	return slices.DeleteFunc(slices.Clone(stack), func(f symbol.Frame) bool { return f.Line == 0 })
}

// checkOrder checks that the names are in the stack, in order, among others.
func checkOrder(t *testing.T, stack, names []string) {
	t.Helper()
	rest := stack
	for _, n := range names {
		i := slices.Index(rest, n)
		if i < 0 {
			t.Fatalf("no %s where it belongs in\n\t%s", n, strings.Join(stack, "\n\t"))
		}
		rest = rest[i+1:]
	}
}

// checkStacks compares the stacks of all threads with those that the JVM prints.
func checkStacks(t *testing.T, got, want map[uint32][]symbol.Frame) {
	t.Helper()
	checked := 0
	for tid, frames := range want {
		var mine []symbol.Frame
		for _, f := range got[tid] {
			if f.Kind == symbol.Java {
				mine = append(mine, symbol.Frame{Function: f.Function, File: f.File, Line: f.Line})
			}
		}
		for i := range min(len(mine), len(frames)) {
			if mine[i].Line == 0 {
				mine[i].Line = frames[i].Line // interpreted
			}
			if frames[i].File == "" {
				mine[i].File = "" // printed as "Native Method"
			}
		}
		if !slices.Equal(mine, frames) {
			t.Errorf("thread %d: got\n%v\nwant\n%v", tid, mine, frames)
		}
		checked++
	}
	if checked < 3 { // main, Reference Handler, Finalizer
		t.Errorf("only %d threads to compare", checked)
	}
}

var (
	threadLine = regexp.MustCompile(`^".*nid=(\w+) `)
	frameLine  = regexp.MustCompile(`^\tat (.*)\((?:[^()/]*/)?([^()/:]*)(?::(\d+))?\)$`)
	hidden     = regexp.MustCompile(`/0x[0-9a-f]+`)
)

// parseThreadPrint reads the Java stacks of "jcmd Thread.print", by thread id.
func parseThreadPrint(text string) map[uint32][]symbol.Frame {
	all := map[uint32][]symbol.Frame{}
	tid := uint32(0)
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if m := threadLine.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseUint(m[1], 0, 32)
			tid = uint32(n)
		}
		if m := frameLine.FindStringSubmatch(line); m != nil {
			f := symbol.Frame{Function: hidden.ReplaceAllString(m[1], "")}
			if m[3] != "" {
				f.File = m[2]
				f.Line, _ = strconv.Atoi(m[3])
			}
			all[tid] = append(all[tid], f)
		}
	}
	return all
}

// TestLayout compares the code heaps with what the JVM itself prints.
func TestLayout(t *testing.T) {
	bounds := regexp.MustCompile(`bounds \[(0x[0-9a-f]+), 0x[0-9a-f]+, (0x[0-9a-f]+)\]`)
	for _, jdk := range jdks(t) {
		t.Run(jdk.name, func(t *testing.T) {
			j := startJava(t, jdk, nil, nil)
			r := j.detect(t)
			var want, got []string
			for _, m := range bounds.FindAllStringSubmatch(j.jcmd(t, "Compiler.codecache"), -1) {
				want = append(want, m[1]+"-"+m[2])
			}
			layout, err := r.Refresh()
			if err != nil || layout != r.Layout() || !layout.Present() {
				t.Errorf("Refresh: %+v, %v", layout, err)
			}
			for _, h := range layout.Heaps {
				if h.High != 0 {
					got = append(got, fmt.Sprintf("%#016x-%#016x", h.Low, h.High))
				}
			}
			slices.Sort(want)
			slices.Sort(got)
			if len(want) == 0 || !slices.Equal(got, want) {
				t.Errorf("heaps at %v, want %v", got, want)
			}
			if want := regexp.MustCompile(`\d+`).FindString(jdk.home); strconv.Itoa(r.Version()) != want {
				t.Errorf("version %d in %s", r.Version(), jdk.home)
			}
		})
	}
}

// TestCompiledMethods names all that is compiled, and compares that with what the JVM
// itself prints.
func TestCompiledMethods(t *testing.T) {
	line := regexp.MustCompile(`^\d+ +-?\d+ +-?\d+ +(\S+)\(\S* +\[(0x[0-9a-f]+), (0x[0-9a-f]+) - `)
	for _, jdk := range jdks(t) {
		t.Run(jdk.name, func(t *testing.T) {
			j := startJava(t, jdk, []string{"-Xbatch"}, nil)
			j.work(t, hot)
			r := j.detect(t)
			methods := 0
			for text := range strings.Lines(j.jcmd(t, "Compiler.codelist")) {
				m := line.FindStringSubmatch(text)
				if m == nil {
					continue
				}
				methods++
				want := hidden.ReplaceAllString(m[1], "")
				blob, _ := strconv.ParseUint(m[2], 0, 64)
				code, _ := strconv.ParseUint(m[3], 0, 64)
				got, ok := r.Name(&event.Frame{Kind: event.FrameCompiled, Addr: code, Aux: blob})
				if !ok || got.Function != want || got.Kind != symbol.Java || got.Offset != code {
					t.Errorf("%s is named %+v, %v", want, got, ok)
				}
			}
			if methods < 50 {
				t.Errorf("only %d methods", methods)
			}
		})
	}
}

// TestPlacesExpand checks that what compiled methods know of their calls is understood:
// each leads back to the method itself.
func TestPlacesExpand(t *testing.T) {
	for _, jdk := range jdks(t) {
		t.Run(jdk.name, func(t *testing.T) {
			j := startJava(t, jdk, []string{"-Xbatch"}, nil)
			j.work(t, hot)
			r := j.detect(t)
			places, deepest := 0, 0
			for _, b := range allBlobs(r) {
				if blobName(r, b) != blobNmethod {
					continue
				}
				method := b.head.u64(r.offsets.nmethodMethod)
				outer := r.method(method).function
				scopes, _ := r.scopes(b)
				descs := pcDescs(t, r, b)
				for _, pc := range descs {
					f := event.Frame{Kind: event.FrameCompiled, Return: true, Addr: b.code + uint64(pc), Aux: b.addr}
					names := r.Names(&f)
					if len(names) == 0 || names[len(names)-1].Function != outer {
						t.Fatalf("%s at %d is %v", outer, pc, names)
					}
					if at, ok := r.findPC(scopes, uint32(pc)); !ok || r.inlined(scopes, at, method, f.Addr) == nil {
						t.Errorf("%s at %d does not lead back: %v", outer, pc, names)
					}
					places++
					deepest = max(deepest, len(names))
					f.Addr++
					if _, ok := slices.BinarySearch(descs, pc+1); !ok && r.Names(&f) != nil {
						t.Errorf("%s has a name at %d, which is no call", outer, pc+1)
					}
				}
			}
			t.Logf("%d places, up to %d methods deep", places, deepest)
			if places < 500 || deepest < 5 {
				t.Errorf("only %d places, up to %d methods deep", places, deepest)
			}
		})
	}
}

// pcDescs are the places that a method knows. HotSpot puts guards before and after them.
func pcDescs(t *testing.T, r *Runtime, b *blob) []int32 {
	t.Helper()
	s, ok := r.scopes(b)
	if !ok {
		t.Fatal("places are not known")
	}
	data, err := r.memory.read(s.pcs, int(s.pcsEnd-s.pcs))
	if err != nil {
		t.Fatal(err)
	}
	var all []int32
	for at := uint64(0); at < uint64(len(data)); at += r.offsets.pcDescSize {
		all = append(all, int32(data.u32(at+r.offsets.pcDescPC)))
	}
	if len(all) < 2 || all[0] != -1 || !slices.IsSorted(all) {
		t.Fatalf("places of blob %#x are %d", b.addr, all)
	}
	return all[1 : len(all)-1]
}

// allBlobs walks the segment maps.
func allBlobs(r *Runtime) []*blob {
	var all []*blob
	w := walker{memory: r.memory, layout: r.layout}
	for _, h := range r.layout.Heaps {
		for at := h.Low; at < h.High; at += 1 << r.layout.SegmentLog2 {
			segment := (at - h.Low) >> r.layout.SegmentLog2
			if v, err := r.memory.read(h.Segmap+segment, 1); err != nil {
				break // the rest is not committed
			} else if v[0] != 0 {
				continue
			}
			f := event.Frame{Kind: event.FrameCompiled, Aux: w.blob(at), Addr: h.High}
			block, err := r.memory.read(at, int(r.offsets.blockHeader))
			if err != nil {
				break
			}
			f.Addr = at + block.u64(r.offsets.blockLength)&0xffffffff<<r.layout.SegmentLog2
			if b := r.blob(&f); b != nil {
				all = append(all, b)
			}
		}
	}
	return all
}

func blobName(r *Runtime, b *blob) string {
	name, _ := newPages(r.memory, 2).text(b.name, maxBlobName)
	return name
}

// TestStubs: code that is no method has a name too.
func TestStubs(t *testing.T) {
	for _, jdk := range jdks(t) {
		t.Run(jdk.name, func(t *testing.T) {
			r := startJava(t, jdk, nil, nil).detect(t)
			names := map[string]bool{}
			for _, b := range allBlobs(r) {
				if n := blobName(r, b); n == blobNmethod || n == blobNative {
					continue
				}
				f, ok := r.Name(&event.Frame{Kind: event.FrameCompiled, Addr: b.code, Aux: b.addr})
				if !ok || f.Kind != symbol.Native || f.Offset != b.code {
					t.Errorf("blob %#x %q: %+v, %v", b.addr, blobName(r, b), f, ok)
				}
				names[f.Function] = true
			}
			for _, want := range []string{"[stub Interpreter]", "[stub I2C/C2I adapters]", "[stub DeoptimizationBlob]"} {
				if !names[want] {
					t.Errorf("no %s among %v", want, names)
				}
			}
		})
	}
}

// TestNothingElseIsAMethod tries every word around real Methods. What is taken for a Method
// must be one: its class must list it.
func TestNothingElseIsAMethod(t *testing.T) {
	const around = 64 << 10
	for _, jdk := range jdks(t) {
		t.Run(jdk.name, func(t *testing.T) {
			j := startJava(t, jdk, []string{"-Xbatch"}, nil)
			j.work(t, hot)
			r := j.detect(t)
			v := j.vmStructs(t)
			// All that is compiled gives Methods to start from.
			starts := map[uint64]bool{}
			for _, b := range allBlobs(r) {
				if blobName(r, b) == blobNmethod {
					starts[b.head.u64(r.offsets.nmethodMethod)&^(around-1)] = true
				}
			}
			tried, methods := 0, 0
			for start := range starts {
				for addr := start; addr < start+around; addr += pointerSize {
					tried++
					view := r.viewMethod(addr)
					if view == nil || r.newMethod(view) == nil {
						continue
					}
					methods++
					// HotSpot makes methods like linkToStatic by itself, and does not list them.
					name := r.newMethod(view).function
					if !lists(r, v, view, addr) && !strings.HasPrefix(name, "java.lang.invoke.MethodHandle.") {
						t.Errorf("%#x is taken for %s", addr, name)
					}
				}
			}
			t.Logf("%d words, %d methods", tried, methods)
			if methods < 100 {
				t.Errorf("only %d methods found", methods)
			}
		})
	}
}

// lists reports whether the class of a method lists it.
func lists(r *Runtime, v *vmStructs, m *methodView, addr uint64) bool {
	array, _ := r.memory.u64(m.key.holder + v.fields["InstanceKlass._methods"].offset)
	length, _ := r.memory.u32(array)
	list, _ := r.memory.read(array+v.fields["Array<Method*>._data"].offset, int(min(length, 65535))*pointerSize)
	for i := range uint64(length) {
		if list.u64(i*pointerSize) == addr {
			return true
		}
	}
	return false
}

// TestWrongFrames: frames that cannot be have no names.
func TestWrongFrames(t *testing.T) {
	for _, jdk := range jdks(t) {
		t.Run(jdk.name, func(t *testing.T) {
			j := startJava(t, jdk, []string{"-Xbatch"}, nil)
			j.work(t, hot)
			r := j.detect(t)
			all := allBlobs(r)
			i := slices.IndexFunc(all, func(b *blob) bool { return blobName(r, b) == blobNmethod })
			if i < 0 {
				t.Fatal("nothing is compiled")
			}
			b := all[i]
			end := b.addr + uint64(b.head.u32(r.offsets.blobFrameSize)) // any place that is no call
			for name, f := range map[string]event.Frame{
				"native":             {Kind: event.FrameFile, Addr: b.code, Aux: b.addr},
				"none":               {},
				"no method":          {Kind: event.FrameInterpreted},
				"method is unmapped": {Kind: event.FrameInterpreted, Aux: 1},
				"method is code":     {Kind: event.FrameInterpreted, Aux: b.code},
				"method wraps":       {Kind: event.FrameInterpreted, Aux: ^uint64(7)},
				"no blob":            {Kind: event.FrameCompiled, Addr: b.code},
				"blob is no heap's":  {Kind: event.FrameCompiled, Addr: b.code, Aux: 0x1000},
				"not aligned":        {Kind: event.FrameCompiled, Addr: b.code, Aux: b.addr + 8},
				"before its code":    {Kind: event.FrameCompiled, Addr: b.addr, Aux: b.addr},
				"after its code":     {Kind: event.FrameCompiled, Addr: b.addr + 64<<20, Aux: b.addr},
				"returns to no call": {Kind: event.FrameCompiled, Return: true, Addr: end | 1<<12, Aux: b.addr},
				"end of the heap":    {Kind: event.FrameCompiled, Addr: r.layout.Heaps[0].High, Aux: r.layout.Heaps[0].High - 128 + 8},
			} {
				if got := r.Names(&f); got != nil {
					t.Errorf("%s: %v", name, got)
				}
			}
		})
	}
}

// TestDeoptimized: a class that was not there when code was compiled makes it wrong. The
// frames that are in it then return elsewhere. They keep the name of the method, and lose
// those that were inlined.
func TestDeoptimized(t *testing.T) {
	for _, jdk := range jdks(t) {
		t.Run(jdk.name, func(t *testing.T) {
			j := startJava(t, jdk, []string{"-Xbatch"}, []string{"surprise"})
			j.work(t, hot)
			main := j.waitInRead(t)
			r := j.detect(t)
			before := functions(r.stacks(t, j)[main])
			checkOrder(t, before, chain)
			if _, err := j.stdin.Write([]byte("!")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(j.conn, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			after := functions(r.stacks(t, j)[main])
			if len(after) >= len(before) || len(after) < 5 {
				t.Errorf("nothing was taken back:\n\t%s", strings.Join(after, "\n\t"))
			}
			checkOrder(t, before, after)
		})
	}
}

// TestExited: names that were read once are known when the process is gone.
func TestExited(t *testing.T) {
	for _, jdk := range jdks(t) {
		t.Run(jdk.name, func(t *testing.T) {
			j := startJava(t, jdk, []string{"-Xbatch"}, nil)
			j.work(t, hot)
			r := j.detect(t)
			before := map[event.Frame]string{}
			for _, b := range allBlobs(r) {
				method := b.head.u64(r.offsets.nmethodMethod)
				for _, f := range []event.Frame{
					{Kind: event.FrameCompiled, Addr: b.code, Aux: b.addr},
					{Kind: event.FrameInterpreted, Aux: method},
				} {
					if n, ok := r.Name(&f); ok {
						before[f] = n.Function
					}
				}
			}
			if len(before) < 100 {
				t.Fatalf("only %d names", len(before))
			}
			j.kill()
			for f, want := range before {
				if got, ok := r.Name(&f); !ok || got.Function != want {
					t.Errorf("%+v is %v, %v, was %s", f, got, ok, want)
				}
			}
		})
	}
}

// TestVirtualThread: one that has waited has lost its outer frames, one that has not yet
// has them all.
func TestVirtualThread(t *testing.T) {
	for _, jdk := range jdks(t) {
		t.Run(jdk.name, func(t *testing.T) {
			for _, how := range []string{"slept", "fresh"} {
				t.Run(how, func(t *testing.T) {
					if !jdk.hasVirtualThreads() {
						testenv.Skip(t, "virtual threads", "they came with JDK 21")
					}
					j := startJava(t, jdk, nil, []string{how})
					carrier := j.waitIn(t, isRead, isStdin)
					r := j.detect(t)
					stack := r.stacks(t, j)[carrier]
					names := functions(stack)
					checkOrder(t, names, []string{"Waits$Virtual.inner", "java.util.concurrent.ForkJoinWorkerThread.run"})
					thawed := how == "slept"
					if got := Thawed(stack); got != thawed || slices.Contains(names, "Waits$Virtual.outer") == thawed {
						t.Errorf("thawed: %v\n\t%s", got, strings.Join(names, "\n\t"))
					}
				})
			}
		})
	}
}

// hasVirtualThreads asks the release file of a JDK.
func (j *jdk) hasVirtualThreads() bool {
	release, _ := os.ReadFile(j.home + "/release")
	m := regexp.MustCompile(`JAVA_VERSION="(\d+)`).FindSubmatch(release)
	if m == nil {
		return false
	}
	version, _ := strconv.Atoi(string(m[1]))
	return version >= 21
}

// TestDetectStarting looks at JVMs from their first moment on: there is none, then one that
// is starting, and then one that can be read.
func TestDetectStarting(t *testing.T) {
	for _, jdk := range jdks(t) {
		t.Run(jdk.name, func(t *testing.T) {
			for range 5 {
				j, _ := launch(t, jdk, []string{"-Xshare:off"}, nil)
				var r *Runtime
				for end := time.Now().Add(patience); r == nil && time.Now().Before(end); {
					var err error
					if r, err = Detect(j.process(t)); err != nil && !errors.Is(err, ErrStarting) {
						t.Fatal(err)
					}
				}
				if r == nil || !r.layout.Present() {
					t.Error("no JVM found")
				}
				j.kill()
			}
		})
	}
}

func TestDetectNone(t *testing.T) {
	if r, err := Detect(processOf(t, os.Getpid())); r != nil || err != nil {
		t.Errorf("a JVM in a Go program: %v, %v", r, err)
	}
	// A library of that name that is none.
	p := processOf(t, os.Getpid())
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	i := slices.IndexFunc(p.Maps, func(m object.Mapped) bool { return m.Object != nil })
	if i < 0 {
		t.Fatal("no file is mapped")
	}
	p.Maps[i].Object = &object.Object{Path: "/opt/" + libraryName, File: self}
	if r, err := Detect(p); r != nil || err == nil || errors.Is(err, ErrStarting) {
		t.Errorf("a JVM in a Go program: %v, %v", r, err)
	}
}

// TestConcurrentUse: goroutines that name frames at the same time do not disturb each other,
// with what reads processes outside of tests.
func TestConcurrentUse(t *testing.T) {
	j := startJava(t, jdks(t)[0], []string{"-Xbatch"}, nil)
	j.work(t, hot)
	main := j.waitInRead(t)
	p := j.process(t)
	p.Memory = object.OpenMemory(p.Pid)
	r, err := Detect(p)
	if err != nil || r == nil {
		t.Fatalf("%v, %v", r, err)
	}
	frames := r.walkAll(t, j)[main]
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for i := range frames {
				if r.Names(&frames[i]) == nil {
					t.Errorf("no name for %+v", frames[i])
				}
				if l, err := r.Refresh(); err != nil || l != r.Layout() {
					t.Errorf("Refresh: %v", err)
				}
			}
		})
	}
	group.Wait()
}
