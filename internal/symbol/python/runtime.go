// Package python knows CPython 3.11 to 3.14 in a process: where it keeps the frames of its
// threads, which the kernel side walks, and what those frames are called.
//
// Nothing is asked of the program: it needs no flags. What is read of its memory is not
// trusted; what does not fit together has no name.
package python

import (
	"errors"
	"fmt"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol/python/dynsym"
)

// ErrStarting says that the process has CPython, but that it has no threads yet (or no
// more): a later Detect may find them.
var ErrStarting = errors.New("CPython is not running yet")

// Runtime is the CPython of one process. It does not change; any number of goroutines may
// use it.
type Runtime struct {
	memory     memory
	offsets    offsets
	types      types
	trampoline bool
}

// types are the addresses of the objects that tell what other objects are.
type types struct{ code, unicode, bytes, none uint64 }

// Detect looks for CPython in a process. It returns nil, nil where there is none, and an
// error that says why where there is one that cannot be read.
func Detect(p *object.Process) (*Runtime, error) {
	modules := dynsym.Modules(p)
	at, ok := dynsym.Resolve(modules, "_PyRuntime")
	if !ok {
		return nil, nil //nolint:nilnil // no Python is the usual answer, and no error
	}
	r := &Runtime{memory: memory{p.Memory}}
	version, err := r.version(modules)
	if err != nil {
		return nil, err
	}
	r.offsets, err = r.memory.offsets(version, at)
	if err != nil {
		return nil, err
	}
	r.offsets.frames.Runtime = at
	if err := r.findTypes(modules); err != nil {
		return nil, fmt.Errorf("CPython %v: %w", version, err)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("CPython %v: %w", version, err)
	}
	r.trampoline = hasTrampoline(p)
	return r, nil
}

// version reads Py_Version, which CPython exports since 3.11.
func (r *Runtime) version(modules []dynsym.Module) (version, error) {
	at, ok := dynsym.Resolve(modules, "Py_Version")
	if !ok {
		return 0, errors.New("CPython older than 3.11: not supported")
	}
	v, err := r.memory.uint32(at)
	if err != nil {
		return 0, fmt.Errorf("read version of CPython: %w", err)
	}
	return version(v), nil
}

func (r *Runtime) findTypes(modules []dynsym.Module) error {
	for name, at := range map[string]*uint64{
		"PyCode_Type": &r.types.code, "PyUnicode_Type": &r.types.unicode,
		"PyBytes_Type": &r.types.bytes, "_Py_NoneStruct": &r.types.none,
	} {
		var ok bool
		if *at, ok = dynsym.Resolve(modules, name); !ok {
			return fmt.Errorf("no symbol %s", name)
		}
	}
	return nil
}

// Layout returns what the kernel side has to know to walk the frames.
func (r *Runtime) Layout() event.PythonLayout { return r.offsets.frames }

// Trampoline reports whether Python calls went through the perf trampoline when the process
// was looked at (-X perf, PYTHONPERFSUPPORT; CPython 3.12 and 3.13): code in memory without
// a file whose frames are 16 bytes. The one of 3.14 keeps frame pointers and is not meant.
func (r *Runtime) Trampoline() bool { return r.trampoline }
