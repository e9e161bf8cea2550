// Package tracer is the one place that talks to eBPF: it loads the programs, attaches
// the hooks, decodes what they send and takes snapshots. Everybody else sees the types
// of package event.
package tracer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Tracer is a set of loaded programs. Open makes it, Close ends it.
type Tracer struct {
	cfg   Config
	maps  *ebpf.Collection
	progs []*ebpf.Collection
	links []link.Link
	hooks []hookResult
	iters map[string]*link.Iter
	// reader reads the ring, overflow what found no room there.
	reader, overflow *ringbuf.Reader
	rings            rings

	unwinder    Unwinder
	unwinderWhy string
	// hides: the kernel's pass over the tables can leave sockets out.
	hides bool
	// users are the processes that held sockets when the watching began.
	users map[uint32]bool
	first *Look

	// These belong to whoever reads the rings; quiet counts looks that found nothing.
	comms *comms
	quiet int

	// received counts records decoded, dropped those that could not be.
	received, dropped, stacksDropped atomic.Uint64

	// snapshots run one at a time: they share variables in the kernel.
	snapshotMu sync.Mutex
	closed     bool // under snapshotMu
	closeOnce  sync.Once
	closeErr   error
}

// Open loads and attaches. With Config.Live, transitions are being recorded when it
// returns and every socket of every reachable namespace has its record. The error
// is a *CannotRunError where the host, not the caller, is the reason.
func Open(cfg Config) (_ *Tracer, err error) {
	if cfg.Proc == "" {
		cfg.Proc = "/proc"
	}
	if cfg.Family != 0 && !cfg.Live {
		return nil, errors.New("open tracer: a family can be followed by a live tracer only")
	}
	if err := preflight(cfg.Proc); err != nil {
		return nil, err
	}
	// Best effort: needed before 5.11 only, and may be forbidden.
	_ = rlimit.RemoveMemlock()

	t := &Tracer{cfg: cfg, iters: map[string]*link.Iter{}, comms: newComms()}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	spec, kernel, hz, err := read()
	if err != nil {
		return nil, err
	}
	types, err := kernel.Kernel()
	if err != nil {
		return nil, &CannotRunError{Cause: "cannot read the kernel's BTF", Cure: cureBTF, Err: err}
	}
	t.chooseUnwinder(types)
	t.hides = passHides(types)
	if spec, err = t.load(spec, types, hz); err != nil {
		return nil, err
	}
	if err := t.attachAll(&loader{spec: spec, kernel: kernel, types: types}); err != nil {
		return nil, err
	}
	if !cfg.Live {
		return t, nil
	}
	if t.reader, err = ringbuf.NewReader(t.maps.Maps["ring"]); err != nil {
		return nil, fmt.Errorf("open ring: %w", err)
	}
	if t.overflow, err = ringbuf.NewReader(t.maps.Maps["overflow"]); err != nil {
		return nil, fmt.Errorf("open overflow ring: %w", err)
	}
	if err := t.findFamily(); err != nil {
		return nil, err
	}
	return t, t.importBaseline()
}

func (t *Tracer) chooseUnwinder(types *btf.Spec) {
	switch c := &t.cfg.Stacks; {
	case !t.cfg.Live || c.Sink == nil:
		t.unwinder, t.unwinderWhy = UnwindNone, "not asked for"
	case c.Unwinder != "":
		t.unwinder, t.unwinderWhy = c.Unwinder, "chosen by configuration"
	default:
		t.unwinder, t.unwinderWhy = bestUnwinder(types)
	}
}

// read reads the embedded programs and the rate of ticks, and beside that the kernel's types,
// which take as long. That the types cannot be read is told by who asks the cache for them.
func read() (*ebpf.CollectionSpec, *btf.Cache, uint32, error) {
	kernel := btf.NewCache()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = kernel.Kernel()
	}()
	defer func() { <-done }()
	spec, err := loadBpf()
	if err != nil {
		return nil, nil, 0, fmt.Errorf("read embedded programs: %w", err)
	}
	hz, err := readTickRate(spec)
	if err != nil {
		return nil, nil, 0, cannotLoad(err)
	}
	return spec, kernel, hz, nil
}

