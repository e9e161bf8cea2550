package testenv

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv/facts"
)

// kernelFacts are what each cause must look like in the kernel's own table.
var kernelFacts = []struct {
	cause    string
	state    event.State
	recvQ    uint32
	accepted bool
}{
	{"unaccepted", event.CloseWait, 1, false},
	{"unread_data", event.CloseWait, 8, true},
	{"unread_eof", event.CloseWait, 1, true},
	{"eof_ignored", event.CloseWait, 0, true},
	{"eof_unsaid", event.CloseWait, 0, true},
	{"half_close", event.CloseWait, 0, true},
	{"half_close_stalled", event.CloseWait, 0, true},
	{"out_eof", event.CloseWait, 1, true},
	{"out_eof_ignored", event.CloseWait, 0, true},
	{"held_elsewhere", event.CloseWait, 1, true},
	{"fd_passed", event.CloseWait, 1, true},
	{"in_flight", event.CloseWait, 1, true},
	{"zombie_fd", event.Close, 0, true},
}

func TestLeakerMakesTheFacts(t *testing.T) {
	for _, want := range kernelFacts {
		for _, addr := range []string{"127.0.0.1", "::1"} {
			t.Run(want.cause+"/"+addr, func(t *testing.T) {
				t.Parallel()
				requireAddr(t, addr)
				l := StartLeaker(t, Options{Cause: want.cause, Addr: addr})
				checkReady(t, l, want.cause)
				listed := 23
				if want.state == event.Close {
					listed = 0 // no table shows closed sockets
				}
				rows := settledRows(t, "", l, listed)
				if len(rows) != listed {
					t.Errorf("%d sockets in the table, want %d", len(rows), listed)
				}
				for _, r := range rows {
					if r.State != want.state || r.RecvQ != want.recvQ || (r.Inode != 0) != want.accepted {
						t.Errorf("%v recv_q %d inode %d, want %v %d, accepted %v",
							r.State, r.RecvQ, r.Inode, want.state, want.recvQ, want.accepted)
					}
				}
				checkHolder(t, l)
			})
		}
	}
}

func requireAddr(t *testing.T, addr string) {
	t.Helper()
	if addr != "::1" {
		return
	}
	if _, err := os.Stat("/proc/net/tcp6"); err != nil {
		Skip(t, "ipv6", err.Error())
	}
}

// settledRows asks again where the table was incomplete, see TCPTable.
func settledRows(t *testing.T, path string, l *Leaker, want int) []TCPRow {
	t.Helper()
	rows := rowsOf(t, path, l)
	for range 20 {
		if len(rows) == want {
			break
		}
		rows = rowsOf(t, path, l)
	}
	return rows
}

// rowsOf returns the rows of the leaked sockets, by their pair of ports.
func rowsOf(t *testing.T, path string, l *Leaker) []TCPRow {
	t.Helper()
	type ports struct{ l, r uint16 }
	ours := map[ports]bool{}
	for _, s := range l.Entered {
		ours[ports{s.Lport, s.Rport}] = true
	}
	var rows []TCPRow
	for _, r := range TCPTable(t, path) {
		if ours[ports{r.Lport, r.Rport}] {
			rows = append(rows, r)
		}
	}
	return rows
}

func checkReady(t *testing.T, l *Leaker, cause string) {
	t.Helper()
	if l.Cause != cause || l.N != 23 || len(l.Entered) != 23 || l.Lport == 0 || l.Netns == 0 {
		t.Fatalf("ready says %+v", l.Ready)
	}
	if l.Peer == 0 || l.Peer == l.Pid || l.Leader == 0 || (l.Pid == 0) != (cause == "in_flight") {
		t.Errorf("pid %d, leader %d, peer %d", l.Pid, l.Leader, l.Peer)
	}
	if moved := l.Expect == "held_elsewhere"; moved != (l.Pid != l.Leader && l.Pid != 0) {
		t.Errorf("pid %d, leader %d: moved must be %v", l.Pid, l.Leader, moved)
	}
	cookies := map[uint64]bool{}
	for _, s := range l.Entered {
		if s.Before <= 0 || s.After < s.Before || s.Seen != 0 && s.Seen < s.After {
			t.Errorf("times %d %d %d are not in order", s.Before, s.After, s.Seen)
		}
		cookies[s.Cookie] = true
	}
	if want := 23; cause == "unaccepted" {
		if !cookies[0] {
			t.Error("a socket without descriptor has a cookie")
		}
	} else if len(cookies) != want || cookies[0] {
		t.Errorf("%d distinct cookies, want %d", len(cookies), want)
	}
}

// checkHolder: the descriptors are where the leaker says.
func checkHolder(t *testing.T, l *Leaker) {
	t.Helper()
	for _, s := range l.Entered {
		if s.FD < 0 {
			continue
		}
		link, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(l.Pid), "fd", strconv.Itoa(s.FD)))
		if err != nil || !strings.HasPrefix(link, "socket:[") {
			t.Errorf("descriptor %d of pid %d is %q: %v", s.FD, l.Pid, link, err)
		}
	}
}

