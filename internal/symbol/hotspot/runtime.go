package hotspot

import (
	"errors"
	"fmt"
	"sync"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
)

// ErrStarting says that the JVM has not set up its code yet, or looks so. It does within
// some 50 ms of the start of the process: ask again, but not for ever.
var ErrStarting = errors.New("the JVM is still starting")

// Runtime is the HotSpot JVM of one process. Any number of goroutines may use it.
type Runtime struct {
	memory  memory
	offsets *offsets
	// text is libjvm's code: what tables of virtual functions lead to.
	text object.VMA

	mu       sync.Mutex // of what follows
	layout   event.HotSpotLayout
	vtables  map[uint64]struct{}
	methods  map[uint64]*method
	compiled map[event.Frame]*compiled
}

// Detect finds the HotSpot of a process. It returns nil and no error if there is none, an
// error that wraps ErrStarting if it is not ready yet, and any other error if it cannot
// be read: too old, or its tables do not say what is needed. Such a process keeps its
// native frames.
//
// It reads some 3,000 entries, which takes milliseconds: once per process is enough.
func Detect(p *object.Process) (*Runtime, error) {
	library := findLibrary(p)
	if library == nil {
		return nil, nil
	}
	r, err := newRuntime(memory{p.Memory}, library)
	if err != nil {
		return nil, fmt.Errorf("read JVM of process %d: %w", p.Pid, err)
	}
	return r, nil
}

func newRuntime(m memory, library *object.Mapped) (*Runtime, error) {
	e, err := readExports(library.Object.File, &library.VMA)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", libraryName, err)
	}
	return readRuntime(m, e, library.VMA)
}

// readRuntime reads all there is to know from what the library exports. text is its code.
func readRuntime(m memory, e exports, text object.VMA) (*Runtime, error) {
	v, err := readVMStructs(m, e)
	if err != nil {
		return nil, err
	}
	o, err := newOffsets(m, v)
	if err != nil {
		return nil, err
	}
	l, err := o.readLayout(m)
	if err != nil {
		return nil, err
	}
	return &Runtime{
		memory: m, offsets: o, layout: l, text: text,
		vtables: map[uint64]struct{}{}, methods: map[uint64]*method{}, compiled: map[event.Frame]*compiled{},
	}, nil
}

// Version is the major version of the JDK.
func (r *Runtime) Version() int { return int(r.offsets.version) }

// Layout is where the JVM keeps its code. It stays true as long as the JVM runs: heaps
// are given with all the memory that is reserved for them.
func (r *Runtime) Layout() event.HotSpotLayout {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.layout
}

// Refresh reads the layout again. That is needed only where Detect may have met the JVM in
// the milliseconds in which it makes its interpreter, the size of which is cut at the end.
// On an error the old layout stays.
func (r *Runtime) Refresh() (event.HotSpotLayout, error) {
	l, err := r.offsets.readLayout(r.memory)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		return r.layout, fmt.Errorf("read JVM layout: %w", err)
	}
	r.layout = l
	return l, nil
}

// Name names the method that a frame belongs to, as a Java stack trace does:
// java.io.InputStream.read. Of a compiled frame that is the method that was compiled, into
// which others may have been inlined; see Names. Code that is no method gets a name in
// brackets and is symbol.Native: [stub StubRoutines (1)]. It reports false for a frame of
// another kind, and where what is in memory now cannot be what the frame saw.
func (r *Runtime) Name(f *event.Frame) (symbol.Frame, bool) {
	names := r.Names(f)
	if len(names) == 0 {
		return symbol.Frame{}, false
	}
	return names[len(names)-1], true
}

// Names is like Name, with the methods that were inlined at the place of the frame before
// the one that was compiled, innermost first. It returns nil where Name reports false.
// The slice is kept: do not change it.
func (r *Runtime) Names(f *event.Frame) []symbol.Frame {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch f.Kind {
	case event.FrameInterpreted:
		if m := r.method(f.Aux); m != nil {
			return []symbol.Frame{m.frame(place(f), 0)}
		}
		return nil
	case event.FrameCompiled:
		return r.nameCompiled(f)
	default:
		return nil
	}
}

// place is the address of the code that a frame was in: of the call, not behind it.
func place(f *event.Frame) uint64 {
	if f.Return {
		return f.Addr - 1
	}
	return f.Addr
}

// gone reports whether the process cannot be read any more.
func (r *Runtime) gone() bool {
	_, err := r.memory.u64(r.offsets.codeHeaps)
	return err != nil
}
