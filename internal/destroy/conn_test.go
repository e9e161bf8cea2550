package destroy_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/destroy"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// patience bounds every wait for a fact.
const patience = 60 * time.Second

// end is one end of a connection on loopback.
type end struct {
	fd     int
	cookie event.Cookie
	flow   event.Flow
}

// pair is a connection whose client has shut down its side.
type pair struct{ server, client end }

// kinds are ways to make a connection that socket diagnosis looks up differently.
var kinds = map[string]struct {
	family int
	listen unix.Sockaddr
	addr   netip.Addr
	device string
}{
	"ipv4":            {unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, netip.MustParseAddr("127.0.0.1"), ""},
	"ipv6":            {unix.AF_INET6, &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}, netip.IPv6Loopback(), ""},
	"ipv4 on ipv6":    {unix.AF_INET6, &unix.SockaddrInet6{}, netip.MustParseAddr("127.0.0.1"), ""},
	"bound to device": {unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, netip.MustParseAddr("127.0.0.1"), "lo"},
}

// inNetns runs f in a namespace of its own and fails the test if f fails.
func inNetns(t *testing.T, f func() error) {
	t.Helper()
	if err := testenv.NewNetns(t).Do(f); err != nil {
		t.Fatal(err)
	}
}

func makePair(t *testing.T, kind string) (p pair, err error) {
	t.Helper()
	k := kinds[kind]
	listener, err := socket(t, k.family, k.device)
	if err != nil {
		return p, err
	}
	if err := errors.Join(unix.Bind(listener, k.listen), unix.Listen(listener, 1)); err != nil {
		return p, err
	}
	at, err := unix.Getsockname(listener)
	if err != nil {
		return p, err
	}
	client := unix.AF_INET
	if k.addr.Is6() {
		client = unix.AF_INET6
	}
	if p.client.fd, err = socket(t, client, k.device); err != nil {
		return p, err
	}
	if err := unix.Connect(p.client.fd, sockaddr(netip.AddrPortFrom(k.addr, addrPort(at).Port()))); err != nil {
		return p, err
	}
	if p.server.fd, _, err = unix.Accept(listener); err != nil {
		return p, err
	}
	t.Cleanup(func() { unix.Close(p.server.fd) })
	return p, errors.Join(p.server.identify(), p.client.identify(), unix.Shutdown(p.client.fd, unix.SHUT_WR), p.server.awaitCloseWait())
}

func socket(t *testing.T, family int, device string) (int, error) {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	t.Cleanup(func() { unix.Close(fd) })
	if device != "" {
		return fd, unix.BindToDevice(fd, device)
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	default:
		return netip.AddrPort{}
	}
}

// identify asks the socket itself who it is.
func (e *end) identify() error {
	cookie, err := unix.GetsockoptUint64(e.fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return err
	}
	local, err1 := unix.Getsockname(e.fd)
	remote, err2 := unix.Getpeername(e.fd)
	e.cookie = event.Cookie(cookie)
	e.flow = event.Flow{Local: addrPort(local), Remote: addrPort(remote), Protocol: event.TCP}
	return errors.Join(err1, err2)
}

func (e *end) state() (event.State, error) {
	info, err := unix.GetsockoptTCPInfo(e.fd, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, err
	}
	return event.State(info.State), nil
}

func (e *end) awaitCloseWait() error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if s, err := e.state(); err != nil || s == event.CloseWait {
			return err
		}
	}
	return errors.New("the socket does not enter CLOSE_WAIT")
}

func TestDestroysJustTheOne(t *testing.T) {
	testenv.RequireRoot(t)
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) { inNetns(t, func() error { return destroyOne(t, kind) }) })
	}
}

