package e2e

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// closerRecord is one of active_closers.
type closerRecord struct {
	Pid          int
	Comm         string
	Gone         bool
	ClosedFirst  int     `json:"closed_first"`
	PerS         float64 `json:"per_s"`
	Simultaneous int
	Exiting      int
	Groups       []closerGroup
}

type closerGroup struct {
	N            int
	Direction    string
	Lport, Rport uint16
	Quality      string
	Frames       []struct {
		Function string
		User     bool
	}
}

// user is the function that stands for the stack.
func (g *closerGroup) user() string {
	for _, f := range g.Frames {
		if f.User {
			return f.Function
		}
	}
	return ""
}

// budgetRecord is one of budgets.
type budgetRecord struct {
	Scope          string
	Netns          uint32
	Laddr, Raddr   string
	Rport          uint16
	InUse          int `json:"in_use"`
	Range          int
	Ratio          float64
	ExhaustedInS   *int64 `json:"exhausted_in_s"`
	ExhaustedMinS  *int64 `json:"exhausted_min_s"`
	ExhaustedMaxS  *int64 `json:"exhausted_max_s"`
	TimeWait       int    `json:"time_wait"`
	FinWait2       int    `json:"fin_wait2"`
	Reusable       int
	ByBind         int `json:"by_bind"`
	TakenElsewhere int `json:"taken_elsewhere"`
	Unavailable    int
}

// portsRecord is the record of timewait with all that these tests look at.
type portsRecord struct {
	Kind         string
	Time         time.Time
	ObservedNS   int64          `json:"observed_ns"`
	TimeWait     int            `json:"time_wait"`
	FinWait2     int            `json:"fin_wait2"`
	FinWait2Held int            `json:"fin_wait2_held"`
	Closers      []closerRecord `json:"active_closers"`
	Resets       []struct {
		Pid, N int
		Comm   string
	}
	Budgets  []budgetRecord
	Failures []struct {
		Pid   int
		Comm  string
		Raddr string
		Rport uint16
		N     int
		Bound int
	} `json:"connect_failures"`
	Namespaces []struct {
		Netns    uint32
		TimeWait int `json:"time_wait"`
		Range    int
		Counters map[string]struct{ Total, Observed uint64 }
		Sysctls  map[string]string
	}
	Sysctls map[string]string
	Advice  []string
	Loss    record.LossCounts
}

func (r *portsRecord) closer(pid int) closerRecord {
	for _, c := range r.Closers {
		if c.Pid == pid {
			return c
		}
	}
	return closerRecord{}
}

func (r *portsRecord) resets(pid int) int {
	for _, x := range r.Resets {
		if x.Pid == pid {
			return x.N
		}
	}
	return 0
}

// budget is the one of a destination port, or with port 0 that of the local address.
func (r *portsRecord) budget(t *testing.T, rport uint16) budgetRecord {
	t.Helper()
	for _, b := range r.Budgets {
		if b.Rport == rport && (rport != 0 || b.Scope == "local_address") {
			return b
		}
	}
	t.Fatalf("no budget to port %d: %+v", rport, r.Budgets)
	return budgetRecord{}
}

// portScene is a scene with a range of its own.
type portScene struct{ *scene }

// newPortScene has ports from low to high, and TIME_WAIT is taken over by nobody.
func newPortScene(t *testing.T, low, high int) portScene {
	t.Helper()
	s := portScene{newStage(t)}
	s.sysctl(t, "ip_local_port_range", fmt.Sprint(low, " ", high))
	// The default takes over between loopback addresses.
	s.sysctl(t, "tcp_tw_reuse", "0")
	// As in newNarrow.
	s.sysctl(t, "tcp_rfc1337", "1")
	return s
}

func (s portScene) sysctl(t *testing.T, name, value string) {
	t.Helper()
	err := s.ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0) })
	if err != nil {
		t.Fatal(err)
	}
}

// party starts a role of testdata/timewait.
func (s portScene) party(t *testing.T, args ...string) *actor {
	t.Helper()
	cmd := exec.Command(s.timewaitProgram(t), args...)
	orders, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return &actor{s.start(t, cmd), orders}
}

// timewaitProgram is built here; guests bring it along.
func (s portScene) timewaitProgram(t *testing.T) string {
	t.Helper()
	if inGuest() {
		return tool(t, "timewait")
	}
	return s.gobuild(t, filepath.Join("..", "timewait"), "timewait")
}

