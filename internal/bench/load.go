package main

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// The load is made by plain blocking system calls, both ends in one thread: on loopback the
// kernel does all of a step before the call returns, so nobody ever waits.

const (
	// serverPort is where the load listens, by which its transitions are known in the output
	// of any tool.
	serverPort = 20023
	// perConnection transitions are made by a short connection, both ends together.
	perConnection = 10
	// perWorker transitions are made by the listener of a worker.
	perWorker = 2
	// warmUp connections are made by each worker before time is taken, where it is to be: a tool
	// that takes stacks learns once how a program's are unwound.
	warmUp = 211
	// maxHeld sockets are held by a process, which may have 20,000 descriptors.
	maxHeld = 19_000
	// firstHeldPort is the first of so many at the peer's end.
	firstHeldPort = 30_000
	// destinations share the local ports: each address has as many as there are.
	destinations = 16
)

// listen makes the listener on all addresses of the namespace.
func listen(port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
		return -1, fmt.Errorf("bind to port %d: %w", port, err)
	}
	if err := unix.Listen(fd, 128); err != nil {
		return -1, fmt.Errorf("listen: %w", err)
	}
	return fd, nil
}

// pair makes a connection to the listener from an address and port, or from any where it is nil.
func pair(listener int, from, to *unix.SockaddrInet4) (client, server int, err error) {
	if client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, -1, fmt.Errorf("make socket: %w", err)
	}
	if from != nil {
		if err := unix.Bind(client, from); err != nil {
			return -1, -1, fmt.Errorf("bind to %v: %w", from, err)
		}
	}
	if err := unix.Connect(client, to); err != nil {
		return -1, -1, fmt.Errorf("connect to %v: %w", to.Addr, err)
	}
	if server, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC); err != nil {
		return -1, -1, fmt.Errorf("accept: %w", err)
	}
	return client, server, nil
}

// churn makes n short connections when it is told to.
func (c *child) churn() error {
	runtime.LockOSThread()
	if err := loopbackUp(); err != nil {
		return err
	}
	listener, err := listen(serverPort)
	if err != nil {
		return err
	}
	if err := c.say(ready); err != nil {
		return err
	}
	var to [destinations]unix.SockaddrInet4
	for i := range to {
		to[i] = unix.SockaddrInet4{Port: serverPort, Addr: [4]byte{127, 0, 0, byte(i + 1)}}
	}
	buffer := make([]byte, 64)
	connect := func(n int) error {
		for i := range n {
			if err := short(listener, &to[i%destinations], buffer); err != nil {
				return err
			}
		}
		return nil
	}
	told, err := c.read()
	for ; err == nil && told == warm; told, err = c.read() {
		if err := connect(warmUp); err != nil {
			return err
		}
		if err := c.say(ready); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	started := time.Now()
	if err := connect(c.n); err != nil {
		return err
	}
	took := time.Since(started)
	_ = unix.Close(listener)
	return c.say("%d", took.Nanoseconds())
}

// short is one connection: a request, the client's end, the server's.
func short(listener int, to *unix.SockaddrInet4, buffer []byte) error {
	client, server, err := pair(listener, nil, to)
	if err != nil {
		return err
	}
	if _, err := unix.Write(client, buffer); err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	if _, err := unix.Read(server, buffer); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	if err := unix.Close(client); err != nil {
		return fmt.Errorf("close client: %w", err)
	}
	if n, err := unix.Read(server, buffer); n != 0 || err != nil {
		return fmt.Errorf("read end: %d bytes: %w", n, err)
	}
	if err := unix.Close(server); err != nil {
		return fmt.Errorf("close server: %w", err)
	}
	return nil
}

// hold makes n sockets in CLOSE_WAIT and keeps them; every second one was told of the end.
func (c *child) hold() error {
	runtime.LockOSThread()
	if c.n > maxHeld {
		return fmt.Errorf("hold %d sockets: %d at most", c.n, maxHeld)
	}
	limit := unix.Rlimit{Cur: maxHeld + 1000, Max: maxHeld + 1000}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit descriptors: %w", err)
	}
	listener, err := listen(serverPort + 1 + c.index)
	if err != nil {
		return err
	}
	// An address of its own for each holder: the ports of one do not go further. The kernel would
	// choose a port again, for its peer is gone, and reset the socket which is still there.
	from := &unix.SockaddrInet4{Addr: [4]byte{127, 1, byte(c.index >> 8), byte(c.index)}}
	to := &unix.SockaddrInet4{Port: serverPort + 1 + c.index, Addr: [4]byte{127, 0, 0, 1}}
	held, ended := make([]int, 0, c.n), make([]int, 0, vanishing)
	for i := range c.n {
		from.Port = firstHeldPort + i
		client, server, err := pair(listener, from, to)
		if err != nil {
			return err
		}
		if err := unix.Shutdown(client, unix.SHUT_WR); err != nil {
			return fmt.Errorf("shut down: %w", err)
		}
		if ended = append(ended, client); len(ended) == vanishing || i == c.n-1 {
			if err := vanish(ended); err != nil {
				return err
			}
			ended = ended[:0]
		}
		if i%2 == 0 {
			if n, err := unix.Read(server, make([]byte, 1)); n != 0 || err != nil {
				return fmt.Errorf("read end: %d bytes: %w", n, err)
			}
		}
		held = append(held, server)
	}
	if err := inCloseWait(held); err != nil {
		return err
	}
	if err := c.say(ready); err != nil {
		return err
	}
	return c.wait()
}

