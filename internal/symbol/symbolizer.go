package symbol

import (
	"cmp"
	"sync"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// Options say what names are made of. The zero value is usable.
type Options struct {
	// Proc is where procfs is mounted, "" means /proc.
	Proc string
	// Lines: look for source lines of native code, too. They cost about as much memory as
	// the .debug_line sections of the objects. Go, Python and the like always have lines.
	Lines bool
	// Debuginfod are servers to ask for debug files that are not on this machine, each
	// http:// or https://. They learn the build ids of what runs here. A stack waits for
	// the download.
	Debuginfod []string
	// DebuginfodCache is the directory for what they send, "" means tcpwaitd/debuginfod in
	// $XDG_CACHE_HOME or /var/cache.
	DebuginfodCache string
	// MaxBytes bounds the tables kept: half of it those of objects, a quarter those of debug
	// files, a quarter perf maps. 0 means 128 MiB. A table that alone is larger is kept
	// until the next one is needed.
	MaxBytes int64
	// MaxFrames bounds the frames remembered with their names, 0 means 65536.
	MaxFrames int
	// MaxProcesses bounds the processes of which is remembered what their root directory
	// is, 0 means 1024.
	MaxProcesses int
}

const (
	defaultMaxBytes     = 128 << 20
	defaultMaxFrames    = 1 << 16
	defaultMaxProcesses = 1024
)

// Namer names the frames of one language runtime in one process. It returns false for
// frames that are not its own. A frame of kind Python without a function is one that
// CPython itself made, and is left out.
type Namer interface {
	Name(f *event.Frame) (Frame, bool)
}

// Expander is a Namer of a runtime that inlines calls. Names returns the frame that Name
// does, last, behind those that were inlined at its place, innermost first; nil where
// Name reports false.
type Expander interface {
	Namer
	Names(f *event.Frame) []Frame
}

// Symbolizer turns frames into names. It may be used from several goroutines. It blocks on
// files, up to ten seconds for one that does not answer, and on servers.
type Symbolizer struct {
	proc   procfs
	lines  bool
	limits limits
	remote *debuginfod // nil: none

	mu        sync.Mutex
	images    *lru[imageKey, *image]
	debug     *lru[debugKey, *debugInfo] // nil where there is none
	perf      *lru[processKey, *perfMap]
	memo      *lru[memoKey, []Frame]
	processes *lru[processKey, rootKey]
	guards    *lru[rootKey, *guard] // of what is below a root
}

// limits of the caches, from the Options.
type limits struct{ bytes, frames, processes int64 }

type memoKey struct {
	image    imageKey
	root     rootKey
	off      uint64
	isReturn bool
}

// New returns a Symbolizer.
func New(o Options) *Symbolizer {
	orDefault := func(n, standard int64) int64 {
		if n <= 0 {
			return standard
		}
		return n
	}
	s := &Symbolizer{proc: procfs(cmp.Or(o.Proc, "/proc")), lines: o.Lines, limits: limits{
		bytes:     orDefault(o.MaxBytes, defaultMaxBytes),
		frames:    orDefault(int64(o.MaxFrames), defaultMaxFrames),
		processes: orDefault(int64(o.MaxProcesses), defaultMaxProcesses),
	}}
	s.forget()
	if len(o.Debuginfod) > 0 {
		s.remote = newDebuginfod(o.Debuginfod, o.DebuginfodCache)
	}
	return s
}

// forget starts with empty caches.
func (s *Symbolizer) forget() {
	s.images = newLRU[imageKey, *image](s.limits.bytes / 2)
	s.debug = newLRU[debugKey, *debugInfo](s.limits.bytes / 4)
	s.perf = newLRU[processKey, *perfMap](s.limits.bytes / 4)
	s.memo = newLRU[memoKey, []Frame](s.limits.frames)
	s.processes = newLRU[processKey, rootKey](s.limits.processes)
	s.guards = newLRU[rootKey, *guard](s.limits.processes)
}

// Close forgets everything. The Symbolizer can still be used, and starts anew.
func (s *Symbolizer) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
	if s.remote != nil {
		s.remote.client.CloseIdleConnections()
	}
	return nil
}

// Frames names the frames of one stack, innermost first: native frames as the objects name
// them, others as the runtimes do, Python's in the places of the interpreter's. There can
// be more of them than frames, where calls are inlined, and fewer. p is the process, nil if
// it is not known any more; it may be gone. objects returns nil for what it does not know.
func (s *Symbolizer) Frames(p *object.Process, objects func(event.ObjectID) *object.Object, runtimes []Namer, frames []event.Frame) []Frame {
	c := &call{s: s, p: p, objects: objects, runtimes: runtimes}
	var native []Frame
	var python [][]Frame
	open := false // the last run of Python frames goes on
	for i := range frames {
		f := &frames[i]
		if f.Kind != event.FramePython {
			native = append(native, c.name(f)...)
			continue
		}
		if !open {
			python = append(python, nil)
		}
		open = !f.Return
		if named, ok := c.python(f); ok {
			last := len(python) - 1
			python[last] = append(python[last], named)
		}
	}
	return mergePython(native, python)
}

