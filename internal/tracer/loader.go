package tracer

import (
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// loader loads programs. Those that are likely to be needed are begun with side by side: the
// verifier takes most of the time until something is seen.
type loader struct {
	spec   *ebpf.CollectionSpec
	maps   map[string]*ebpf.Map
	kernel *btf.Cache
	types  *btf.Spec
	begun  map[string]*loading
}

// loading is a program on its way; coll and err are there when done is closed.
type loading struct {
	done chan struct{}
	coll *ebpf.Collection
	err  error
}

// begin starts to load programs, as many at a time as there are processors.
func (l *loader) begin(programs []string) {
	l.begun = make(map[string]*loading, len(programs))
	queue := make(chan func(), len(programs))
	for _, program := range programs {
		one := &loading{done: make(chan struct{})}
		l.begun[program] = one
		queue <- func() {
			defer close(one.done)
			one.coll, one.err = l.load(program)
		}
	}
	close(queue)
	for range min(len(programs), runtime.GOMAXPROCS(0)) {
		go func() {
			for load := range queue {
				load()
			}
		}()
	}
}

// take returns a loaded program, which is the caller's to close.
func (l *loader) take(program string) (*ebpf.Collection, error) {
	one := l.begun[program]
	if one == nil {
		return l.load(program)
	}
	<-one.done
	delete(l.begun, program)
	return one.coll, one.err
}

// end frees what was loaded and not taken.
func (l *loader) end() {
	for _, one := range l.begun {
		<-one.done
		if one.coll != nil {
			one.coll.Close()
		}
	}
}

func (l *loader) load(program string) (*ebpf.Collection, error) {
	spec := only(l.spec, program)
	shared := make(map[string]*ebpf.Map, len(spec.Maps))
	for name := range spec.Maps {
		shared[name] = l.maps[name]
	}
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		MapReplacements: shared,
		// Decoding the kernel's BTF takes longer than everything else here: once is enough.
		Cache: l.kernel,
	})
}
