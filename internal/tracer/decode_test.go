package tracer

import (
	"bytes"
	"errors"
	"math"
	"net/netip"
	"slices"
	"testing"
	"testing/iotest"
	"time"
	"unsafe"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

func bytesOf[T any](v *T) []byte {
	return bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)))
}

func mapped(a, b, c, d byte) [16]uint8 {
	return [16]uint8{10: 0xff, 11: 0xff, 12: a, 13: b, 14: c, 15: d}
}

func TestDecodeTransition(t *testing.T) {
	raw := bpfTransition{At: 7, Cookie: 11, InState: 13, Cgroup: 17, Protocol: 262, OldState: 1, NewState: 8, Bound: 1, Direction: 2, Evidence: 3, Flags: 1 | 1<<2 | 1<<4 | 1<<5, User: 41, Closer: 43, RecvQ: 47, SentAfterFin: 53}
	raw.Flow = bpfFlow{Laddr: mapped(127, 0, 0, 1), Raddr: [16]uint8{15: 1}, Netns: 19, Lport: 80, Rport: 23}
	raw.Owner = bpfTask{Start: 29, Tgid: 31, Tid: 37, Comm: [16]int8{'n', 'c'}}
	want := event.Transition{
		At: 7, Cookie: 11, InState: 13, Cgroup: 17, Old: event.Established, New: event.CloseWait,
		InBound: event.Exact, Direction: event.Out, Evidence: event.EvidenceRead, Inferred: true,
		Flow: event.Flow{
			Local: netip.MustParseAddrPort("127.0.0.1:80"), Remote: netip.MustParseAddrPort("[::1]:23"),
			Netns: 19, Protocol: event.MPTCP,
		},
		Owner: event.Task{Start: 29, Pid: 31, Tid: 37, Comm: event.MakeComm("nc")},
		User:  41, Closer: 43, Exiting: true,
		RecvQ: 47, SentAfterFin: 53, EOFWatched: true, SentKnown: true,
	}
	var got event.Transition
	if err := decodeTransition(bytesOf(&raw), &got); err != nil || got != want {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if err := decodeTransition(make([]byte, transitionSize-1), &got); err == nil {
		t.Error("a short record was decoded")
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
	for name, r := range map[string]*rows{"whole": &whole, "bytewise": &bytewise} {
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
		if err := decodeTransition(raw, &tr); (err == nil) != (len(b) >= transitionSize) {
			t.Errorf("%d bytes: %v", len(b), err)
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

func BenchmarkDecodeTransition(b *testing.B) {
	raw := bytesOf(&bpfTransition{OldState: 1, NewState: 8, Protocol: 6})
	var tr event.Transition
	b.ReportAllocs()
	for b.Loop() {
		if err := decodeTransition(raw, &tr); err != nil {
			b.Fatal(err)
		}
	}
}
