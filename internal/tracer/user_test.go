package tracer

import (
	"net"
	"os"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

func localPort(c net.Conn) uint16 { return uint16(c.LocalAddr().(*net.TCPAddr).Port) }

// socketTo finds the socket whose peer has the port.
func socketTo(t *testing.T, snap *event.Snapshot, port uint16) *event.Socket {
	t.Helper()
	for i := range snap.Sockets {
		if snap.Sockets[i].Flow.Remote.Port() == port {
			return &snap.Sockets[i]
		}
	}
	t.Fatalf("no socket to port %d among %d", port, len(snap.Sockets))
	return nil
}

func snapshot(t *testing.T, tr *Tracer, states ...event.State) *event.Snapshot {
	t.Helper()
	snap, err := tr.Snapshot(t.Context(), SnapshotOptions{States: event.SetOf(states...), Holders: true})
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// Who reads or writes becomes the user, whoever opened the socket and whoever did before.
func TestLastUser(t *testing.T) {
	for name, cfg := range map[string]Config{
		"users":      {Live: true, Users: true},
		"and stacks": {Live: true, Users: true, Stacks: StackConfig{Sink: &heard{}}},
		"no fexit":   {Live: true, Users: true, Without: []string{kindFexit}},
	} {
		t.Run(name, func(t *testing.T) {
			ns := testenv.NewNetns(t)
			tr := openIn(t, ns, cfg)
			p := connect(t, ns, listen(t, ns, "127.0.0.1:0"), 1)[0]
			f := fileOf(t, p.server.(*net.TCPConn))
			a, b := startChild(t, f), startChild(t, f)
			port := localPort(p.client)
			is := func(pid uint32, how event.Evidence, fact string, state event.State) {
				t.Helper()
				s := socketTo(t, snapshot(t, tr, state), port)
				if attached(tr, fact) == "" {
					pid, how = s.User.Pid, s.UserEvidence
				}
				if s.User.Pid != pid || s.UserEvidence != how || (s.User.Start != 0) != (pid != 0) {
					t.Errorf("user %+v by %v, want %d by %v", s.User, s.UserEvidence, pid, how)
				}
			}
			is(0, event.EvidenceNone, factRead, event.Established)
			write(t, p.client, 2)
			a.do("read 3")
			is(a.pid, event.EvidenceRead, factRead, event.Established)
			b.do("read 3")
			is(b.pid, event.EvidenceRead, factRead, event.Established)
			a.do("write 3")
			is(a.pid, event.EvidenceWrite, factWrite, event.Established)
			write(t, p.client, 1)
			if err := p.client.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			awaitCloseWait(t, ns, port)
			b.do("read 3")
			is(b.pid, event.EvidenceRead, factRead, event.CloseWait)
			a.do("write 3")
			is(a.pid, event.EvidenceWrite, factWrite, event.CloseWait)
			if got := b.do("read 3"); got != "0" {
				t.Fatalf("read %s bytes of nothing", got)
			}
			is(b.pid, event.EvidenceRead, factRead, event.CloseWait)
		})
	}
}

func write(t *testing.T, c net.Conn, bytes int) {
	t.Helper()
	if _, err := c.Write(make([]byte, bytes)); err != nil {
		t.Fatal(err)
	}
}

// Without Config.Users nobody is kept, and where accept() is seen send() is not hooked.
func TestUsersAreOffByDefault(t *testing.T) {
	ns := testenv.NewNetns(t)
	tr := openIn(t, ns, Config{Live: true})
	if attached(tr, factAccept) != "" && attached(tr, factWrite) != "" {
		t.Errorf("writes are hooked for nothing: %+v", tr.Hooks())
	}
	p := connect(t, ns, listen(t, ns, "127.0.0.1:0"), 1)[0]
	write(t, p.server, 1)
	if s := socketTo(t, snapshot(t, tr, event.Established), localPort(p.client)); s.User.Known() {
		t.Errorf("user %+v", s.User)
	}
}

// The last transition of a wait says what was left unread, what was sent, who closed, and
// whether it closed at all.
func TestEndOfAWait(t *testing.T) {
	const data = 7
	for name, run := range map[string]struct {
		act  func(*child)
		want event.Transition
	}{
		"unread data":  {func(c *child) { c.do("close 3") }, event.Transition{New: event.Close, RecvQ: data + 1}},
		"exit":         {func(c *child) { c.exit() }, event.Transition{New: event.Close, RecvQ: data + 1, Exiting: true}},
		"told EOF":     {func(c *child) { drain(c, data); c.do("read 3"); c.do("close 3") }, event.Transition{New: event.LastAck, EOFSeen: true}},
		"not told":     {func(c *child) { drain(c, data-1); c.do("close 3") }, event.Transition{New: event.Close, RecvQ: 2}},
		"sent":         {func(c *child) { drain(c, data); c.do("write 3"); c.do("write 3"); c.do("close 3") }, event.Transition{New: event.LastAck, SentAfterFin: 2}},
		"EOF and exit": {func(c *child) { drain(c, data); c.do("read 3"); c.exit() }, event.Transition{New: event.LastAck, EOFSeen: true, Exiting: true}},
	} {
		t.Run(name, func(t *testing.T) {
			ns := testenv.NewNetns(t)
			tr := openIn(t, ns, Config{Live: true, Users: true})
			p := connect(t, ns, listen(t, ns, "127.0.0.1:0"), 1)[0]
			c := giveAway(t, p.server)
			port := localPort(p.client)
			write(t, p.client, data)
			// The kernel joins the FIN to the data, so that whoever reads all has it, only where the sender
			// has let go of the data.
			awaitTable(t, ns, "have all acknowledged", func(r testenv.TCPRow) bool {
				return r.Lport == port && r.SendQ == 0
			}, 1)
			if err := p.client.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			awaitCloseWait(t, ns, port)
			run.act(c)
			all := collect(t, tr, func(got []event.Transition) bool { return count(got, leavesCloseWait) == 1 })
			for i := range all {
				if leavesCloseWait(&all[i]) {
					checkEnd(t, tr, &all[i], &run.want, c.pid)
				} else if all[i].Closer != 0 && all[i].Closer != uint32(os.Getpid()) || all[i].Exiting {
					t.Errorf("%v: closed by %d, exiting %v", all[i], all[i].Closer, all[i].Exiting)
				}
			}
		})
	}
}

func drain(c *child, bytes int) {
	for range bytes {
		c.do("read 3")
	}
}

func checkEnd(t *testing.T, tr *Tracer, got, want *event.Transition, pid uint32) {
	t.Helper()
	watched := attached(tr, factRead) != ""
	if got.New != want.New || got.RecvQ != want.RecvQ || got.SentAfterFin != want.SentAfterFin || !got.SentKnown {
		t.Errorf("to %v, %d unread, %d sent (%v); want %+v", got.New, got.RecvQ, got.SentAfterFin, got.SentKnown, want)
	}
	if got.EOFSeen != (want.EOFSeen && watched) || got.EOFWatched != watched {
		t.Errorf("told EOF %v, watched %v; want %v, %v", got.EOFSeen, got.EOFWatched, want.EOFSeen, watched)
	}
	if got.Closer != pid || got.Exiting != want.Exiting {
		t.Errorf("closed by %d, exiting %v; want %d, %v", got.Closer, got.Exiting, pid, want.Exiting)
	}
	used := want.RecvQ != data7Unread
	if wantUser := map[bool]uint32{true: pid}[used && watched]; got.User != wantUser {
		t.Errorf("user %d, want %d", got.User, wantUser)
	}
}

// data7Unread is the queue of a wait nobody read from: see TestEndOfAWait.
const data7Unread = 8
