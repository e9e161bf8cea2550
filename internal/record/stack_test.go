package record

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
)

func pump() []symbol.Frame {
	return []symbol.Frame{
		{Function: "syscall.read", File: "/usr/local/go/src/syscall/zsyscall_linux_amd64.go", Line: 736, Module: "/app/proxy", Offset: 0x1000, Kind: symbol.Go},
		{Function: "main.(*proxy).pump", File: "/src/proxy.go", Line: 88, Module: "/app/proxy", Offset: 0x2000, Kind: symbol.Go},
		{Module: "/app/proxy", Offset: 0x3000, Kind: symbol.Native},
	}
}

func TestStackOf(t *testing.T) {
	in := pump()
	st := StackOf(in, &event.Stack{
		Task:    event.Task{Pid: 1, Tid: 7, Comm: event.MakeComm("pro\x1bxy")},
		Quality: event.QualityTruncated, Reason: event.ReasonTooDeep,
	})
	want := `{"frames":[{"function":"syscall.read","file":"/usr/local/go/src/syscall/zsyscall_linux_amd64.go","line":736,` +
		`"module":"/app/proxy","offset":4096,"kind":"go"},{"function":"main.(*proxy).pump","file":"/src/proxy.go","line":88,` +
		`"module":"/app/proxy","offset":8192,"kind":"go","user":true},{"module":"/app/proxy","offset":12288,"kind":"native"}],` +
		`"quality":"truncated","reason":"deeper than is kept","tid":7,"comm":"pro\\x1bxy"}`
	if diff := cmp.Diff(want, reference(t, st)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if unsafe.StringData(st.Frames[1].Function) != unsafe.StringData(in[1].Function) {
		t.Error("a plain name was copied")
	}
	if f := UserFrame(st.Frames); f.Function != "main.(*proxy).pump" {
		t.Errorf("user frame %+v", f)
	}
	if got := reference(t, StackOf(nil, &event.Stack{Quality: event.QualityComplete})); got != `{"frames":[],"quality":"complete"}` {
		t.Errorf("no frames: %s", got)
	}
}

// What a file of a process says is never written as it is.
func TestStackOfHostileNames(t *testing.T) {
	evil := "a\x1b[31m\n\xff\u202e\"\\;,"
	st := StackOf([]symbol.Frame{{Function: evil, File: evil, Module: evil}}, &event.Stack{})
	f := st.Frames[0]
	for _, s := range []string{f.Function, f.File, f.Module} {
		if s != Escape(evil) || strings.Contains(s, "\x1b") || strings.Contains(s, "\n") || strings.Contains(s, "\xff") {
			t.Errorf("got %q", s)
		}
	}
}

func TestTelling(t *testing.T) {
	some := &Stack{Frames: []Frame{{Function: "f"}}}
	for _, tt := range []struct {
		stacks *Stacks
		cause  diagnosis.Cause
		want   string
	}{
		{nil, diagnosis.EOFIgnored, ""},
		{&Stacks{}, diagnosis.EOFIgnored, ""},
		{&Stacks{Open: some, LastRead: some, EOF: some, Close: some}, diagnosis.EOFIgnored, "eof"},
		{&Stacks{Open: some, LastRead: some, Close: some}, diagnosis.UnreadData, "last_read"},
		{&Stacks{Open: some, Close: some}, diagnosis.UnreadEOF, "open"},
		{&Stacks{Open: some, EOF: some, Close: some}, diagnosis.ZombieFD, "close"},
		{&Stacks{Open: some, EOF: &Stack{Reason: "frames lost on the way"}}, diagnosis.EOFIgnored, "open"},
		{&Stacks{Open: &Stack{}, EOF: &Stack{Reason: "frames lost on the way"}}, diagnosis.EOFIgnored, "eof"},
	} {
		if kind, st := tt.stacks.Telling(Word(tt.cause)); kind != tt.want || (st == nil) != (tt.want == "") {
			t.Errorf("%+v %s: got %s", tt.stacks, tt.cause, kind)
		}
	}
}

func TestGroupThreads(t *testing.T) {
	var stacks []Stack
	for i := range 11 {
		s := StackOf(pump(), &event.Stack{Quality: event.QualityComplete, Task: event.Task{Tid: uint32(i + 1), Comm: event.MakeComm(fmt.Sprint("worker", i))}})
		// The same function, called from elsewhere in it: nobody could tell.
		s.Frames[1].Offset += uint64(i)
		stacks = append(stacks, s)
	}
	other := StackOf(pump()[:1], &event.Stack{Quality: event.QualityGuessed, Task: event.Task{Tid: 99}})
	got := GroupThreads(append([]Stack{other}, stacks...))
	if len(got) != 2 || got[0].N != 11 || got[0].Comm != "worker0" || !slices.Equal(got[0].Tids, []uint32{1, 2, 3, 4, 5, 6, 7, 8}) ||
		got[1].N != 1 || got[1].Quality != "guessed" {
		t.Errorf("got %+v", got)
	}
}

// cases makes n sockets of one process that were told EOF at a stack.
func cases(n int, first event.Cookie, id event.StackID, age time.Duration) []diagnosis.Case {
	at := event.KTime(time.Hour)
	all := make([]diagnosis.Case, n)
	for i := range all {
		all[i] = diagnosis.Case{
			Socket: event.Socket{
				At: at, Since: at.Add(-age), Bound: event.Exact, Cookie: first + event.Cookie(i), Inode: 9,
				State: event.CloseWait, Direction: event.In,
				Flow: event.Flow{Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort("10.0.0.2:5000")},
			},
			Cause: diagnosis.EOFIgnored, Blamed: event.Task{Pid: 42, Comm: event.MakeComm("proxy")},
		}
		all[i].Stacks[event.StackEOF] = id
	}
	return all
}

func TestNewGroups(t *testing.T) {
	all := slices.Concat(cases(3, 1, 100, time.Minute), cases(4, 10, 101, time.Hour), cases(2, 20, 102, time.Second), cases(1, 30, 0, time.Second))
	all[9].State, all[9].Cause = event.Established, diagnosis.None
	st := func(shift uint64, name string) *Stacks {
		s := StackOf(pump(), &event.Stack{Quality: event.QualityComplete})
		s.Frames[1].Offset += shift
		if name != "" {
			s.Frames[1].Function = name
		}
		return &Stacks{EOF: &s}
	}
	f := &Facts{Clock: testClock, Stacks: map[event.Cookie]*Stacks{}}
	for i := range all {
		switch all[i].Stacks[event.StackEOF] {
		case 100:
			f.Stacks[all[i].Cookie] = st(0, "")
		case 101:
			f.Stacks[all[i].Cookie] = st(4, "")
		case 102:
			f.Stacks[all[i].Cookie] = st(0, "main.other")
		}
	}
	g := NewGroups(all, time.Minute, f, event.Loss{}, nil)
	if g.Sockets != 10 || len(g.Groups) != 3 {
		t.Fatalf("%d sockets in %d groups, want 10 in 3: %+v", g.Sockets, len(g.Groups), g.Groups)
	}
	first := g.Groups[0]
	if first.N != 7 || first.Stuck != 7 || *first.OldestNS != int64(time.Hour) || first.StackKind != "eof" || first.Pid != 42 || first.State != "CLOSE_WAIT" {
		t.Errorf("first group %+v, want 7 sockets, oldest 1h: stacks that look the same", first)
	}
	if second := g.Groups[1]; second.N != 2 || second.Frames[1].Function != "main.other" || second.Stuck != 0 {
		t.Errorf("second group %+v", second)
	}
	if last := g.Groups[2]; last.N != 1 || last.State != "ESTABLISHED" || last.StackKind != "" || last.Cause != "" {
		t.Errorf("last group %+v", last)
	}
	if again := reference(t, NewGroups(all, time.Minute, f, event.Loss{}, nil)); again != reference(t, g) {
		t.Error("not the same twice")
	}
}

// Groups of a diagnosis add up, whatever the stacks.
func TestDiagnosisGroupsByStack(t *testing.T) {
	all := slices.Concat(cases(3, 1, 100, time.Minute), cases(4, 10, 101, time.Hour), cases(2, 20, 0, time.Minute))
	in := diagnosis.Input{Cases: all, Threshold: time.Minute, From: event.KTime(time.Hour), To: event.KTime(time.Hour)}
	for i := range in.Cases {
		in.Cases[i].Holders = []event.Holder{{Task: in.Cases[i].Blamed}}
		in.Cases[i].HoldersKnown = true
	}
	d := diagnosis.Judge(in)
	a, b := StackOf(pump(), &event.Stack{}), StackOf(pump()[:1], &event.Stack{})
	f := &Facts{
		Stacks:    map[event.Cookie]*Stacks{1: {EOF: &a}, 2: {EOF: &a}, 3: {EOF: &a}, 10: {EOF: &b}, 11: {EOF: &b}, 12: {EOF: &b}, 13: {EOF: &b}},
		Threads:   map[uint32][]ThreadStack{42: GroupThreads([]Stack{a})},
		Unsampled: map[uint32]uint64{42: 5},
	}
	p := FromDiagnosis(&d, f).Processes[0]
	var sizes []int
	for _, g := range p.Groups {
		sizes = append(sizes, g.N)
	}
	if !slices.Equal(sizes, []int{4, 3, 2}) || len(p.Threads) != 1 || p.StacksNotSampled != 5 {
		t.Errorf("groups of %v, want 4, 3, 2: %+v", sizes, p)
	}
	text := reference(t, p)
	for _, want := range []string{`"threads":[{"n":1,"frames":[{"function":"syscall.read"`, `"stacks_not_sampled":5`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}