func (s portScene) server(t *testing.T, addr string) *actor {
	t.Helper()
	a := s.party(t, "serve", "-listen", fmt.Sprint(addr, ":", s.port()))
	a.readPort(t)
	return a
}

// counts waits for what dial says in the end.
func (a *actor) counts(t *testing.T) (made, failed int) {
	t.Helper()
	if _, err := fmt.Sscanf(a.said(t, "made "), "%d failed %d", &made, &failed); err != nil {
		t.Fatalf("%v: %s", err, a.output)
	}
	return made, failed
}

// watchPorts starts timewait on the namespaces; it ends by ports, which decides when.
func watchPorts(t *testing.T, scenes ...portScene) *running {
	t.Helper()
	args := []string{"timewait", "-o", "json", "--syscall-accept", "--for", patience.String()}
	for _, s := range scenes {
		args = append(args, "--netns", inode(s.ns))
	}
	return startUntil(t, "fact=transitions", args...)
}

func portsSeen(t *testing.T, r *running) *portsRecord {
	t.Helper()
	v := decode[portsRecord](t, r.interrupt(t).want(t, exitClean).stdout)
	// Guests are interrupted, and preempted, in the middle of anything.
	loss := v.Loss
	if inGuest() {
		loss.Missed = 0
	}
	if loss.Any() {
		t.Errorf("lost: %+v", loss)
	}
	return &v
}

// present is what timewait tells without watching.
func (s portScene) present(t *testing.T, args ...string) *portsRecord {
	t.Helper()
	args = append([]string{"timewait", "-o", "json", "--for", "0", "--netns", inode(s.ns)}, args...)
	v := decode[portsRecord](t, run(t, args...).want(t, exitClean).stdout)
	return &v
}

// Ten thousand connections whose end is known: by a FIN or a reset, of this side or of that,
// or of both at the same time. Every one of them is told right. Guests make a few.
func TestTimewaitTellsWhoCloses(t *testing.T) {
	clientFirst, serverFirst, clientResets, serverResets := 3607, 3613, 1277, 1279
	if inGuest() {
		clientFirst, serverFirst, clientResets, serverResets = 167, 173, 29, 31
	}
	near, far := newPortScene(t, 10000, 65000), newPortScene(t, 10000, 65000)
	server := near.server(t, "127.0.0.1")
	w := watchPorts(t, near, far)

	client := near.party(t, "dial", "-workers", "4", "-to", server.addr(), "-plan",
		fmt.Sprintf("c=%d,s=%d,r=%d,R=%d", clientFirst, serverFirst, clientResets, serverResets))
	var pair, farServer *actor
	both := 0
	if !inGuest() { // these have no wire
		both = 227
		pair, farServer = closeTogether(t, near, far, both)
	}
	client.counts(t)
	near.await(t, 0, "not yet closed", func(r testenv.TCPRow) bool {
		return r.State != event.TimeWait && r.State != event.Listen
	})
	far.await(t, both, "in TIME_WAIT", func(r testenv.TCPRow) bool { return r.State == event.TimeWait })

	// No more come, but on a slow machine the 60 s of the first are up meanwhile.
	most := near.timeWaits(t) + far.timeWaits(t)
	v := portsSeen(t, w)
	checkCloser(t, v, client, clientFirst, clientResets, 0)
	checkCloser(t, v, server, serverFirst, serverResets, 0)
	closers := 2
	if both > 0 {
		checkCloser(t, v, pair, 0, 0, both)
		checkCloser(t, v, farServer, 0, 0, both)
		closers = 4
	}
	if len(v.Closers) != closers || len(v.Resets) != 2 {
		t.Errorf("others, too: %+v, %+v", v.Closers, v.Resets)
	}
	// Some are gone again: where the server closes first, the client's port is free for the next.
	if least := near.timeWaits(t) + far.timeWaits(t); v.TimeWait < least || v.TimeWait > most {
		t.Errorf("%d in TIME_WAIT, want %d to %d", v.TimeWait, least, most)
	}
	checkPlaces(t, v.closer(client.pid()), v.Loss.Missed, "connected", server.port)
	checkPlaces(t, v.closer(server.pid()), v.Loss.Missed, "accepted", server.port)
}