func destroyOne(t *testing.T, kind string) error {
	t.Helper()
	c, err := destroy.Open()
	if err != nil {
		return err
	}
	defer c.Close()
	victim, err := makePair(t, kind)
	if err != nil {
		return err
	}
	other, err := makePair(t, kind)
	if err != nil {
		return err
	}
	// A cookie that is not the socket's own: nobody.
	if s, err := c.Find(other.server.cookie, victim.server.flow); !errors.Is(err, destroy.ErrGone) && s.State != event.CloseWait {
		t.Errorf("another one's cookie: %+v, %v", s, err)
	}
	if _, err := c.Find(victim.server.cookie+1<<40, victim.server.flow); !errors.Is(err, destroy.ErrGone) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nobody's cookie: %v", err)
	}
	s, err := c.Find(victim.server.cookie, victim.server.flow)
	if err != nil || s.State != event.CloseWait {
		t.Fatalf("found %+v, %v", s, err)
	}
	if err := c.Destroy(s); err != nil {
		t.Fatal(err)
	}
	if err := c.Destroy(s); !errors.Is(err, destroy.ErrGone) {
		t.Errorf("a second time: %v", err)
	}
	if got, err := victim.server.state(); err != nil || got != event.Close {
		t.Errorf("the socket is in %v, %v", got, err)
	}
	if got, err := other.server.state(); err != nil || got != event.CloseWait {
		t.Errorf("the other socket is in %v, %v", got, err)
	}
	// The peer was told by a reset.
	if _, err := unix.Read(victim.client.fd, make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the peer reads %v", err)
	}
	return nil
}

// The state is what the kernel says now, not what somebody remembers.
func TestFindSeesTheState(t *testing.T) {
	testenv.RequireRoot(t)
	inNetns(t, func() error {
		c, err := destroy.Open()
		if err != nil {
			return err
		}
		defer c.Close()
		p, err := makePair(t, "ipv4")
		if err != nil {
			return err
		}
		for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			s, err := c.Find(p.client.cookie, p.client.flow)
			if err != nil || s.State == event.FinWait2 {
				return err
			}
			if s.State != event.FinWait1 || time.Now().After(deadline) {
				t.Fatalf("the peer is in %v", s.State)
			}
		}
	})
}

// helperEnv names a socket that the test binary shall destroy, as somebody else.
const helperEnv = "TCPWAITD_TEST_DESTROY"

func TestMain(m *testing.M) {
	if victim := os.Getenv(helperEnv); victim != "" {
		os.Exit(destroyNamed(victim))
	}
	os.Exit(m.Run())
}

// Exit codes of the helper.
const (
	helperFailed = 1
	helperDenied = 3
)

func destroyNamed(victim string) int {
	var (
		cookie        event.Cookie
		local, remote string
		flow          event.Flow
	)
	_, err := fmt.Sscan(victim, &cookie, &local, &remote)
	if err == nil {
		flow.Local, flow.Remote = netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote)
		var c *destroy.Conn
		if c, err = destroy.Open(); err == nil {
			defer c.Close()
			var s destroy.Socket
			if s, err = c.Find(cookie, flow); err == nil {
				err = c.Destroy(s)
			}
		}
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return helperDenied
	case err != nil:
		fmt.Println(err)
		return helperFailed
	default:
		return 0
	}
}

// Anybody may look, but not destroy.
func TestWithoutPrivilege(t *testing.T) {
	testenv.RequireRoot(t)
	const nobody = 65534
	inNetns(t, func() error {
		p, err := makePair(t, "ipv4")
		if err != nil {
			return err
		}
		for _, try := range []struct {
			uid   uint32
			code  int
			state event.State
		}{{nobody, helperDenied, event.CloseWait}, {0, 0, event.Close}} {
			if err := runHelper(t, &p.server, try.uid, try.code); err != nil {
				return err
			}
			if s, err := p.server.state(); err != nil || s != try.state {
				t.Errorf("uid %d: the socket is in %v, %v", try.uid, s, err)
			}
		}
		return nil
	})
}

func runHelper(t *testing.T, victim *end, uid uint32, want int) error {
	t.Helper()
	// Others cannot enter the directory go test builds in, but run what is open.
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{self}
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s %s", helperEnv, victim.cookie, victim.flow.Local, victim.flow.Remote))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		t.Errorf("uid %d: exit code %d, want %d: %s", uid, got, want, out)
	}
	return nil
}
