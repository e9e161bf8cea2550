package tracer

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/iotest"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/lifecycle"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

func bytesOf[T any](v *T) []byte {
	return bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)))
}

func mapped(a, b, c, d byte) [16]uint8 {
	return [16]uint8{10: 0xff, 11: 0xff, 12: a, 13: b, 14: c, 15: d}
}

func TestDecodeTransition(t *testing.T) {
	raw := bpfTransition{
		At: 7, Cookie: 11, InState: 13, Cgroup: 17, OldState: 1, NewState: 8, Bound: 1, Direction: 2, Evidence: 3,
		Netns: 19, Lport: 80, Rport: 23, Laddr4: [4]uint8{127, 0, 0, 1}, Raddr4: [4]uint8{127, 0, 0, 3},
		OwnerStart: 29, OwnerTgid: 31, OwnerTid: 37, OwnerComm: [16]int8{'n', 'c'},
		User: 41, Closer: 43, RecvQ: 47, SentAfterFin: 53,
		Laddr: mapped(127, 0, 0, 1), Raddr: [16]uint8{15: 1}, Stacks: [4]uint64{59, 61, 67, 71},
	}
	base := event.Transition{
		At: 7, Cookie: 11, InState: 13, Cgroup: 17, Old: event.Established, New: event.CloseWait,
		InBound: event.Exact, Direction: event.Out, Evidence: event.EvidenceRead,
		Flow: event.Flow{
			Local: netip.MustParseAddrPort("127.0.0.1:80"), Remote: netip.MustParseAddrPort("127.0.0.3:23"),
			Netns: 19, Protocol: event.TCP,
		},
		Owner: event.Task{Start: 29, Pid: 31, Tid: 37},
	}
	more := base
	more.Owner.Comm = event.MakeComm("nc")
	more.User, more.Closer, more.RecvQ, more.SentAfterFin = 41, 43, 47, 53
	wide := more
	wide.Flow.Remote = netip.MustParseAddrPort("[::1]:23")
	wide.Flow.Protocol = event.MPTCP
	wide.Stacks = event.Stacks{59, 61, 67, 71}
	wide.Inferred, wide.Exiting, wide.EOFWatched, wide.SentKnown = true, true, true, true
	for _, c := range []struct {
		flags uint16
		size  int
		want  event.Transition
	}{
		{0, transitionSize, base},
		{transitionMore, transitionMoreSize, more},
		{
			transitionMore | transitionWide | transitionInferred | transitionExiting | transitionWatched | transitionSent | transitionMPTCP,
			transitionWideSize, wide,
		},
	} {
		raw.Flags = c.flags
		var got event.Transition
		if flags, err := decodeTransition(bytesOf(&raw)[:c.size], &got); err != nil || got != c.want || flags != c.flags {
			t.Errorf("flags %x: got %+v, %v\nwant %+v", c.flags, got, err, c.want)
		}
		if _, err := decodeTransition(bytesOf(&raw)[:c.size-1], &got); err == nil {
			t.Errorf("flags %x: a short record was decoded", c.flags)
		}
	}
}

// One record tells two transitions where one always follows from the other.
func TestTransitionBefore(t *testing.T) {
	tr := event.Transition{At: 23, InState: 7, InBound: event.Exact, Old: event.SynRecv, New: event.Established}
	first := before(&tr, transitionBorn)
	if want := (event.Transition{At: 16, Old: event.Listen, New: event.SynRecv}); first != want {
		t.Errorf("born: got %+v, want %+v", first, want)
	}
	tr.Old, tr.New = event.FinWait2, event.Close
	want := tr
	want.New, want.Inferred = event.TimeWait, true
	if first = before(&tr, transitionTimeWait); first != want {
		t.Errorf("TIME_WAIT: got %+v, want %+v", first, want)
	}
}