// closeTogether closes both ends of so many connections before either knows.
func closeTogether(t *testing.T, near, far portScene, both int) (pair, farServer *actor) {
	t.Helper()
	hold := relay(t, near.ns, far.ns)
	farServer = far.server(t, relayFar)
	pair = near.party(t, "dial", "-workers", "4", "-to", fmt.Sprint(relayFar, ":", farServer.port), "-plan", fmt.Sprint("b=", both))
	for _, a := range []*actor{pair, farServer} {
		a.said(t, fmt.Sprint("kept ", both))
	}
	// Nothing passes until both ends of all of them are closed.
	hold.Store(true)
	for _, a := range []*actor{pair, farServer} {
		if _, err := fmt.Fprintln(a.orders, "close"); err != nil {
			t.Fatal(err)
		}
		a.said(t, "done close")
	}
	near.await(t, both, "that sent a FIN", func(r testenv.TCPRow) bool { return r.State == event.FinWait1 && r.Rport == farServer.port })
	hold.Store(false)
	return pair, farServer
}

func checkCloser(t *testing.T, v *portsRecord, a *actor, first, resets, simultaneous int) {
	t.Helper()
	c := v.closer(a.pid())
	short := first - c.ClosedFirst + resets - v.resets(a.pid())
	if inGuest() && short > 0 && short <= int(v.Loss.Missed) {
		t.Logf("%v: %d missed, and said so", a.cmd.Args, short)
		return
	}
	if c.ClosedFirst != first || c.Simultaneous != simultaneous || v.resets(a.pid()) != resets {
		t.Errorf("%v: %d first, %d resets, %d simultaneous, want %d, %d, %d", a.cmd.Args,
			c.ClosedFirst, v.resets(a.pid()), c.Simultaneous, first, resets, simultaneous)
	}
}

// checkPlaces: the stacks name the function that closes, and not all were left out. Of a connection
// whose beginning the kernel kept from the programs the direction is unknown; those are counted.
func checkPlaces(t *testing.T, c closerRecord, missed uint64, kind string, port uint16) {
	t.Helper()
	named := 0
	for _, g := range c.Groups {
		if inGuest() && g.Direction == "" && g.N <= int(missed) {
			t.Logf("of %d %s connections the beginning was missed, and said so", g.N, kind)
			continue
		}
		if at := map[string]uint16{"in": g.Lport, "out": g.Rport}[g.Direction]; at != port {
			t.Errorf("%d %s connections of pid %d are %s on port %d, want %d", g.N, kind, c.Pid, g.Direction, at, port)
		}
		// In its first moments nobody knows the program yet.
		if g.Quality != "complete" {
			continue
		}
		if g.user() != "main.hangUp" {
			t.Errorf("%d closed at %s: %+v", g.N, g.user(), g.Frames)
		}
		named += g.N
	}
	if named < n {
		t.Errorf("pid %d: %d have a place: %+v", c.Pid, named, c.Groups)
	}
}

// The addresses of both ends of a relay.
const relayNear, relayFar = "10.199.0.1", "10.199.0.2"

// relay joins two namespaces by a wire that the test holds up as it likes.
func relay(t *testing.T, near, far *testenv.Netns) (hold *atomic.Bool) {
	t.Helper()
	hold = &atomic.Bool{}
	a, b := tun(t, near, relayNear, relayFar), tun(t, far, relayFar, relayNear)
	var copying sync.WaitGroup
	for _, way := range [][2]*os.File{{a, b}, {b, a}} {
		copying.Go(func() {
			packet := make([]byte, 64<<10)
			for {
				size, err := way[0].Read(packet)
				if err != nil {
					return
				}
				for hold.Load() {
					time.Sleep(time.Millisecond)
				}
				// EIO: the other end is going down.
				_, _ = way[1].Write(packet[:size])
			}
		})
	}
	t.Cleanup(func() {
		hold.Store(false)
		a.Close()
		b.Close()
		copying.Wait()
	})
	return hold
}

// tun makes one end of a wire: packets of the namespace are read from it.
func tun(t *testing.T, ns *testenv.Netns, local, peer string) *os.File {
	t.Helper()
	ip := tool(t, "ip")
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		testenv.Skip(t, "tun", err.Error())
	}
	var end *os.File
	err := ns.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq("wire0")
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return err
		}
		// Not before: it cannot be waited for until it is one end of something.
		end = os.NewFile(uintptr(fd), "tun")
		for _, args := range [][]string{{"addr", "add", local, "peer", peer, "dev", "wire0"}, {"link", "set", "wire0", "up"}} {
			if out, err := exec.Command(ip, args...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %v: %w: %s", args, err, out)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("make a wire: %v", err)
	}
	return end
}