// Function returns the bounds of the function at a file offset, as file offsets: end is
// that of the first byte behind it. false: no symbol covers it.
func (s *Symbolizer) Function(o *object.Object, off uint64) (start, end uint64, ok bool) {
	if o == nil {
		return 0, 0, false
	}
	m, ok := s.image(o)
	if !ok {
		return 0, 0, false
	}
	// Without a process and servers: this may be asked while a stack waits to be unwound.
	var debug *debugInfo
	if m.wantsDebug {
		debug = s.hostDebug(m)
	}
	type bounds struct {
		start, end uint64
		ok         bool
	}
	found, _ := guarded(&m.guard, func() (b bounds) {
		b.start, b.end, b.ok = m.bounds(off, debug)
		return b
	})
	return found.start, found.end, found.ok
}

// call is one call of Frames.
type call struct {
	s        *Symbolizer
	p        *object.Process
	objects  func(event.ObjectID) *object.Object
	runtimes []Namer
	// perf is the perf map of the process, looked for once.
	perf     *perfMap
	perfDone bool
}

// name names one frame that is not Python's.
func (c *call) name(f *event.Frame) []Frame {
	if f.Kind == event.FrameNone {
		return nil
	}
	managed := f.Kind != event.FrameFile && f.Kind != event.FrameUnmapped
	if managed || f.Aux != 0 {
		if named := c.managed(f); named != nil {
			return named
		}
	}
	switch f.Kind {
	case event.FrameFile:
		return c.native(c.objects(f.Object), f.Addr, f.Return)
	case event.FrameUnmapped:
		if o, off, ok := c.mapped(f); ok {
			return c.native(o, off, f.Return)
		}
		return []Frame{{Kind: Native, Offset: f.Addr}}
	default:
		return []Frame{c.generated(f)}
	}
}

// managed asks the runtimes.
func (c *call) managed(f *event.Frame) []Frame {
	for _, r := range c.runtimes {
		if e, ok := r.(Expander); ok {
			if named := e.Names(f); len(named) > 0 {
				return named
			}
		} else if named, ok := r.Name(f); ok {
			return []Frame{named}
		}
	}
	return nil
}

// python names a Python frame; one that no runtime knows keeps its place. false: CPython
// itself made the frame.
func (c *call) python(f *event.Frame) (Frame, bool) {
	for _, r := range c.runtimes {
		if named, ok := r.Name(f); ok {
			return named, named.Function != "" || named.Kind != Python
		}
	}
	return Frame{Kind: Python, Offset: f.Addr}, true
}

// mapped finds the object of an address in the mappings of the process.
func (c *call) mapped(f *event.Frame) (o *object.Object, off uint64, ok bool) {
	if c.p == nil {
		return nil, 0, false
	}
	for i := range c.p.Maps {
		m := &c.p.Maps[i]
		// A return address behind a call that ends a mapping is one beyond its end.
		at := f.Addr
		if f.Return {
			at--
		}
		if at >= m.Start && at < m.End && m.Object != nil {
			return m.Object, f.Addr - m.Start + m.Offset, true
		}
	}
	return nil, 0, false
}

// generated names code in memory by the perf map.
func (c *call) generated(f *event.Frame) Frame {
	addr := f.Addr
	if f.Return {
		addr--
	}
	if f.Kind != event.FrameInterpreted {
		if !c.perfDone {
			c.perf, c.perfDone = c.s.perfMapOf(c.p), true
		}
		if c.perf != nil {
			if name := c.perf.find(addr); name != "" {
				return perfFrame(name, addr)
			}
		}
	}
	return Frame{Kind: JIT, Offset: addr}
}

// native names code of a file.
func (c *call) native(o *object.Object, off uint64, isReturn bool) []Frame {
	if o == nil {
		return []Frame{{Kind: Native, Offset: off}}
	}
	s := c.s
	nameless := []Frame{{Kind: Native, Module: o.Path, Offset: off}}
	m, ok := s.image(o)
	if !ok {
		return nameless
	}
	key := memoKey{image: m.key, off: off, isReturn: isReturn}
	if m.wantsDebug {
		key.root = s.rootOf(c.p)
	}
	s.mu.Lock()
	known, ok := s.memo.get(key)
	s.mu.Unlock()
	if ok {
		return known
	}
	var debug *debugInfo
	final := true
	if m.wantsDebug {
		debug, final = s.debugFor(m, c.p, key.root)
	}
	type named struct {
		frames []Frame
		final  bool
	}
	n, ok := guarded(&m.guard, func() named {
		m.failed = false
		frames := m.frames(off, isReturn, debug)
		return named{frames, final && !m.failed}
	})
	if !ok {
		return nameless
	}
	if n.final {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.memo.put(key, n.frames, int64(len(n.frames)))
	}
	return n.frames
}

// image returns the image of an object. false: it cannot be read now.
func (s *Symbolizer) image(o *object.Object) (*image, bool) {
	key := imageKey{id: o.ID, key: o.Key}
	s.mu.Lock()
	m, ok := s.images.get(key)
	if !ok {
		m = &image{key: key, path: o.Path, lines: s.lines}
		s.images.put(key, m, imageBytes)
	}
	s.mu.Unlock()
	// The registry may have opened the object anew.
	m.file.Store(o.File)
	if m.loaded.Load() {
		return m, true
	}
	cost, ok := guarded(&m.guard, m.load)
	if !ok || !m.loaded.Load() {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images.put(key, m, cost)
	return m, true
}
