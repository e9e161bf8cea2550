package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Order is one command to a worker, Answer what became of it. The test has the same types.
type Order struct {
	Op string `json:"op"`
	// FD is the descriptor that the operation is about, N a number of bytes.
	FD int `json:"fd,omitempty"`
	N  int `json:"n,omitempty"`
	// Port to connect to on 127.0.0.1.
	Port int `json:"port,omitempty"`
	// FDs to pass to the mailbox at To, or to let a child inherit.
	FDs []int  `json:"fds,omitempty"`
	To  string `json:"to,omitempty"`
}

type Answer struct {
	Pid     int    `json:"pid,omitempty"`
	FD      int    `json:"fd"`
	Port    int    `json:"port,omitempty"`
	N       int    `json:"n"`
	FDs     []int  `json:"fds,omitempty"`
	Mailbox string `json:"mailbox,omitempty"`
	Error   string `json:"error,omitempty"`
}

// worker does what it is told over the unix socket DIR/orders, by plain system calls. Its
// first answer says its pid, its mailbox and the descriptors it was born with.
func worker(args []string) error {
	dir := args[0]
	inherited := 0
	if len(args) > 1 {
		var err error
		if inherited, err = strconv.Atoi(args[1]); err != nil {
			return err
		}
	}
	hello := Answer{Pid: os.Getpid(), Mailbox: filepath.Join(dir, fmt.Sprint(os.Getpid(), ".mail"))}
	for fd := 3; fd < 3+inherited; fd++ {
		unix.CloseOnExec(fd)
		hello.FDs = append(hello.FDs, fd)
	}
	mailbox, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(mailbox, &unix.SockaddrUnix{Name: hello.Mailbox}); err != nil {
		return err
	}
	hello.FD = mailbox
	c, err := net.Dial("unix", filepath.Join(dir, "orders"))
	if err != nil {
		return err
	}
	out := json.NewEncoder(c)
	if err := out.Encode(hello); err != nil {
		return err
	}
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		var o Order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		a := Answer{}
		if err := o.do(dir, mailbox, &a); err != nil {
			a.Error = fmt.Sprintf("%s: %v", o.Op, err)
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (o *Order) do(dir string, mailbox int, a *Answer) (err error) {
	switch o.Op {
	case "listen":
		return o.listen(a)
	case "accept":
		a.FD, err = again(func() (int, error) {
			fd, _, err := unix.Accept4(o.FD, unix.SOCK_CLOEXEC)
			return fd, err
		})
		return err
	case "connect":
		return o.connect(a)
	case "dup":
		a.FD, err = unix.FcntlInt(uintptr(o.FD), unix.F_DUPFD_CLOEXEC, 3)
		return err
	case "close":
		return unix.Close(o.FD)
	case "read":
		a.N, err = again(func() (int, error) { return unix.Read(o.FD, make([]byte, o.N)) })
		return err
	case "write":
		a.N, err = again(func() (int, error) { return unix.Write(o.FD, make([]byte, o.N)) })
		return err
	case "fork":
		return o.fork(dir, a)
	case "pass":
		return unix.Sendmsg(mailbox, []byte{1}, unix.UnixRights(o.FDs...), &unix.SockaddrUnix{Name: o.To}, unix.MSG_DONTWAIT)
	case "receive":
		return o.receive(a)
	default:
		return fmt.Errorf("unknown")
	}
}

// again repeats a call that a signal interrupted: Go preempts threads by signals.
func again(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func (o *Order) listen(a *Answer) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if err := unix.Listen(fd, 64); err != nil {
		return err
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	a.FD, a.Port = fd, at.(*unix.SockaddrInet4).Port
	return nil
}

func (o *Order) connect(a *Answer) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	// An interrupted connect() goes on in the kernel; asking again waits for it.
	to := &unix.SockaddrInet4{Port: o.Port, Addr: [4]byte{127, 0, 0, 1}}
	_, err = again(func() (int, error) { return 0, unix.Connect(fd, to) })
	if err != nil && !errors.Is(err, unix.EISCONN) {
		return err
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	a.FD, a.Port = fd, at.(*unix.SockaddrInet4).Port
	return nil
}

// fork starts a child with copies of the descriptors, from 3 on.
func (o *Order) fork(dir string, a *Answer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	files := []uintptr{0, 1, 2}
	for _, fd := range o.FDs {
		files = append(files, uintptr(fd))
	}
	argv := []string{self, "worker", dir, strconv.Itoa(len(o.FDs))}
	a.Pid, err = syscall.ForkExec(self, argv, &syscall.ProcAttr{Env: os.Environ(), Files: files})
	if err != nil {
		return err
	}
	go func() {
		var status syscall.WaitStatus
		for {
			if _, err := syscall.Wait4(a.Pid, &status, 0, nil); !errors.Is(err, syscall.EINTR) {
				return
			}
		}
	}()
	return nil
}

// receive takes one message out of the mailbox.
func (o *Order) receive(a *Answer) error {
	oob := make([]byte, unix.CmsgSpace(4*64))
	var n int
	_, err := again(func() (got int, err error) {
		got, n, _, _, err = unix.Recvmsg(o.FD, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		return got, err
	})
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return err
		}
		a.FDs = append(a.FDs, fds...)
	}
	return nil
}