// load makes the maps that the programs wanted share, and returns what of spec they need.
func (t *Tracer) load(spec *ebpf.CollectionSpec, types *btf.Spec, hz uint32) (_ *ebpf.CollectionSpec, err error) {
	if err := setMayNest(spec, types); err != nil {
		return nil, err
	}
	whole := spec.Maps
	spec = only(spec, t.wanted()...)
	if t.cfg.Stacks.Sink != nil {
		// Who works on stacks gives the kernel side tables, whether anything uses them or not.
		for name, m := range whole {
			if spec.Maps[name] == nil {
				spec.Maps[name] = m
			}
		}
	}
	if err := t.cfg.apply(spec, hz); err != nil {
		return nil, err
	}
	if err := t.cfg.Stacks.apply(spec, t.unwinder); err != nil {
		return nil, err
	}
	t.maps, err = ebpf.NewCollection(&ebpf.CollectionSpec{
		Maps: spec.Maps, Variables: spec.Variables, Types: spec.Types, ByteOrder: spec.ByteOrder,
	})
	if err != nil {
		return nil, cannotLoad(err)
	}
	return spec, t.cfg.fill(t.maps.Maps)
}

// setMayNest: the function came with the kernel's refusal to run a tracing program in the
// middle of itself.
func setMayNest(spec *ebpf.CollectionSpec, types *btf.Spec) error {
	var counts *btf.Func
	refuses := types.TypeByName("bpf_prog_inc_misses_counter", &counts) == nil
	if err := spec.Variables["may_nest"].Set(flag(!refuses)); err != nil {
		return fmt.Errorf("set may_nest: %w", err)
	}
	return nil
}

// wanted are the names of the programs that may be attached.
func (t *Tracer) wanted() []string {
	var names []string
	for i := range table {
		if table[i].wanted(&t.cfg) {
			names = append(names, table[i].program)
		}
	}
	return names
}

// only copies what the programs named need of spec.
func only(spec *ebpf.CollectionSpec, programs ...string) *ebpf.CollectionSpec {
	some := &ebpf.CollectionSpec{
		Maps: map[string]*ebpf.MapSpec{}, Programs: map[string]*ebpf.ProgramSpec{},
		Variables: spec.Variables, Types: spec.Types, ByteOrder: spec.ByteOrder,
	}
	for name, m := range spec.Maps {
		// Variables are set whether the programs named have them or not.
		if strings.HasPrefix(name, ".") {
			some.Maps[name] = m
		}
	}
	for _, name := range programs {
		some.Programs[name] = spec.Programs[name]
		for i := range spec.Programs[name].Instructions {
			ins := &spec.Programs[name].Instructions[i]
			if m := spec.Maps[ins.Reference()]; m != nil && ins.IsLoadFromMap() {
				some.Maps[ins.Reference()] = m
			}
		}
	}
	return some.Copy()
}

// attachAll goes through the hook table: the first way that works gives the fact.
func (t *Tracer) attachAll(l *loader) error {
	have := map[string]string{}
	for _, h := range table {
		if !h.wanted(&t.cfg) {
			continue
		}
		result := t.try(l, h, have)
		t.hooks = append(t.hooks, result)
		if result.attached {
			have[h.fact] = result.target
		}
		if h.required && have[h.fact] == "" {
			return &CannotRunError{
				Cause: fmt.Sprintf("cannot attach %s %s: %s", h.kind, result.target, result.reason),
				Cure:  "see tcpwaitd doctor for what this kernel allows",
			}
		}
		if err := t.tell(h.fact, have); err != nil {
			return err
		}
	}
	return nil
}

// loader is what loading one program after the other needs. Not side by side: the library that
// reads the types of modules may not be used by several goroutines.
type loader struct {
	spec   *ebpf.CollectionSpec
	kernel *btf.Cache
	types  *btf.Spec
}