// Before the ports run out timewait says whose they are, how many, and when: the forecast is
// within a fifth of the moment at which connect() fails.
func TestTimewaitForecast(t *testing.T) {
	outsideGuests(t)
	const tries = 3
	for range tries {
		unsteady := foretell(t)
		if unsteady == "" {
			return
		}
		// Nobody can foresee that.
		t.Logf("the client did not keep its pace: %s", unsteady)
	}
	t.Fatalf("this machine is too busy for a steady pace, %d times", tries)
}

// foretell compares what is told with what comes, or says how the client changed its pace.
func foretell(t *testing.T) (unsteady string) {
	t.Helper()
	const low, high, perSecond = 30000, 30498, 17.0 // gone after 29 s
	s := newPortScene(t, low, high)
	server := s.server(t, "127.0.0.1")
	w := watchPorts(t, s)
	client := s.party(t, "dial", "-to", server.addr(), "-plan", "c=5000", "-rate", fmt.Sprint(perSecond), "-full", "23")
	s.awaitMade(t, 151)
	early, earlyAt := s.timeWaits(t), time.Now()
	s.awaitMade(t, 307)
	v := portsSeen(t, w)
	silent := !strings.Contains(client.output.String(), "exhausted")
	nanos, err := strconv.ParseInt(client.said(t, "exhausted "), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	actual := time.Unix(0, nanos).Sub(v.Time)
	b := v.budget(t, server.port)
	before := float64(b.InUse-early) / v.Time.Sub(earlyAt).Seconds()
	after := float64(b.Range-b.InUse) / actual.Seconds()
	if !silent || math.Abs(after/before-1) > 0.1 {
		return fmt.Sprintf("%.1f a second until %d of %d were in use, then %.1f", before, b.InUse, b.Range, after)
	}
	if c := v.closer(client.pid()); c.ClosedFirst < 10 || c.PerS <= 0 {
		t.Errorf("closer %+v", c)
	}
	if b.Range != high-low+1 || b.InUse < 307 || b.InUse >= b.Range || b.ExhaustedInS == nil {
		t.Fatalf("budget %+v", b)
	}
	told := time.Duration(*b.ExhaustedInS) * time.Second
	t.Logf("%d of %d in use; told %v (%d to %v s), really %v", b.InUse, b.Range, told, *b.ExhaustedMinS, text(b.ExhaustedMaxS), actual)
	// It is told in whole seconds.
	if off := (told - actual).Abs(); off > actual/5 && off > time.Second {
		t.Errorf("the ports are told to be gone in %v, really %v", told, actual)
	}
	if len(v.Failures) != 0 {
		t.Errorf("failures before there are any: %+v", v.Failures)
	}
	return ""
}

func text(s *int64) string {
	if s == nil {
		return "never"
	}
	return fmt.Sprint(*s)
}

// timeWaits counts in the kernel's own table.
func (s portScene) timeWaits(t *testing.T) int {
	t.Helper()
	found := 0
	for _, r := range testenv.TCPTable(t, s.ns.Path) {
		if r.State == event.TimeWait {
			found++
		}
	}
	return found
}

// awaitMade waits until as many or more sockets are in TIME_WAIT.
func (s portScene) awaitMade(t *testing.T, atLeast int) {
	t.Helper()
	waitFor(t, func() string {
		if found := s.timeWaits(t); found < atLeast {
			return fmt.Sprintf("%d in TIME_WAIT, want %d", found, atLeast)
		}
		return ""
	})
}

// In both families: the failures that the program counted are those told, the budget is what
// the kernel's own table has, and refused connections are no failures for want of a port.
func TestTimewaitBudgetRunsDry(t *testing.T) {
	outsideGuests(t)
	for _, family := range []struct{ name, addr string }{{"ipv4", "127.0.0.1"}, {"ipv6", "[::1]"}} {
		t.Run(family.name, func(t *testing.T) {
			const low, high, some = 30000, 30306, 211
			s := newPortScene(t, low, high)
			s.sysctl(t, "ip_local_reserved_ports", "30003,30100-30108,40000")
			const ports = high - low + 1 - 10
			server := s.server(t, family.addr)
			addr := fmt.Sprint(family.addr, ":", server.port)
			w := watchPorts(t, s)
			refused := s.party(t, "dial", "-to", fmt.Sprint(family.addr, ":", s.port()), "-plan", "c=1")
			<-refused.ended
			if !strings.Contains(refused.output.String(), "refused") {
				t.Fatalf("not refused: %s", refused.output)
			}

			first := s.party(t, "dial", "-to", addr, "-plan", fmt.Sprint("c=", some))
			first.counts(t)
			s.awaitMade(t, some)
			b := s.present(t).budget(t, server.port)
			if b.InUse != some || b.Range != ports || b.TimeWait != some || b.Reusable != 0 || b.Unavailable != some {
				t.Errorf("%+v, want %d of %d", b, some, ports)
			}
			if want := float64(some) / ports; b.Ratio < want*0.99 || b.Ratio > want*1.01 {
				t.Errorf("ratio %v, want %v", b.Ratio, want)
			}

			second := s.party(t, "dial", "-to", addr, "-plan", "c=9999", "-full", fmt.Sprint(n))
			made, failed := second.counts(t)
			s.awaitMade(t, some+made)
			v := portsSeen(t, w)
			if b := v.budget(t, server.port); b.InUse != some+made || b.Unavailable != b.InUse {
				t.Errorf("%+v, want %d in use", b, some+made)
			}
			if b := v.budget(t, server.port); some+made == ports && (b.ExhaustedInS == nil || *b.ExhaustedInS != 0) {
				t.Errorf("not told to be exhausted: %+v", b)
			}
			if len(v.Failures) != 1 || v.Failures[0].Pid != second.pid() || v.Failures[0].N != failed || v.Failures[0].Rport != server.port ||
				v.Failures[0].Raddr != strings.Trim(family.addr, "[]") || failed < n {
				t.Errorf("failures %+v, want %d of pid %d", v.Failures, failed, second.pid())
			}
			if v.closer(first.pid()).ClosedFirst != some || v.closer(second.pid()).ClosedFirst != made || len(v.Closers) != 2 {
				t.Errorf("closers %+v", v.Closers)
			}
		})
	}
}

// An MPTCP connection closes once and fails once, not once more for its subflow.
func TestTimewaitMPTCP(t *testing.T) {
	outsideGuests(t)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	if err != nil {
		testenv.Skip(t, "mptcp", err.Error())
	}
	unix.Close(fd)
	s := newPortScene(t, 30000, 30198)
	server := s.party(t, "serve", "-mptcp", "-listen", fmt.Sprint("127.0.0.1:", s.port()))
	server.readPort(t)
	w := watchPorts(t, s)
	client := s.party(t, "dial", "-mptcp", "-to", server.addr(), "-plan", fmt.Sprintf("c=%d,s=%d", n, n+1))
	client.counts(t)
	server.drained(t, s)
	rest := s.party(t, "dial", "-mptcp", "-to", server.addr(), "-plan", "c=9999", "-full", fmt.Sprint(n))
	made, failed := rest.counts(t)
	server.drained(t, s)
	v := portsSeen(t, w)
	if len(v.Closers) != 3 || v.closer(client.pid()).ClosedFirst != n || v.closer(server.pid()).ClosedFirst != n+1 || v.closer(rest.pid()).ClosedFirst != made {
		t.Errorf("closers %+v, want %d, %d, %d", v.Closers, n, n+1, made)
	}
	if len(v.Failures) != 1 || v.Failures[0].Pid != rest.pid() || v.Failures[0].N != failed {
		t.Errorf("failures %+v, want %d", v.Failures, failed)
	}
}

// Who binds first takes a port from all destinations, and from everybody else; with
// IP_BIND_ADDRESS_NO_PORT it does not.
func TestTimewaitBindBeforeConnect(t *testing.T) {
	outsideGuests(t)
	// Of an odd number of ports a search can skip one.
	const low, high, bound = 30000, 30197, 101
	const ports = high - low + 1
	s := newPortScene(t, low, high)
	one, two := s.server(t, "127.0.0.1"), s.server(t, "127.0.0.1")
	late := s.party(t, "dial", "-to", one.addr(), "-bind", "127.0.0.1", "-late", "-plan", fmt.Sprint("c=", n))
	late.counts(t)
	s.awaitMade(t, n)
	v := s.present(t)
	if b := v.budget(t, one.port); b.InUse != n || b.ByBind != 0 || b.TakenElsewhere != 0 || len(v.Budgets) != 1 {
		t.Errorf("with IP_BIND_ADDRESS_NO_PORT: %+v", v.Budgets)
	}

	early := s.party(t, "dial", "-to", one.addr(), "-bind", "127.0.0.1", "-plan", fmt.Sprint("c=", bound))
	early.counts(t)
	s.awaitMade(t, n+bound)
	// The kernel agrees: to another destination only the ports are left that nobody has bound.
	plain := s.party(t, "dial", "-to", two.addr(), "-plan", "c=9999", "-full", fmt.Sprint(n))
	made, _ := plain.counts(t)
	s.awaitMade(t, n+bound+made)
	v = s.present(t)
	if b := v.budget(t, two.port); b.InUse != made || b.TakenElsewhere != bound || b.ByBind != 0 || b.Unavailable != made+bound || made != ports-bound {
		t.Errorf("%+v, want %d in use and %d taken elsewhere of %d", b, made, bound, ports)
	}
	if b := v.budget(t, one.port); b.InUse != n+bound || b.ByBind != bound || b.TakenElsewhere != 0 || b.Scope != "destination" {
		t.Errorf("%+v, want %d in use, %d by bind()", b, n+bound, bound)
	}
	every := v.budget(t, 0)
	if every.InUse != ports || every.ByBind != bound || every.Laddr != "127.0.0.1" || every.Raddr != "" || every.Unavailable != ports {
		t.Errorf("of the address: %+v, want all %d", every, ports)
	}
	// And so says bind(): there is no port left.
	none := s.party(t, "dial", "-to", one.addr(), "-bind", "127.0.0.1", "-plan", "c=1")
	<-none.ended
	if !strings.Contains(none.output.String(), "bind: address already in use") {
		t.Errorf("bind() found a port: %s", none.output)
	}
}

// Where tcp_tw_reuse applies, a TIME_WAIT of a second does not keep its port from anybody.
func TestTimewaitReuse(t *testing.T) {
	outsideGuests(t)
	const low, high = 30000, 30198
	for _, reuse := range []string{"1", "2"} {
		t.Run(reuse, func(t *testing.T) {
			s := newPortScene(t, low, high)
			s.sysctl(t, "tcp_tw_reuse", reuse)
			server := s.server(t, "127.0.0.1")
			w := watchPorts(t, s)
			s.party(t, "dial", "-to", server.addr(), "-plan", "c=151").counts(t)
			s.awaitMade(t, 151)
			waitFor(t, func() string {
				if b := s.present(t).budget(t, server.port); b.InUse != 151 || b.Reusable != b.InUse || b.Unavailable != 0 || b.ExhaustedInS != nil {
					return fmt.Sprintf("%+v, want all of 151 reusable", b)
				}
				return ""
			})
			// The kernel agrees.
			if made, failed := s.party(t, "dial", "-to", server.addr(), "-plan", "c=101").counts(t); made != 101 || failed != 0 {
				t.Errorf("%d connections made, %d failed", made, failed)
			}
			v := portsSeen(t, w)
			if len(v.Failures) != 0 || len(v.Namespaces) != 1 || v.Namespaces[0].Counters["tw_recycled"].Observed < 101-(high-low+1-151) {
				t.Errorf("failures %+v, namespaces %+v", v.Failures, v.Namespaces)
			}
		})
	}
}

// tcp_max_tw_buckets: what is over it is left out, and counted.
func TestTimewaitOverflow(t *testing.T) {
	outsideGuests(t)
	s := newPortScene(t, 30000, 40000)
	server := s.server(t, "127.0.0.1")
	s.sysctl(t, "tcp_max_tw_buckets", "101")
	w := watchPorts(t, s)
	made, _ := s.party(t, "dial", "-to", server.addr(), "-plan", "c=307").counts(t)
	server.drained(t, s)
	v := portsSeen(t, w)
	overflow := int(v.Namespaces[0].Counters["tw_overflow"].Observed)
	if v.TimeWait+overflow != made || v.TimeWait < 101 || v.TimeWait > 102 || v.closer(v.Closers[0].Pid).ClosedFirst != made {
		t.Errorf("%d in TIME_WAIT and %d left out of %d", v.TimeWait, overflow, made)
	}
}

// drained waits until nobody is connected any more.
func (a *actor) drained(t *testing.T, s portScene) {
	t.Helper()
	s.await(t, 0, "connected", func(r testenv.TCPRow) bool { return r.State != event.TimeWait && r.State != event.Listen })
}

// Processes that are gone when the watching ends have their names; those that ended with
// their connections open are told so.
func TestTimewaitNamesTheGone(t *testing.T) {
	s := newPortScene(t, 30000, 40000)
	server := s.server(t, "127.0.0.1")
	w := watchPorts(t, s)
	var pids []int
	for range n {
		c := s.party(t, "dial", "-to", server.addr(), "-plan", "c=1")
		c.counts(t)
		c.orders.Close()
		<-c.ended
		pids = append(pids, c.pid())
	}
	// Until the server has closed its end, too, these are in FIN_WAIT2.
	s.awaitMade(t, n)
	killed := s.party(t, "dial", "-to", server.addr(), "-plan", fmt.Sprint("b=", n))
	killed.said(t, fmt.Sprint("kept ", n))
	killed.stop()
	s.await(t, n, "in FIN_WAIT2", func(r testenv.TCPRow) bool { return r.State == event.FinWait2 })
	v := portsSeen(t, w)
	untold := 0
	for _, pid := range pids {
		c := v.closer(pid)
		if inGuest() && c.ClosedFirst == 0 {
			untold++
			continue
		}
		if c.Comm != "timewait" || !c.Gone || c.ClosedFirst != 1 || c.Exiting != 0 {
			t.Errorf("pid %d: %+v", pid, c)
		}
	}
	// As in checkCloser.
	if untold > int(v.Loss.Missed) {
		t.Errorf("%d are not told, %d missed", untold, v.Loss.Missed)
	}
	if c := v.closer(killed.pid()); c.ClosedFirst != n || c.Exiting != n || !c.Gone || len(v.Closers) != n+1-untold {
		t.Errorf("pid %d: %+v", killed.pid(), c)
	}
	if v.FinWait2 != n || v.budget(t, server.port).FinWait2 != n || v.FinWait2Held != 0 {
		t.Errorf("%d in FIN_WAIT2, %+v", v.FinWait2, v.Budgets)
	}
}

// The filters choose closers and failures by process, and with them the budgets.
func TestTimewaitFilters(t *testing.T) {
	outsideGuests(t)
	s := newPortScene(t, 30000, 40000)
	one, two := s.server(t, "127.0.0.1"), s.server(t, "127.0.0.1")
	w := startUntil(t, "fact=transitions", "timewait", "-o", "json", "--for", patience.String(), "--netns", inode(s.ns), "-D", fmt.Sprint(one.port), "--comm", "timewait")
	a, b := s.party(t, "dial", "-to", one.addr(), "-plan", fmt.Sprint("c=", n)), s.party(t, "dial", "-to", two.addr(), "-plan", fmt.Sprint("c=", n))
	a.counts(t)
	b.counts(t)
	s.awaitMade(t, 2*n)
	v := portsSeen(t, w)
	if v.TimeWait != n || len(v.Closers) != 1 || v.Closers[0].Pid != a.pid() || len(v.Budgets) != 1 || v.Budgets[0].Rport != one.port {
		t.Errorf("%d in TIME_WAIT, closers %+v, budgets %+v", v.TimeWait, v.Closers, v.Budgets)
	}
	if v := s.present(t, "-p", fmt.Sprint(os.Getpid())); len(v.Budgets) != 0 || v.TimeWait != 2*n {
		t.Errorf("budgets of a process without any: %+v", v.Budgets)
	}
}

// Where nothing is wrong it says so.
func TestTimewaitHealthy(t *testing.T) {
	outsideGuests(t)
	s := newPortScene(t, 32768, 60999)
	server := s.server(t, "127.0.0.1")
	w := watchPorts(t, s)
	s.party(t, "dial", "-to", server.addr(), "-plan", "c=23,s=23").counts(t)
	s.awaitMade(t, 46)
	server.drained(t, s) // the client's port is in use until its FIN is acknowledged
	v := portsSeen(t, w)
	// The budget of so few says nothing of its end, either.
	if len(v.Advice) == 0 || !strings.Contains(v.Advice[0], "othing is wrong") || strings.Contains(strings.Join(v.Advice, " "), "does not help") {
		t.Errorf("advice %q", v.Advice)
	}
	if len(v.Failures) != 0 || len(v.Budgets) != 1 || v.Budgets[0].InUse != n || v.Budgets[0].ExhaustedInS != nil {
		t.Errorf("failures %+v, budgets %+v", v.Failures, v.Budgets)
	}
	table := run(t, "timewait", "--for", "0", "--netns", inode(s.ns)).want(t, exitClean).stdout
	if !strings.Contains(table, "46 sockets in TIME_WAIT") || !strings.Contains(table, "othing is wrong") {
		t.Errorf("table: %s", table)
	}
}

// connect() of a socket that was bound fails where its port is in use to the same destination:
// each such failure is counted, and nothing else that ends a connect() of a bound socket.
func TestTimewaitCountsFailuresOfBoundSockets(t *testing.T) {
	for _, family := range []struct {
		name    string
		v6      bool
		nowhere unix.Sockaddr
	}{
		{"ipv4", false, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}, Port: 80}},
		{"ipv6", true, &unix.SockaddrInet6{Addr: [16]byte{0x20, 1, 0xd, 0xb8, 15: 1}, Port: 80}},
	} {
		t.Run(family.name, func(t *testing.T) {
			if family.v6 {
				requireIPv6(t)
			}
			ns := testNetns(t)
			z := newZoo(t, ns, family.v6)
			w := startUntil(t, "fact=transitions", "timewait", "-o", "json", "--for", patience.String(), "--netns", inode(ns))
			want := z.failBound(t)
			z.endOtherwise(t, family.nowhere)
			v := portsSeen(t, w)
			if len(v.Failures) != 1 || v.Failures[0].Pid != os.Getpid() || v.Failures[0].Rport != portOf(z.addr) ||
				v.Failures[0].N != want || v.Failures[0].Bound != want {
				t.Errorf("failures %+v, want %d", v.Failures, want)
			}
			if len(v.Advice) == 0 || !strings.Contains(v.Advice[0], "that bind() had chosen") {
				t.Errorf("advice %q", v.Advice)
			}
		})
	}
}

