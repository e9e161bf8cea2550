package e2e

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// ktlsRecord is the payload of the leaker's peer as kernel TLS sends it: header, nonce, 7
// bytes and tag.
const ktlsRecord = 5 + 8 + 7 + 16

// ktlsLeaks are made by processes that have handed TLS to the kernel, as servers and (out_)
// as clients. It decrypts whole records, keeps what nobody reads of them to itself, and
// returns 0 at the end without taking the FIN out of TCP's queue: recvQ speaks of records,
// and from the FIN alone nobody can say whether the program was told.
var ktlsLeaks = []struct {
	leak  string
	recvQ uint32
	// watched, where the kernel shows us what it needs (a fact of doctor's), else as older.
	watched, older, needs string
}{
	{"unread_data", ktlsRecord + 1, "unread_data", "unread_data", ""},
	// The FIN came with the record, so it is gone with it.
	{"unread_rest", 0, "unread_eof", "eof_ignored", "read"},
	{"unread_eof", 1, "unread_eof", "unread_eof", ""},
	{"eof_ignored", 1, "unread_eof", "unread_eof", ""},
	{"out_eof", 1, "unread_eof", "unread_eof", ""},
	{"out_eof_ignored", 1, "unread_eof", "unread_eof", ""},
	{"half_close", 1, "half_close", "half_close", ""},
	{"zombie_fd", 1, "zombie_fd", "zombie_fd", ""},
	{"held_elsewhere", 1, "held_elsewhere", "unread_eof", "accept"},
	{"in_flight", 1, "in_flight", "in_flight", ""},
}

// ktlsSeen is what is said of a socket.
type ktlsSeen struct {
	blame
	recvQ uint32
	told  bool
}

func TestKTLS(t *testing.T) {
	requireKTLS(t)
	ns := testNetns(t)
	d := start(t, "diagnose", "-o", "json", "--for", patience.String(), "--threshold", "1ms", "--netns", inode(ns))
	w := start(t, "list", "-o", "json", "--for", patience.String(), "--netns", inode(ns))
	hooks := ktlsHooks(t)
	watched, older, judged := map[ktlsSeen]int{}, map[ktlsSeen]int{}, map[blame]int{}
	for _, k := range ktlsLeaks {
		l := testenv.StartLeaker(t, testenv.Options{Cause: k.leak, N: n, Netns: ns.Path, KTLS: true})
		cause := k.watched
		if k.needs != "" && !hooks[k.needs] {
			cause = k.older
		}
		watched[ktlsSeen{blame{l.Pid, cause}, k.recvQ, false}] += n
		older[ktlsSeen{blame{l.Pid, k.older}, k.recvQ, false}] += n
		judged[blame{l.Pid, cause}] += n
	}
	if got := ktlsSockets(t, w.interrupt(t)); !maps.Equal(got, watched) {
		t.Errorf("list, watched: %v\nexpected:      %v", got, watched)
	}
	if got := judgedBy(decode[verdict](t, d.interrupt(t).stdout)); !maps.Equal(got, judged) {
		t.Errorf("diagnose: %v\nexpected: %v", got, judged)
	}
	if got := ktlsSockets(t, run(t, "list", "-o", "json", "--netns", inode(ns))); !maps.Equal(got, older) {
		t.Errorf("list, older: %v\nexpected:    %v", got, older)
	}
}

func ktlsSockets(t *testing.T, r result) map[ktlsSeen]int {
	t.Helper()
	got := map[ktlsSeen]int{}
	for _, s := range decode[struct{ Sockets []sceneSocket }](t, r.want(t, exitClean).stdout).Sockets {
		got[ktlsSeen{blame{s.Owner.Pid, s.Cause}, s.RecvQ, s.EOFSeen != nil}]++
	}
	return got
}

// ktlsHooks are the facts that hooks of this kernel supply. Kernel TLS reads by a function
// of its own, which fexit on TCP's does not see.
func ktlsHooks(t *testing.T) map[string]bool {
	t.Helper()
	d := decode[struct{ Hooks []event.Hook }](t, run(t, "doctor", "-o", "json").want(t, exitClean).stdout)
	supplied := map[string]bool{}
	for _, h := range d.Hooks {
		supplied[h.Fact] = supplied[h.Fact] || h.Attached && h.Hook != "tcp_recvmsg"
	}
	return supplied
}

// requireKTLS asks for it as a program does, on a connection: that also loads the module.
func requireKTLS(t *testing.T) {
	t.Helper()
	testenv.RequireRoot(t)
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	c, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var answer error
	err = raw.Control(func(fd uintptr) {
		answer = unix.SetsockoptString(int(fd), unix.SOL_TCP, unix.TCP_ULP, "tls")
	})
	if errors.Is(answer, unix.ENOENT) {
		testenv.Skip(t, "ktls", fmt.Sprintf("setsockopt(TCP_ULP, tls): %v", answer))
	}
	if err = errors.Join(err, answer); err != nil {
		t.Fatal(err)
	}
}