func (t *Tracer) try(l *loader, h hook, have map[string]string) hookResult {
	r := hookResult{hook: h, target: h.targets[0]}
	switch {
	case have[h.fact] != "":
		r.reason = fmt.Sprintf("not needed: %s gives it", have[h.fact])
	case h.unless != "" && have[h.unless] != "" && t.unwinder == UnwindNone && !t.cfg.Users:
		r.reason = fmt.Sprintf("not needed: %s tells the owner", have[h.unless])
	case h.optIn != "" && !t.cfg.SyscallAccept:
		r.reason = "off: it slows every system call; --syscall-accept turns it on"
	case slices.Contains(t.cfg.Without, h.kind):
		r.reason = "not permitted: turned off by configuration"
	default:
		if err := t.attach(l, &h); err != nil {
			r.reason = why(err)
			break
		}
		r.attached, r.reason = true, "first choice that this kernel has"
	}
	return r
}

func (t *Tracer) attach(l *loader, h *hook) error {
	if err := h.suits(l.types); err != nil {
		return err
	}
	spec := only(l.spec, h.program)
	shared := make(map[string]*ebpf.Map, len(spec.Maps))
	for name := range spec.Maps {
		shared[name] = t.maps.Maps[name]
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		MapReplacements: shared,
		// Decoding the kernel's BTF takes longer than everything else here: once is enough.
		Cache: l.kernel,
	})
	if err != nil {
		return err
	}
	var links []link.Link
	for _, target := range h.targets {
		li, err := h.attach(coll.Programs[h.program], target)
		if err != nil {
			coll.Close()
			return errors.Join(append([]error{err}, closeLinks(links)...)...)
		}
		links = append(links, li)
		if it, ok := li.(*link.Iter); ok {
			t.iters[h.fact] = it
		}
	}
	t.progs = append(t.progs, coll)
	t.links = append(t.links, links...)
	return nil
}

// tell lets the programs know which of their helpers are there.
func (t *Tracer) tell(fact string, have map[string]string) error {
	switch fact {
	case factAccept:
		by := have[factAccept]
		return errors.Join(
			t.set("own_by_io", flag(by != "inet_csk_accept")),
			t.set("accepts_by_exit", flag(by != "" && by != "inet_csk_accept")))
	case factRead:
		return t.set("watch_eof", watched(have[factRead]))
	case factMiniAfter:
		return t.set("late_time_wait", flag(have[factMiniBefore] != "" && have[factMiniAfter] != ""))
	}
	return nil
}

// watched says of which sockets every read is seen: enum watch in bpf/config.h.
func watched(readHook string) uint8 {
	switch readHook {
	case "":
		return 0
	case "tcp_recvmsg":
		return 1
	default:
		return 2
	}
}

func (t *Tracer) set(variable string, value any) error {
	if err := t.maps.Variables[variable].Set(value); err != nil {
		return fmt.Errorf("set %s: %w", variable, err)
	}
	return nil
}

// Hooks returns the hook table as it came out.
func (t *Tracer) Hooks() []event.Hook {
	out := make([]event.Hook, len(t.hooks))
	for i := range t.hooks {
		out[i] = t.hooks[i].event()
	}
	return out
}

// Close detaches and frees everything; Run returns ErrClosed. Closing twice is safe.
func (t *Tracer) Close() error {
	t.closeOnce.Do(func() {
		// Links first: nothing new arrives. Then the reader, so that a Run in
		// progress ends. Programs and maps last, they are in use until then.
		errs := closeLinks(t.links)
		t.rings.close()
		for _, r := range []*ringbuf.Reader{t.reader, t.overflow} {
			if r != nil {
				errs = append(errs, r.Close())
			}
		}
		t.snapshotMu.Lock()
		defer t.snapshotMu.Unlock()
		t.closed = true
		for _, coll := range t.progs {
			coll.Close()
		}
		if t.maps != nil {
			t.maps.Close()
		}
		t.closeErr = errors.Join(errs...)
	})
	return t.closeErr
}

func closeLinks(links []link.Link) []error {
	var errs []error
	for _, l := range links {
		if err := l.Close(); err != nil {
			errs = append(errs, fmt.Errorf("detach: %w", err))
		}
	}
	return errs
}
