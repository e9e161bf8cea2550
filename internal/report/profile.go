package report

import (
	"cmp"
	"io"
	"iter"
	"math"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// Profile writes sockets by the place in the code that says most about why they are not
// closed: each socket counts once. Those without a stack count at noStack, so that the
// totals are those of the sockets.
type Profile struct{ o Options }

// NewProfile checks the options; the error is an *OptionError.
func NewProfile(o Options) (*Profile, error) {
	switch {
	case len(o.Fields) > 0:
		return nil, &OptionError{"fields", strings.Join(o.Fields, ","), "nothing: a profile has no rows"}
	case o.Sort != "":
		return nil, &OptionError{"sort", o.Sort, "nothing: a profile has no rows"}
	}
	return &Profile{o}, nil
}

// Write writes the sockets, which are explained.
func (p *Profile) Write(w io.Writer, cases iter.Seq[*diagnosis.Case], f *record.Facts, observed time.Duration) error {
	samples := gather(cases, f)
	if p.o.Format == Folded {
		return writeFolded(w, samples)
	}
	b := newProfileBuilder(program(samples, f))
	for _, s := range samples {
		b.add(s)
	}
	b.out.TimeNanos, b.out.DurationNanos = f.Clock.Wall.UnixNano(), int64(observed)
	b.out.Comments = []string{strings.TrimSpace("tcpwaitd " + p.o.Version)}
	return b.out.Write(w)
}

const (
	// noStack stands for sockets that nobody watched when something happened to them.
	noStack = "[no stack]"
	// nobody stands for the process where none is known.
	nobody = "[nobody]"
)

// sample is some sockets that are alike.
type sample struct {
	sampleKey
	frames  []record.Frame
	sockets int64
	dwell   time.Duration
}

// sampleKey tells samples apart. Stack ids are those of one process; where there is none, as
// in recordings, the record itself is the identity.
type sampleKey struct {
	pid       uint32
	comm      string
	cause     diagnosis.Cause
	direction event.Direction
	kind      string
	id        event.StackID
	stack     *record.Stack
	remote    netip.AddrPort
}

// gather counts the sockets, in a fixed order.
func gather(cases iter.Seq[*diagnosis.Case], f *record.Facts) []*sample {
	index := map[sampleKey]*sample{}
	var all []*sample
	for c := range cases {
		kind, st := f.Stacks[c.Cookie].Telling(record.CauseOf(c))
		key := sampleKey{
			pid: c.Blamed.Pid, comm: record.Escape(c.Blamed.Comm.String()), cause: c.Cause, direction: c.Direction,
			kind: kind, id: stackID(c, kind), remote: remoteOf(c),
		}
		if key.id == 0 {
			key.stack = st
		}
		s := index[key]
		if s == nil {
			s = &sample{sampleKey: key}
			if st != nil {
				s.frames = st.Frames
			}
			index[key] = s
			all = append(all, s)
		}
		s.sockets++
		if c.Bound != event.BoundUnknown {
			s.dwell += c.Dwell()
		}
	}
	slices.SortStableFunc(all, func(a, b *sample) int {
		return cmp.Or(cmp.Compare(b.sockets, a.sockets), cmp.Compare(b.dwell, a.dwell), cmp.Compare(a.pid, b.pid), a.remote.Compare(b.remote))
	})
	return all
}

// stackID is that of the stack taken at one moment.
func stackID(c *diagnosis.Case, kind string) event.StackID {
	for slot := range event.StackSlots {
		if slot.String() == kind {
			return c.Stacks[slot]
		}
	}
	return 0
}

// remoteOf: of who connects to us the port says nothing, and there are too many.
func remoteOf(c *diagnosis.Case) netip.AddrPort {
	if c.Direction == event.In {
		return netip.AddrPortFrom(c.Flow.Remote.Addr(), 0)
	}
	return c.Flow.Remote
}

// moment is the word for the kind of a stack that a profile's reader filters by.
func (s *sample) moment() string {
	if s.kind != event.StackOpen.String() {
		return s.kind
	}
	switch s.direction {
	case event.In:
		return "accept"
	case event.Out:
		return "connect"
	default:
		return s.kind
	}
}

// program is the one executable that all samples are of, "" if there are several.
func program(samples []*sample, f *record.Facts) string {
	for _, s := range samples {
		if s.pid != samples[0].pid {
			return ""
		}
	}
	if len(samples) == 0 {
		return ""
	}
	return record.Escape(f.Process(samples[0].pid).Exe)
}

// profileBuilder numbers functions, locations and modules as they come.
type profileBuilder struct {
	out       profile.Profile
	functions map[[2]string]*profile.Function
	locations map[record.Frame]*profile.Location
	mappings  map[string]*profile.Mapping
}

// newProfileBuilder makes the first module that of the program, for pprof shows its name as
// that of the profile; it shows none where the name is empty.
func newProfileBuilder(program string) *profileBuilder {
	b := &profileBuilder{
		out: profile.Profile{
			SampleType:        []*profile.ValueType{{Type: "sockets", Unit: "count"}, {Type: "dwell", Unit: "seconds"}},
			DefaultSampleType: "sockets",
		},
		functions: map[[2]string]*profile.Function{},
		locations: map[record.Frame]*profile.Location{},
		mappings:  map[string]*profile.Mapping{},
	}
	b.mapping(&record.Frame{Module: program})
	return b
}

func (b *profileBuilder) add(s *sample) {
	out := &profile.Sample{
		Value:    []int64{s.sockets, int64(math.Round(s.dwell.Seconds()))},
		Label:    map[string][]string{},
		NumLabel: map[string][]int64{},
		NumUnit:  map[string][]string{},
	}
	remote := ""
	switch {
	case s.remote.Port() != 0:
		remote = s.remote.String()
	case s.remote.Addr().IsValid():
		remote = s.remote.Addr().String()
	}
	for _, label := range [][2]string{{"comm", s.comm}, {"remote", remote}, {"cause", string(s.cause)}, {"stack", s.moment()}} {
		if label[1] != "" {
			out.Label[label[0]] = []string{label[1]}
		}
	}
	if s.pid != 0 {
		out.NumLabel["pid"] = []int64{int64(s.pid)}
		out.NumUnit["pid"] = []string{""}
	}
	for i := range s.frames {
		out.Location = append(out.Location, b.location(&s.frames[i]))
	}
	if len(s.frames) == 0 {
		out.Location = []*profile.Location{b.location(&record.Frame{Function: noStack})}
	}
	b.out.Sample = append(b.out.Sample, out)
}

func (b *profileBuilder) location(f *record.Frame) *profile.Location {
	key := *f
	// Which frame stands for its stack is the stack's affair.
	key.User = false
	if l := b.locations[key]; l != nil {
		return l
	}
	l := &profile.Location{
		ID: uint64(len(b.locations) + 1), Address: f.Offset, Mapping: b.mapping(f),
		Line: []profile.Line{{Function: b.function(f), Line: int64(f.Line)}},
	}
	b.locations[key] = l
	b.out.Location = append(b.out.Location, l)
	return l
}

func (b *profileBuilder) function(f *record.Frame) *profile.Function {
	name := nameOf(f)
	key := [2]string{name, f.File}
	if fn := b.functions[key]; fn != nil {
		return fn
	}
	// No system name: pprof takes a name that equals it for mangled, and cuts off what is
	// between < and >.
	fn := &profile.Function{ID: uint64(len(b.functions) + 1), Name: name, Filename: f.File}
	b.functions[key] = fn
	b.out.Function = append(b.out.Function, fn)
	return fn
}

// userSpace is the end of the addresses that a process can have (x86-64, arm64): addresses
// here are those inside the module.
const userSpace = 1 << 47

func (b *profileBuilder) mapping(f *record.Frame) *profile.Mapping {
	if m := b.mappings[f.Module]; m != nil {
		return m
	}
	m := &profile.Mapping{
		ID: uint64(len(b.mappings) + 1), Limit: userSpace, File: f.Module,
		// Nobody shall look for the names again: they were looked up where the process ran.
		HasFunctions: true, HasFilenames: true, HasLineNumbers: true,
	}
	b.mappings[f.Module] = m
	b.out.Mapping = append(b.out.Mapping, m)
	return m
}

// nameOf is a function's name, never empty.
func nameOf(f *record.Frame) string {
	if f.Function != "" {
		return f.Function
	}
	at := ""
	if f.File != "" {
		at = path.Base(f.File)
	}
	return frameText(f, at, path.Base(f.Module))
}

// writeFolded writes a line for each stack: the process, the frames from the outermost on,
// and the number of sockets. Flame graph tools read this.
func writeFolded(w io.Writer, samples []*sample) error {
	counts := map[string]int64{}
	for _, s := range samples {
		counts[string(s.appendFolded(nil))] += s.sockets
	}
	lines := make([]string, 0, len(counts))
	for stack, n := range counts {
		lines = append(lines, stack+" "+strconv.FormatInt(n, 10)+"\n")
	}
	slices.Sort(lines)
	_, err := io.WriteString(w, strings.Join(lines, ""))
	return err
}

func (s *sample) appendFolded(dst []byte) []byte {
	dst = appendFoldedName(dst, cmp.Or(s.comm, nobody))
	if len(s.frames) == 0 {
		return append(append(dst, ';'), noStack...)
	}
	for i := len(s.frames) - 1; i >= 0; i-- {
		dst = appendFoldedName(append(dst, ';'), nameOf(&s.frames[i]))
	}
	return dst
}

// appendFoldedName keeps the separator out of names; newlines were escaped before.
func appendFoldedName(dst []byte, name string) []byte {
	for i := range len(name) {
		if name[i] == ';' {
			dst = append(dst, ',')
			continue
		}
		dst = append(dst, name[i])
	}
	return dst
}
