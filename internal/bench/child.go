package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/bench/floor"
)

// childArg is the first argument of this program when it started itself.
const childArg = "child"

// ready is what a child says when it can be measured, warm what it is told to be so by its load.
const (
	ready = "ready"
	warm  = "warm"
)

// child is one end of the pipes of a process that this program started to be load or floor.
type child struct {
	in  *bufio.Reader
	out io.Writer
	// n is how many sockets, connections or rounds; index tells children apart.
	n, index int
}

// children by name. Each works in the network namespace it was started in.
func children() map[string]func(*child) error {
	return map[string]func(*child) error{
		"home":          (*child).home,
		"churn":         (*child).churn,
		"hold":          (*child).hold,
		"receive":       (*child).receive,
		"fins":          (*child).fins,
		"request":       (*child).request,
		"floor-empty":   func(c *child) error { return c.floor(hold(floor.Empty)) },
		"floor-receive": func(c *child) error { return c.floor(hold(floor.Receive)) },
		"floor-keep":    func(c *child) error { return c.floor(hold(floor.Keep)) },
		"floor-record":  func(c *child) error { return c.floor(c.record) },
		"floor-walk":    (*child).walk,
	}
}

// runChild is main for children: NAME -n N -index I.
func runChild(args []string) error {
	if len(args) == 0 || children()[args[0]] == nil {
		return fmt.Errorf("no such child: %s", strings.Join(args, " "))
	}
	c := &child{in: bufio.NewReader(os.Stdin), out: os.Stdout}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.IntVar(&c.n, "n", 0, "how many")
	flags.IntVar(&c.index, "index", 0, "which of several")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if err := children()[args[0]](c); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

// say writes a line to the parent.
func (c *child) say(format string, values ...any) error {
	_, err := fmt.Fprintf(c.out, format+"\n", values...)
	return err
}

// wait returns with the next line of the parent, or when it closes the pipe or ends.
func (c *child) wait() error {
	_, err := c.read()
	return err
}

// read returns the next line of the parent, "" when it closed the pipe or ended.
func (c *child) read() (string, error) {
	line, err := c.in.ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return strings.TrimSuffix(line, "\n"), err
}

// home keeps a network namespace.
func (c *child) home() error {
	if err := loopbackUp(); err != nil {
		return err
	}
	if err := c.say(ready); err != nil {
		return err
	}
	return c.wait()
}

// floor runs until SIGINT, as the tools do.
func (c *child) floor(run func(ctx context.Context, ready func()) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return run(ctx, func() { fmt.Fprintln(os.Stderr, ready) })
}

func hold(p floor.Program) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error { return floor.Hold(ctx, p, ready) }
}

func (c *child) record(ctx context.Context, ready func()) error {
	lost, err := floor.Record(ctx, c.out, ready)
	if lost > 0 {
		fmt.Fprintln(os.Stderr, "lost", lost)
	}
	return err
}

// walk says how many sockets and holders there are, and how many ns the passes took.
func (c *child) walk() error {
	w, err := floor.Walk()
	if err != nil {
		return err
	}
	return c.say("%d %d %d", w.Sockets, w.Holders, w.Passes.Nanoseconds())
}

// loopbackUp sets IFF_UP on lo.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("name interface: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return fmt.Errorf("read flags of lo: %w", err)
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
