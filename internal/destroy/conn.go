// Package destroy destroys TCP sockets in the kernel, as ss -K does: SOCK_DESTROY of
// socket diagnosis (sock_diag(7)). It is the one importer of the netlink library.
//
// The kernel ends the connection with a reset and puts the socket into CLOSE. Whoever has
// a descriptor of it keeps that until it calls close().
package destroy

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

var (
	// ErrGone says that there is no such socket, or none any more. It matches
	// fs.ErrNotExist.
	ErrGone = fmt.Errorf("no such socket: %w", fs.ErrNotExist)
	// ErrNoDestroy says that the kernel was built without the ability.
	ErrNoDestroy = errors.New("this kernel cannot destroy sockets (built without CONFIG_INET_DIAG_DESTROY)")
	// ErrNoDiag says that the kernel has no socket diagnosis for TCP, or may not load it.
	ErrNoDiag = errors.New("this kernel has no socket diagnosis for TCP (CONFIG_INET_DIAG, module tcp_diag)")
)

// Conn asks the kernel about the sockets of one network namespace. It is not safe for
// concurrent use.
type Conn struct {
	handle *nl.SocketHandle
	// bound are the sockets bound to a device, nil before anybody looked.
	bound map[event.Cookie]id
}

// Socket is one socket as the kernel found it.
type Socket struct {
	State event.State
	id    id
}

// Open connects with the network namespace of the calling thread; what follows may happen
// on any thread. It destroys nothing, but finds out whether the kernel can: ErrNoDiag,
// ErrNoDestroy. Whether we may is only known by Destroy.
func Open() (*Conn, error) {
	s, err := nl.Subscribe(unix.NETLINK_INET_DIAG)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, ErrNoDiag
	}
	if err != nil {
		return nil, fmt.Errorf("open socket diagnosis: %w", err)
	}
	c := &Conn{handle: &nl.SocketHandle{Socket: s}}
	if err := errors.Join(s.SetSendTimeout(&nl.SocketTimeoutTv), s.SetReceiveTimeout(&nl.SocketTimeoutTv)); err != nil {
		c.Close()
		return nil, fmt.Errorf("open socket diagnosis: %w", err)
	}
	if err := c.probe(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close frees the connection.
func (c *Conn) Close() { c.handle.Close() }

// probe lists no state, which only fails where there is no diagnosis, and then asks to
// destroy a socket that cannot be: without addresses, without ports.
func (c *Conn) probe() error {
	err := c.list(unix.AF_INET, 0, func(Socket) {})
	if errors.Is(err, unix.ENOENT) {
		return ErrNoDiag
	}
	if err != nil {
		return fmt.Errorf("list sockets: %w", err)
	}
	err = c.ask(nl.SOCK_DESTROY, unix.NLM_F_ACK, request{id: id{family: unix.AF_INET}}, nil)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return ErrNoDestroy
	case err == nil:
		return errors.New("try to destroy a socket: the kernel destroyed one that cannot be")
	default:
		return fmt.Errorf("try to destroy a socket: %w", err)
	}
}

// Find looks the socket up by its flow and makes sure by its cookie that it is the one.
// ErrGone: it has ended.
func (c *Conn) Find(cookie event.Cookie, flow event.Flow) (Socket, error) {
	s, err := c.get(idOf(cookie, flow))
	if !errors.Is(err, ErrGone) {
		return s, err
	}
	// One that is bound to a device is only found by that: SO_BINDTODEVICE, VRFs,
	// link-local addresses.
	if c.bound == nil {
		if err := c.listBound(); err != nil {
			return Socket{}, err
		}
	}
	bound, ok := c.bound[cookie]
	if !ok {
		return Socket{}, ErrGone
	}
	return c.get(bound)
}

func (c *Conn) listBound() error {
	c.bound = map[event.Cookie]id{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := c.list(family, connected, func(s Socket) {
			if s.id.device != 0 {
				c.bound[s.id.cookie] = s.id
			}
		})
		if err != nil {
			return fmt.Errorf("list sockets: %w", err)
		}
	}
	return nil
}

// Destroy destroys just this socket, in whatever state it is by now, and makes sure that
// it is gone. ErrGone: it had ended before. What matches fs.ErrPermission: CAP_NET_ADMIN is
// missing in the user namespace that the network namespace belongs to.
func (c *Conn) Destroy(s Socket) error {
	err := c.ask(nl.SOCK_DESTROY, unix.NLM_F_ACK, request{id: s.id}, nil)
	if errors.Is(err, unix.ENOENT) {
		return ErrGone
	}
	if err != nil {
		return fmt.Errorf("destroy socket: %w", err)
	}
	left, err := c.get(s.id)
	switch {
	case errors.Is(err, ErrGone):
		return nil
	case err != nil:
		return fmt.Errorf("see whether the socket is gone: %w", err)
	default:
		return fmt.Errorf("destroy socket: the kernel reports success, but it is still there in %s", left.State)
	}
}

func (c *Conn) get(which id) (found Socket, err error) {
	err = c.ask(nl.SOCK_DIAG_BY_FAMILY, 0, request{id: which}, func(s Socket) { found = s })
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESTALE):
		return Socket{}, ErrGone
	case err != nil:
		return Socket{}, fmt.Errorf("look up socket: %w", err)
	case found.id.cookie != which.cookie:
		// The kernel has compared it; nothing may be destroyed if it did not.
		return Socket{}, fmt.Errorf("look up socket: asked for cookie %d, got %d", which.cookie, found.id.cookie)
	default:
		return found, nil
	}
}

func (c *Conn) list(family uint8, states event.StateSet, each func(Socket)) error {
	return c.ask(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, request{id{family: family}, states}, each)
}

// ask sends one request and gives each socket in the answer to each.
func (c *Conn) ask(kind, flags int, r request, each func(Socket)) error {
	req := nl.NewNetlinkRequest(kind, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: c.handle}
	req.AddRawData(r.append(nil))
	var bad error
	err := req.ExecuteIter(unix.NETLINK_INET_DIAG, 0, func(message []byte) bool {
		s, err := parse(message)
		if err != nil {
			bad = err
			return false
		}
		if each != nil {
			each(s)
		}
		return true
	})
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return errors.Join(err, bad)
}
