package pipeline

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/netns"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// Every state: only CLOSE_WAIT without being told, and some never.
func TestKillRefusal(t *testing.T) {
	const (
		yes = iota
		ifTold
		never
	)
	want := map[event.State]int{
		event.CloseWait: yes, event.Listen: never, event.TimeWait: never, event.Close: never, event.SynRecv: never,
		event.NewSynRecv: never, event.BoundInactive: never,
	}
	for _, s := range event.States() {
		c := &diagnosis.Case{Socket: event.Socket{Cookie: 7, State: s, Flow: event.Flow{Protocol: event.TCP}}}
		plain, told := refused(KillQuery{}, c), refused(KillQuery{AnyState: true}, c)
		got := yes
		switch {
		case plain != "" && told != "":
			got = never
		case plain != "":
			got = ifTold
		}
		expect, listed := want[s]
		if !listed {
			expect = ifTold
		}
		if got != expect || (got == never) != (RefusedState(s) != "") {
			t.Errorf("%s: %q, with --any-state %q", s, plain, told)
		}
		if got == ifTold && (!strings.Contains(plain, s.String()) || !strings.Contains(plain, "--any-state")) {
			t.Errorf("%s: %q does not say how", s, plain)
		}
	}
}

func refused(q KillQuery, c *diagnosis.Case) string {
	k := killer{query: &q}
	return k.refusal(c)
}

func TestKillRefusesInUseAndUnknown(t *testing.T) {
	half := diagnosis.Case{Cause: diagnosis.HalfClose, Socket: event.Socket{Cookie: 7, State: event.CloseWait}}
	if got := refused(KillQuery{AnyState: true}, &half); !strings.Contains(got, "--half-close") {
		t.Errorf("half-close: %q", got)
	}
	if got := refused(KillQuery{HalfClose: true}, &half); got != "" {
		t.Errorf("half-close with the flag: %q", got)
	}
	mptcp := diagnosis.Case{Socket: event.Socket{Cookie: 7, State: event.CloseWait, Flow: event.Flow{Protocol: event.MPTCP}}}
	nameless := diagnosis.Case{Socket: event.Socket{State: event.CloseWait}}
	for _, c := range []*diagnosis.Case{&mptcp, &nameless} {
		if got := refused(KillQuery{AnyState: true, HalfClose: true}, c); got == "" {
			t.Errorf("%+v is not refused", c.Socket)
		}
	}
}

func TestKillChoose(t *testing.T) {
	var cases diagnosis.CaseList
	for i, age := range []time.Duration{time.Second, time.Hour, time.Minute} {
		at := event.KTime(2 * time.Hour)
		cases = append(cases, diagnosis.Case{Socket: event.Socket{Cookie: event.Cookie(i + 1), At: at, Since: at.Add(-age), Bound: event.Exact}})
	}
	ids := func(cookies ...event.Cookie) (got []event.Cookie, missing []event.Cookie) {
		chosen, missing := choose(cases, cookies)
		for _, c := range chosen {
			got = append(got, c.Cookie)
		}
		return got, missing
	}
	if got, missing := ids(); !slices.Equal(got, []event.Cookie{2, 3, 1}) || len(missing) > 0 {
		t.Errorf("all: %v, missing %v", got, missing)
	}
	if got, missing := ids(1, 9, 3); !slices.Equal(got, []event.Cookie{3, 1}) || !slices.Equal(missing, []event.Cookie{9}) {
		t.Errorf("named: %v, missing %v", got, missing)
	}
}

// A socket that is not what it was when it was chosen is left alone.
func TestKillMeanwhile(t *testing.T) {
	e, err := New(Config{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	k := &killer{engine: e, query: &KillQuery{AnyState: true}, conns: map[uint32]*reach{}}
	defer k.close()
	if err := k.prepare(); err != nil {
		t.Fatal(err)
	}
	server, client := tcpPair(t)
	c := caseOf(t, server)
	expect := func(action record.KillAction, reason string, state event.State) {
		t.Helper()
		if o := k.one(c); o.Action != action || o.Reason != reason || o.State != state || o.At.IsZero() {
			t.Errorf("%+v, want %s %q in %s", o, action, reason, state)
		}
	}
	expect(record.KillWouldDestroy, "", event.Established)

	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); err == nil {
		t.Fatal("no end of stream")
	}
	expect(record.KillSkipped, "it has moved on to CLOSE_WAIT meanwhile", event.CloseWait)

	c.State = event.CloseWait
	other := *c
	other.Cookie += 1 << 40
	c = &other
	expect(record.KillSkipped, endedMeanwhile, event.CloseWait)

	c = caseOf(t, server)
	c.State = event.CloseWait
	// SO_LINGER 0: no state in between.
	if err := server.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	server.Close()
	expect(record.KillSkipped, endedMeanwhile, event.CloseWait)

	c.Flow.Netns = 1
	o := k.one(c)
	if o.Action != record.KillFailed || !strings.Contains(o.Reason, "network namespace 1 cannot be entered") {
		t.Errorf("a namespace that is not there: %+v", o)
	}
}

// tcpPair is a connection by plain TCP; Go would listen by MPTCP.
func tcpPair(t *testing.T) (server, client *net.TCPConn) {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*net.TCPConn), c.(*net.TCPConn)
}

// caseOf is what a snapshot says of the connection while it is established.
func caseOf(t *testing.T, s *net.TCPConn) *diagnosis.Case {
	t.Helper()
	raw, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var cookie uint64
	if controlErr := raw.Control(func(fd uintptr) {
		cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
	}); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
	inode, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	return &diagnosis.Case{Socket: event.Socket{
		Cookie: event.Cookie(cookie), State: event.Established,
		Flow: event.Flow{
			Local:  netip.MustParseAddrPort(s.LocalAddr().String()),
			Remote: netip.MustParseAddrPort(s.RemoteAddr().String()), Netns: inode, Protocol: event.TCP,
		},
	}}
}