// vanishing sides vanish together: the ACK of a FIN may be delayed by 40 ms.
const vanishing = 256

// vanish takes sockets that have sent their FIN away without a word. After close() the kernel
// does so only after a time, and resets some of the other sides then: those whose ACK came while
// close() was not through.
func vanish(fds []int) error {
	for _, fd := range fds {
		if err := waitState(fd, finWait2); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
			return fmt.Errorf("silence client: %w", err)
		}
		if err := unix.Close(fd); err != nil {
			return fmt.Errorf("close client: %w", err)
		}
	}
	return nil
}

// States as TCP_INFO has them.
const (
	finWait2  = 5
	closeWait = 8
)

// inCloseWait fails unless all are.
func inCloseWait(fds []int) error {
	for _, fd := range fds {
		if err := waitState(fd, closeWait); err != nil {
			return err
		}
	}
	return nil
}

// waitState fails unless a socket enters a state within some seconds.
func waitState(fd int, state uint8) error {
	for deadline := time.Now().Add(5 * time.Second); ; {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return fmt.Errorf("ask for state: %w", err)
		}
		if info.State == state {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("a socket is in state %d, want %d", info.State, state)
		}
		time.Sleep(time.Millisecond)
	}
}

// receive sends and reads n times on one connection when it is told to.
func (c *child) receive() error {
	runtime.LockOSThread()
	if err := loopbackUp(); err != nil {
		return err
	}
	listener, err := listen(serverPort)
	if err != nil {
		return err
	}
	if err := c.say(ready); err != nil {
		return err
	}
	if err := c.wait(); err != nil {
		return err
	}
	client, server, err := pair(listener, nil, &unix.SockaddrInet4{Port: serverPort, Addr: [4]byte{127, 0, 0, 1}})
	if err != nil {
		return err
	}
	buffer := make([]byte, 64)
	started := time.Now()
	for range c.n {
		if _, err := unix.Write(client, buffer); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if n, err := unix.Read(server, buffer); n != len(buffer) || err != nil {
			return fmt.Errorf("read: %d bytes: %w", n, err)
		}
	}
	return c.say("%d", time.Since(started).Nanoseconds())
}

// fins ends one side of n connections at odd times, and says for each the port of that side and
// the moment before it (CLOCK_MONOTONIC, ns).
func (c *child) fins() error {
	runtime.LockOSThread()
	if err := loopbackUp(); err != nil {
		return err
	}
	listener, err := listen(serverPort)
	if err != nil {
		return err
	}
	if err := c.say(ready); err != nil {
		return err
	}
	if err := c.wait(); err != nil {
		return err
	}
	for range c.n {
		if err := c.fin(listener); err != nil {
			return err
		}
	}
	return c.say("end")
}

func (c *child) fin(listener int) error {
	client, server, err := pair(listener, nil, &unix.SockaddrInet4{Port: serverPort, Addr: [4]byte{127, 0, 0, 1}})
	if err != nil {
		return err
	}
	defer func() {
		_ = unix.Close(client)
		_ = unix.Close(server)
	}()
	name, err := unix.Getsockname(client)
	if err != nil {
		return fmt.Errorf("ask for port: %w", err)
	}
	time.Sleep(7*time.Millisecond + time.Duration(rand.Int64N(int64(48*time.Millisecond))))
	at := monotonic()
	if err := unix.Shutdown(client, unix.SHUT_WR); err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	return c.say("%d %d", name.(*unix.SockaddrInet4).Port, at)
}

// monotonic is the clock that all processes share, ns.
func monotonic() int64 {
	var ts unix.Timespec
	// It cannot fail: the clock is there and the address is ours.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}