// A name is told once and known from then on, until the process has another.
func TestComms(t *testing.T) {
	c := newComms()
	name := func(pid uint32, told string) string {
		task := event.Task{Pid: pid, Start: 7, Comm: event.MakeComm(told)}
		c.learn(&task, told != "")
		return task.Comm.String()
	}
	for i, step := range []struct {
		pid        uint32
		told, want string
	}{{2, "", ""}, {2, "nc", "nc"}, {2, "", "nc"}, {3, "", ""}, {2, "cat", "cat"}, {2, "", "cat"}, {3, "ss", "ss"}, {2, "", "cat"}, {3, "", "ss"}} {
		if got := name(step.pid, step.told); got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
}

// Who read last has the name of the owner, or of a holder with that pid and start.
func TestCommsOfHolders(t *testing.T) {
	task := func(pid uint32, start event.BootTime, comm string) event.Task {
		return event.Task{Pid: pid, Start: start, Comm: event.MakeComm(comm)}
	}
	c := commsOf([]event.Task{task(2, 7, "nc"), task(3, 11, "cat")})
	owner := task(5, 13, "java")
	for _, want := range []event.Task{task(2, 7, "nc"), task(3, 11, "cat"), owner, task(2, 8, ""), task(7, 7, ""), {}} {
		got := event.Task{Pid: want.Pid, Start: want.Start}
		if c.name(&got, &owner); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// The words of the C enums are those of package event.
func TestEnumsAgree(t *testing.T) {
	if bpfEvidenceEVIDENCE_SCAN != bpfEvidence(event.EvidenceScan) || bpfEvidenceEVIDENCE_ACCEPT != bpfEvidence(event.EvidenceAccept) ||
		bpfEvidenceEVIDENCE_CLOSE != bpfEvidence(event.EvidenceClose) {
		t.Error("evidence differs between C and Go")
	}
	if bpfBoundBOUND_AT_LEAST != bpfBound(event.AtLeast) || bpfDirectionDIRECTION_OUT != bpfDirection(event.Out) {
		t.Error("bound or direction differs between C and Go")
	}
	if bpfTcpStateTCP_NEW_SYN_RECV != bpfTcpState(event.NewSynRecv) {
		t.Error("states differ between C and Go")
	}
}

// stopping gives nothing, and says so as bpf_seq_read does, each second time.
type stopping struct {
	io.Reader
	stopped bool
}

func (s *stopping) Read(p []byte) (int, error) {
	if s.stopped = !s.stopped; s.stopped {
		return 0, &fs.PathError{Op: "read", Path: "bpf_iter", Err: unix.EAGAIN}
	}
	return s.Reader.Read(p)
}

// Descriptors are put in the order of cookies, processes and numbers, however they came.
func TestSortHolders(t *testing.T) {
	r := rows{tasks: make([]event.Task, 23)}
	for i := range r.tasks {
		// Two threads of a process can have descriptors of their own.
		r.tasks[i].Pid = uint32(100 - i/2)
	}
	random := rand.New(rand.NewPCG(23, 29))
	for range 2003 {
		h := held{cookie: event.Cookie(1 + random.IntN(499)), task: uint32(random.IntN(23)), fd: int32(random.IntN(1009))}
		if random.IntN(7) == 0 {
			h.cookie |= ownID
		}
		r.held = append(r.held, h)
	}
	want := slices.Clone(r.held)
	key := func(h *held) [3]uint64 {
		return [3]uint64{uint64(h.cookie), uint64(r.tasks[h.task].Pid), uint64(h.fd)}
	}
	slices.SortFunc(want, func(a, b held) int { x, y := key(&a), key(&b); return slices.Compare(x[:], y[:]) })
	r.sortHolders()
	for i := range want {
		if key(&r.held[i]) != key(&want[i]) {
			t.Fatalf("descriptor %d is %v, want %v", i, key(&r.held[i]), key(&want[i]))
		}
	}
	for _, few := range [][]held{nil, {{cookie: 7}}, {{cookie: 7, fd: 3}, {cookie: 7, fd: 5}}} {
		if got := sortByCookie(slices.Clone(few)); !slices.Equal(got, few) {
			t.Errorf("%v became %v", few, got)
		}
	}
}

// Rows come in pieces of any length.
func TestReadAllSplitsRows(t *testing.T) {
	var stream []byte
	for i := range 23 {
		stream = append(stream, bytesOf(&bpfSocketRow{Kind: rowSocket, Cookie: uint64(i)})...)
		stream = append(stream, bytesOf(&bpfSocketRow{Kind: rowSocket, Flags: socketMore, Cookie: uint64(100 + i)})...)
		stream = append(stream, bytesOf(&bpfSocketMore{Ends: uint64(200 + i)})...)
		stream = append(stream, bytesOf(&bpfHoldingRow{Kind: rowHolding, Task: bpfTask{Tgid: uint32(300 + i)}})...)
		stream = append(stream, bytesOf(&bpfHolderRow{Kind: rowHolder, Cookie: uint64(i)})...)
		stream = append(stream, bytesOf(&bpfListeningRow{Kind: rowListening, Cookie: uint64(i), QueueLen: uint32(400 + i)})...)
		stream = append(stream, bytesOf(&bpfPassedRow{Kind: rowPassed, Inode: uint64(i + 1)})...)
	}
	var whole, bytewise rows
	if err := whole.readAll(t.Context(), bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if err := bytewise.readAll(t.Context(), iotest.OneByteReader(bytes.NewReader(stream))); err != nil {
		t.Fatal(err)
	}
	// The kernel stops in the middle when it met many sockets that are not wanted.
	var again rows
	if err := again.readAll(t.Context(), &stopping{Reader: iotest.HalfReader(bytes.NewReader(stream))}); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*rows{"whole": &whole, "bytewise": &bytewise, "again": &again} {
		if r.sockets.n != 46 || len(r.held) != 46 || len(r.passed) != 23 {
			t.Fatalf("%s: %d sockets, %d descriptors, %d passed, want 46, 46 and 23", name, r.sockets.n, len(r.held), len(r.passed))
		}
		var plain, more event.Socket
		r.sockets.read(44, &plain)
		r.sockets.read(45, &more)
		if plain.Cookie != 22 || plain.Ends != 0 || more.Cookie != 122 || more.Ends != 222 {
			t.Errorf("%s: %+v and %+v", name, plain, more)
		}
		hs := r.holders()
		if h := hs[44]; h.Pid != 322 || h.Cookie != 22 || h.Listening != nil {
			t.Errorf("%s: %+v", name, h)
		}
		if h := hs[45]; h.Pid != 322 || h.State != event.Listen || h.Accepts().QueueLen != 422 {
			t.Errorf("%s: %+v", name, h)
		}
	}
	if err := new(rows).readAll(t.Context(), bytes.NewReader(stream[:len(stream)-1])); err == nil {
		t.Error("a cut stream was taken for whole")
	}
	if err := new(rows).readAll(t.Context(), bytes.NewReader(bytesOf(&bpfHolderRow{Kind: rowHolder}))); !errors.Is(err, errNobodys) {
		t.Errorf("a descriptor of no task: %v", err)
	}
}

// The same message by two descriptors of a process is one; two processes are two; and a
// socket without cookie has that of its row.
func TestPassedOnce(t *testing.T) {
	row := func(slot, cookie, inode uint64, pid uint32, fd int32) *bpfPassedRow {
		return &bpfPassedRow{Kind: rowPassed, Slot: slot, Cookie: cookie, Inode: inode, Receiver: bpfTask{Tgid: pid}, Fd: fd}
	}
	var r rows
	r.sockets.add(&bpfSocketRow{Inode: 7, Cookie: 11}, nil)
	for _, c := range []*bpfPassedRow{
		row(1, 0, 7, 100, 9), row(1, 0, 7, 100, 5), row(1, 0, 7, 101, 3),
		row(2, 3, 13, 100, 5), row(3, 3, 13, 100, 5),
		{Kind: rowPassed, Flags: passedCut},
	} {
		r.addPassed(c)
	}
	var got [][4]int
	for _, p := range r.passedOn() {
		got = append(got, [4]int{int(p.Cookie), int(p.Inode), int(p.Receiver.Pid), int(p.FD)})
	}
	want := [][4]int{{3, 13, 100, 5}, {3, 13, 100, 5}, {11, 7, 100, 5}, {11, 7, 101, 3}}
	if !slices.Equal(got, want) || !r.passedCut {
		t.Errorf("got %v, cut %v; want %v", got, r.passedCut, want)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(bytesOf(&bpfSocketRow{Kind: rowSocket}))
	f.Add(append(bytesOf(&bpfHoldingRow{Kind: rowHolding}), bytesOf(&bpfHolderRow{Kind: rowHolder})...))
	f.Add(append(bytesOf(&bpfSocketRow{Kind: rowSocket, Flags: socketMore}), bytesOf(&bpfSocketMore{})...))
	f.Add(append(bytesOf(&bpfHoldingRow{Kind: rowHolding}), bytesOf(&bpfListeningRow{Kind: rowListening})...))
	f.Add(bytesOf(&bpfPassedRow{Kind: rowPassed, Inode: 1}))
	f.Add(bytesOf(&bpfTransition{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		// Aligned as the kernel's buffers are.
		aligned := make([]uint64, len(b)/8+1)
		raw := unsafe.Slice((*byte)(unsafe.Pointer(&aligned[0])), len(b))
		copy(raw, b)
		var r rows
		rest, err := r.take(raw)
		if err == nil && len(rest) >= socketRowSize+socketMoreSize {
			t.Errorf("%d bytes left undecoded", len(rest))
		}
		if len(r.passedOn()) > len(r.passed) {
			t.Error("more passed than rows")
		}
		var tr event.Transition
		if _, err := decodeTransition(raw, &tr); err == nil && len(b) < transitionSize {
			t.Errorf("%d bytes were decoded", len(b))
		}
	})
}

func reading(hz uint32, uptime time.Duration) clocks {
	ticks := uint64(uptime.Seconds() * float64(hz))
	return clocks{ktime: uint64(uptime), jiffies: uint64(uint32(-300*int64(hz))) + ticks}
}

func TestTicksPerSecond(t *testing.T) {
	for _, hz := range tickRates {
		for _, uptime := range []time.Duration{3, 290, 313, 86400, 400 * 86400} {
			if got, sure := ticksPerSecond(reading(hz, uptime*time.Second)); !sure || got != hz {
				t.Errorf("HZ %d after %d s: got %d, sure %v", hz, uptime, got, sure)
			}
		}
		// All rates cross here.
		if got, sure := ticksPerSecond(reading(hz, 300*time.Second)); sure {
			t.Errorf("HZ %d after 300 s: sure of %d", hz, got)
		}
		if got := tickRateBetween(reading(hz, 300*time.Second), reading(hz, 300*time.Second+tickApart)); got != hz {
			t.Errorf("HZ %d by two readings: %d", hz, got)
		}
	}
	if hz, sure := ticksPerSecond(clocks{1e9, math.MaxUint32 / 2}); sure {
		t.Errorf("nonsense gave HZ %d", hz)
	}
}

func TestParseRelease(t *testing.T) {
	for release, want := range map[string][2]int{"6.18.44-fc-v595": {6, 18}, "5.10.0-32-cloud-amd64": {5, 10}, "7.2-rc1": {7, 2}} {
		major, minor, ok := parseRelease(release)
		if !ok || major != want[0] || minor != want[1] {
			t.Errorf("%s: %d.%d %v", release, major, minor, ok)
		}
	}
	if _, _, ok := parseRelease("unknown"); ok {
		t.Error("nonsense was taken for a release")
	}
}

// rawChurn is what the kernel writes for testenv.Churn, but for the two transitions that
// travel with others.
func rawChurn(n int) [][]byte {
	var all [][]byte
	for _, t := range testenv.Churn(n) {
		raw := bpfTransition{
			At: uint64(t.At), Cookie: uint64(t.Cookie), InState: uint64(t.InState), Cgroup: t.Cgroup,
			Netns: t.Flow.Netns, Lport: t.Flow.Local.Port(), Rport: t.Flow.Remote.Port(),
			Laddr4: t.Flow.Local.Addr().As4(), Raddr4: t.Flow.Remote.Addr().As4(),
			OwnerTgid: t.Owner.Pid, OwnerTid: t.Owner.Tid, OwnerStart: uint64(t.Owner.Start),
			OwnerComm: *(*[16]int8)(unsafe.Pointer(&t.Owner.Comm)),
			OldState:  uint8(t.Old), NewState: uint8(t.New), Bound: uint8(t.InBound),
			Direction: uint8(t.Direction), Evidence: uint8(t.Evidence),
		}
		switch {
		case t.Old == event.Listen, t.New == event.TimeWait:
			continue
		case t.Old == event.SynRecv:
			raw.Flags = transitionBorn
		case t.New == event.Close && t.Old == event.FinWait2:
			raw.Flags = transitionTimeWait
		case t.New == event.SynSent, t.New == event.FinWait1, t.Old == event.CloseWait:
			raw.Flags = transitionMore
		}
		all = append(all, bytesOf(&raw)[:sizeOf(raw.Flags)])
	}
	return all
}

func BenchmarkDecodeTransition(b *testing.B) {
	raw := rawChurn(1023)
	var tr event.Transition
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := decodeTransition(raw[i%len(raw)], &tr); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecodeAndLifecycle is all that diagnose does for a record; eleven transitions are
// nine records. Cookies and times go on, as the kernel's do.
func BenchmarkDecodeAndLifecycle(b *testing.B) {
	raw := rawChurn(1023)
	table := lifecycle.New(lifecycle.Options{})
	t := Tracer{comms: newComms()}
	var tr event.Transition
	var round event.Cookie
	apply := func(tr *event.Transition) error {
		tr.Cookie += round << 20
		tr.At += event.KTime(round << 30)
		table.Transition(tr)
		return nil
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i == len(raw) {
			i, round = 0, round+1
		}
		if err := t.hand(raw[i], &tr, apply); err != nil {
			b.Fatal(err)
		}
	}
}