func portOf(a unix.Sockaddr) uint16 {
	if v6, ok := a.(*unix.SockaddrInet6); ok {
		return uint16(v6.Port)
	}
	return uint16(a.(*unix.SockaddrInet4).Port)
}

// bound is a socket with a local address that others may have, too.
func (z *zoo) bound(t *testing.T, at unix.Sockaddr) *end {
	t.Helper()
	e := newEnd(t, z.socket(t))
	if err := errors.Join(unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(e.fd, at)); err != nil {
		t.Fatal(err)
	}
	return e
}

// failBound counts the failures of sockets that are bound to the port of a connection.
func (z *zoo) failBound(t *testing.T) (failed int) {
	t.Helper()
	first := z.bound(t, z.loopback())
	at, err := unix.Getsockname(first.fd)
	if err := errors.Join(err, unix.Connect(first.fd, z.addr)); err != nil {
		t.Fatal(err)
	}
	for range n {
		e := z.bound(t, at)
		for range 2 {
			if err := unix.Connect(e.fd, z.addr); !errors.Is(err, unix.EADDRNOTAVAIL) {
				t.Fatalf("a port for two connections: %v", err)
			}
			failed++
		}
	}
	return failed
}

// endOtherwise: refused, without a route, given up by the program, without an answer.
func (z *zoo) endOtherwise(t *testing.T, nowhere unix.Sockaddr) {
	t.Helper()
	silent := z.fullListener(t)
	for range n {
		if err := unix.Connect(z.bound(t, z.loopback()).fd, z.nobody()); !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("not refused: %v", err)
		}
		if err := unix.Connect(z.bound(t, z.loopback()).fd, nowhere); err == nil {
			t.Fatal("connected to nowhere")
		}
		given := z.bound(t, z.loopback())
		if err := errors.Join(unix.SetNonblock(given.fd, true), ignore(unix.Connect(given.fd, silent), unix.EINPROGRESS)); err != nil {
			t.Fatal(err)
		}
		given.await(t, event.SynSent)
		given.close()
	}
	late := z.bound(t, z.loopback())
	if err := unix.SetsockoptInt(late.fd, unix.IPPROTO_TCP, unix.TCP_SYNCNT, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(late.fd, silent); !errors.Is(err, unix.ETIMEDOUT) {
		t.Fatalf("answered: %v", err)
	}
}

// nobody listens there.
func (z *zoo) nobody() unix.Sockaddr {
	if z.v6 {
		return &unix.SockaddrInet6{Addr: [16]byte{15: 1}, Port: 1}
	}
	return &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 1}
}
