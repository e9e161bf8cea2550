package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv/facts"
)

// request is one order of the leader to a process it started, reply its answer.
type request struct {
	Op   string         `json:"op"`
	Addr netip.AddrPort `json:"addr"`
	N    int            `json:"n"`
	How  int            `json:"how"`
}

type reply struct {
	Err   string         `json:"err,omitempty"`
	Port  uint16         `json:"port,omitempty"`
	Marks []facts.Socket `json:"marks,omitempty"`
}

// helper is another process: the peer, or one that is handed the sockets.
type helper struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	in    *json.Encoder
	out   *json.Decoder
}

// startHelper runs this program again, under its own name so that it can be told apart.
// The files become descriptors 3, 4, ... there.
func startHelper(name string, speaks protocol, files []*os.File) (*helper, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	cmd := exec.Command(self, "-role", name, fmt.Sprintf("-mptcp=%v", speaks.mptcp), fmt.Sprintf("-ktls=%v", speaks.ktls))
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, files
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &helper{cmd, stdin, json.NewEncoder(stdin), json.NewDecoder(stdout)}, nil
}

func (h *helper) pid() int { return h.cmd.Process.Pid }

func (h *helper) do(r request) (reply, error) {
	var answer reply
	if err := h.in.Encode(r); err != nil {
		return answer, fmt.Errorf("order %s: %w", r.Op, err)
	}
	if err := h.out.Decode(&answer); err != nil {
		return answer, fmt.Errorf("order %s: read answer: %w", r.Op, err)
	}
	if answer.Err != "" {
		return answer, fmt.Errorf("order %s: %s", r.Op, answer.Err)
	}
	return answer, nil
}

// stop ends the process by closing its input and waits for it.
func (h *helper) stop() error {
	return errors.Join(h.stdin.Close(), h.cmd.Wait())
}

// serve obeys orders until the input ends, which is also how a killed leader takes its
// helpers with it.
func serve(name string, speaks protocol, in io.Reader, out io.Writer) error {
	if err := os.WriteFile("/proc/self/comm", []byte("leaker-"+name), 0); err != nil {
		return fmt.Errorf("set own name: %w", err)
	}
	e := &endpoint{protocol: speaks}
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var r request
		if err := orders.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read order: %w", err)
		}
		answer, err := obey(e, r)
		if err != nil {
			answer.Err = err.Error()
		}
		if err := answers.Encode(answer); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

func obey(e *endpoint, r request) (a reply, err error) {
	switch r.Op {
	case "connect":
		err = e.connect(r.Addr, r.N)
	case "listen":
		a.Port, err = e.listen(r.Addr, r.N)
	case "accept":
		err = e.accept(r.N)
	case "send":
		err = e.send(r.N, false)
	case "send_more":
		err = e.send(r.N, true)
	case "shutdown":
		a.Marks, err = e.shutdown(r.How)
	case "close":
		a.Marks, err = e.close()
	case "drain":
		go (&endpoint{socks: e.socks}).drain()
	case "churn":
		err = e.churn(r.Addr, r.N)
	case "inherit":
		for i := range r.N {
			e.socks = append(e.socks, firstExtra+i)
		}
	case "receive":
		err = e.receive(firstExtra, r.N)
	case "verify":
		a.Marks, err = e.verify(stateCloseWait, r.N)
	default:
		err = fmt.Errorf("unknown order %q", r.Op)
	}
	return a, err
}

// firstExtra is where os/exec puts the first extra file.
const firstExtra = 3

// maxPassed is the kernel's SCM_MAX_FD.
const maxPassed = 253

// pass sends the sockets over a unix socket; this process keeps its own copies.
func (e *endpoint) pass(over int) error {
	for rest := e.socks; len(rest) > 0; {
		n := min(len(rest), maxPassed)
		if err := unix.Sendmsg(over, []byte{0}, unix.UnixRights(rest[:n]...), nil, 0); err != nil {
			return fmt.Errorf("pass descriptors: %w", err)
		}
		rest = rest[n:]
	}
	return nil
}

func (e *endpoint) receive(over, n int) error {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4*maxPassed))
	for len(e.socks) < n {
		_, oobn, _, _, err := unix.Recvmsg(over, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive descriptors: %w", err)
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(msgs) != 1 {
			return fmt.Errorf("receive descriptors: %d messages: %w", len(msgs), err)
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil {
			return fmt.Errorf("receive descriptors: %w", err)
		}
		e.socks = append(e.socks, fds...)
	}
	return nil
}

// churn makes n short connections, one after the other, and closes first.
func (e *endpoint) churn(to netip.AddrPort, n int) error {
	for range n {
		if err := e.connect(to, 1); err != nil {
			return err
		}
		if err := e.send(1, false); err != nil {
			return err
		}
		if _, err := e.close(); err != nil {
			return err
		}
	}
	return nil
}