func TestLeakerInNetns(t *testing.T) {
	ns := NewNetns(t)
	l := StartLeaker(t, Options{Cause: "eof_ignored", Netns: ns.Path, Listen: "0.0.0.0"})
	if l.Netns != ns.Inode {
		t.Errorf("leaker lives in %d, want %d", l.Netns, ns.Inode)
	}
	if n := len(settledRows(t, ns.Path, l, 23)); n != 23 {
		t.Errorf("%d sockets in the namespace, want 23", n)
	}
	if n := len(rowsOf(t, "", l)); n != 0 {
		t.Errorf("%d sockets outside, want 0", n)
	}
}

func TestLeakerMPTCP(t *testing.T) {
	if _, err := os.Stat("/proc/sys/net/mptcp/enabled"); err != nil {
		Skip(t, "mptcp", err.Error())
	}
	for _, want := range kernelFacts {
		for _, plain := range []bool{false, true} {
			if want.cause == "unaccepted" && !plain {
				continue
			}
			t.Run(want.cause+"/plain="+strconv.FormatBool(plain), func(t *testing.T) {
				t.Parallel()
				l := StartLeaker(t, Options{Cause: want.cause, MPTCP: true, PlainPeer: plain})
				if len(l.Entered) != 23 || l.Mptcp == plain {
					t.Errorf("%d sockets, mptcp %v", len(l.Entered), l.Mptcp)
				}
			})
		}
	}
}

func TestLeakerHealthy(t *testing.T) {
	l := StartLeaker(t, Options{Cause: "healthy", N: 101})
	for _, r := range TCPTable(t, "") {
		if r.Lport == l.Lport && r.State == event.CloseWait {
			t.Errorf("left a socket in CLOSE_WAIT: %+v", r)
		}
	}
}

func TestLeakerGrow(t *testing.T) {
	l := StartLeaker(t, Options{Cause: "grow", N: 7, Every: time.Millisecond})
	cookies := map[uint64]bool{}
	for range 7 {
		line := next(t, l)
		if line.Event != facts.EventSocket || line.Socket == nil {
			t.Fatalf("line %+v", line)
		}
		cookies[line.Socket.Cookie] = true
	}
	if len(cookies) != 7 {
		t.Errorf("%d distinct sockets, want 7", len(cookies))
	}
}

func TestLeakerGrowUntilFull(t *testing.T) {
	l := StartLeaker(t, Options{Cause: "grow", N: 60, Every: time.Millisecond, NoFile: 30})
	for line := next(t, l); line.Event != facts.EventFull; line = next(t, l) {
		if line.Event != facts.EventSocket {
			t.Fatalf("line %+v", line)
		}
	}
}

func TestLeakerTimedClose(t *testing.T) {
	const after = 50 * time.Millisecond
	l := StartLeaker(t, Options{Cause: "unread_eof", CloseAfter: after})
	for i := range 23 {
		line := next(t, l)
		if line.Event != facts.EventClosed || line.Socket.Cookie != l.Entered[i].Cookie {
			t.Fatalf("line %+v", line)
		}
		if dwell := line.CloseBefore - line.Socket.After; dwell < int64(after) || line.CloseAfter < line.CloseBefore {
			t.Errorf("closed after %v, want %v at least", time.Duration(dwell), after)
		}
	}
}

func next(t *testing.T, l *Leaker) facts.Line {
	t.Helper()
	select {
	case line, ok := <-l.Lines:
		if !ok {
			t.Fatalf("leaker ended: %v", l.Stop())
		}
		return line
	case <-time.After(leakerPatience):
		t.Fatal("no line from the leaker")
	}
	panic("unreachable")
}

func TestLeakerEndsWithItsPeers(t *testing.T) {
	l := StartLeaker(t, Options{Cause: "fd_passed"})
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{l.Pid, l.Leader, l.Peer} {
		if err := unix.Kill(pid, 0); err == nil {
			t.Errorf("pid %d is still there", pid)
		}
	}
	if rows := rowsOf(t, "", l); len(rows) != 0 && rows[0].State == event.CloseWait {
		t.Errorf("%d sockets left", len(rows))
	}
}

func TestLeakerRefuses(t *testing.T) {
	program, err := LeakerProgram()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{
		{Cause: "nonsense"},
		{Cause: "eof_ignored", Addr: "192.0.2.1"},
		{Cause: "unaccepted", CloseAfter: time.Second},
		{Cause: "eof_ignored", N: 1_000_000},
	} {
		l, first, err := startLeaker(program, o)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := <-first; ok || l.Stop() == nil {
			t.Errorf("%+v was not refused", o)
		}
	}
}

func TestSSAgrees(t *testing.T) {
	l := StartLeaker(t, Options{Cause: "unread_data"})
	want := map[uint64]int{}
	for _, s := range l.Entered {
		want[s.Cookie] = s.FD
	}
	found := map[uint64]bool{} // netlink can give a socket twice, too
	for _, row := range SS(t, "") {
		fd, ours := want[row.Cookie]
		if !ours {
			continue
		}
		found[row.Cookie] = true
		if row.RecvQ != 8 || row.Local.Port() != l.Lport || row.Inode == 0 {
			t.Errorf("row %+v", row)
		}
		if len(row.Users) != 1 || row.Users[0].Pid != uint32(l.Pid) || row.Users[0].FD != int32(fd) {
			t.Errorf("users %+v, want pid %d fd %d", row.Users, l.Pid, fd)
		}
	}
	if len(found) != 23 {
		t.Errorf("ss shows %d of the sockets, want 23", len(found))
	}
}
