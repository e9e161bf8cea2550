package symbol

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"sync/atomic"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// imageBytes is about what an image costs beside its tables.
const imageBytes = 4 << 10

// errClosed is returned by reads of an object whose file the registry closed.
var errClosed = errors.New("object is closed")

// imageKey identifies an image. The build id does not: it is what the file says of itself,
// and one container's word must not name the frames of another one.
type imageKey struct {
	id  event.ObjectID
	key object.Key
}

// image is what is known of the names in one object.
type image struct {
	key   imageKey
	path  string
	lines bool // source lines are wanted
	file  atomic.Pointer[os.File]
	guard guard
	// failed: a read failed, for which the file need not be to blame. Under guard.
	failed bool
	// loaded: what follows is set, and does not change any more.
	loaded atomic.Bool
	// elf is nil for what is no ELF file.
	elf       *elfFile
	golang    *goTable
	functions []*table
	ownLines  *lineTable
	// wantsDebug: a debug file would add something.
	wantsDebug bool
}

// ReadAt reads the object through the file that is open for it now.
func (m *image) ReadAt(b []byte, off int64) (int, error) {
	file := m.file.Load()
	if file == nil {
		return 0, errClosed
	}
	n, err := file.ReadAt(b, off)
	if err != nil {
		m.failed = true
	}
	return n, err
}

// load finds the names in the object itself. It returns about how many bytes they take.
func (m *image) load() int64 {
	if m.loaded.Load() {
		return m.bytes()
	}
	file := m.file.Load()
	if file == nil {
		return imageBytes
	}
	size, err := fileSize(file)
	if err != nil {
		// The registry closed it. It will open it anew.
		return imageBytes
	}
	defer m.loaded.Store(true) // after a panic, too
	if f, err := parseELF(m, size); err == nil {
		m.take(f)
	}
	return m.bytes()
}

// take finds the names in a file. Errors are dropped on purpose: the next source of names
// is tried, and the frames of a file without any show where they are.
func (m *image) take(f *elfFile) {
	m.elf = f
	if g, err := openGo(f); err == nil {
		m.golang = g
	}
	complete := m.loadFunctions()
	if m.lines {
		m.ownLines, _ = readLines(f, f.executable)
	}
	// Go's own table has names and lines of all of Go's code.
	m.wantsDebug = f.buildID != "" && m.golang == nil && (!complete || m.lines && m.ownLines == nil)
}

// loadFunctions reads the symbol tables and reports whether local functions are in them.
func (m *image) loadFunctions() (complete bool) {
	all, _ := readTable(m.elf, ".symtab")
	exported, _ := readTable(m.elf, ".dynsym")
	if all != nil && (exported == nil || len(all.entries) >= len(exported.entries)) && len(all.entries) > 0 {
		m.functions = []*table{all}
		return true
	}
	// A smaller symbol table than the dynamic one was stripped but for a few names.
	for _, t := range []*table{all, exported} {
		if t != nil && len(t.entries) > 0 {
			m.functions = append(m.functions, t)
		}
	}
	mini, err := readDebugdata(m.elf)
	if err != nil {
		return false
	}
	m.functions = append(m.functions, mini)
	return true
}

func (m *image) bytes() int64 {
	n := int64(imageBytes)
	for _, t := range m.functions {
		n += t.bytes()
	}
	if m.ownLines != nil {
		n += m.ownLines.bytes()
	}
	return n
}

// frames names the code at a file offset: that of an instruction, or of the one after a
// call. Where calls are inlined it is several frames, the innermost first.
func (m *image) frames(off uint64, isReturn bool, debug *debugInfo) []Frame {
	at := off
	if isReturn {
		at--
	}
	one := Frame{Module: m.path, Offset: at, Kind: Native}
	if m.elf == nil {
		return []Frame{one}
	}
	// The return address of a signal handler is the trampoline's beginning, and no call is
	// before it.
	if m.trampoline(off) {
		one.Offset, _ = m.elf.vaddr(off)
		one.Kind, one.Function = Signal, signalName
		return []Frame{one}
	}
	addr, ok := m.elf.vaddr(at)
	if !ok {
		return []Frame{one}
	}
	one.Offset = addr
	if m.golang != nil {
		if frames, ok := m.golang.frames(addr); ok {
			for i := range frames {
				frames[i].Module, frames[i].Offset = m.path, addr
			}
			return frames
		}
	}
	if f, ok := m.function(addr, debug); ok {
		one.Function = canonical(f.aliases)
	}
	one.File, one.Line = m.position(addr, debug)
	return []Frame{one}
}

// signalName is the function of the frame by which the kernel calls a signal handler.
const signalName = "<signal>"

// trampoline reports whether the code at the file offset is the one that libraries have
// signal handlers return to: it calls rt_sigreturn. Debuggers know it by the same bytes,
// since its symbol (__restore_rt) has no size and is stripped.
func (m *image) trampoline(off uint64) bool {
	var code []string
	switch m.elf.machine {
	case elf.EM_X86_64:
		// mov $15,%rax (glibc, Go) or mov $15,%eax (musl); syscall
		code = []string{"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05", "\xb8\x0f\x00\x00\x00\x0f\x05"}
	case elf.EM_AARCH64:
		// mov x8,#139; svc #0
		code = []string{"\x68\x11\x80\xd2\x01\x00\x00\xd4"}
	default:
		return false
	}
	for _, want := range code {
		got, err := m.elf.bytes(off, uint64(len(want)), uint64(len(want)))
		if err == nil && bytes.Equal(got, []byte(want)) {
			return true
		}
	}
	return false
}

// function finds the innermost function at an address in all tables, with all its names.
func (m *image) function(addr uint64, debug *debugInfo) (function, bool) {
	var best function
	found := false
	merge := func(t *table) {
		f, ok := t.find(addr)
		switch {
		case !ok:
		case !found || f.start > best.start:
			best, found = f, true
		case f.start == best.start:
			best.aliases = append(best.aliases, f.aliases...)
			best.end = max(best.end, f.end)
		}
	}
	for _, t := range m.functions {
		merge(t)
	}
	if debug != nil && debug.functions != nil {
		merge(debug.functions)
	}
	return best, found
}

func (m *image) position(addr uint64, debug *debugInfo) (file string, line int) {
	lines := m.ownLines
	if lines == nil && debug != nil {
		lines = debug.lines
	}
	if lines == nil {
		return "", 0
	}
	return lines.find(addr)
}

// bounds returns the function at a file offset, as file offsets.
func (m *image) bounds(off uint64, debug *debugInfo) (start, end uint64, ok bool) {
	if m.elf == nil {
		return 0, 0, false
	}
	addr, ok := m.elf.vaddr(off)
	if !ok {
		return 0, 0, false
	}
	var low, high uint64
	if m.golang != nil {
		if fn, ok := m.golang.find(addr); ok {
			low, high = fn.start, fn.end
		}
	}
	if low == 0 {
		f, ok := m.function(addr, debug)
		if !ok {
			return 0, 0, false
		}
		low, high = f.start, f.end
	}
	if start, ok = m.elf.offset(low); !ok {
		return 0, 0, false
	}
	return start, start + (high - low), true
}
