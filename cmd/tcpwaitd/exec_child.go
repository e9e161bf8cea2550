package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The exit codes of shells for commands that cannot be run or died of a signal.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128
)

// startError says why a command could not be run; its exit code is what a shell's would be.
type startError struct {
	name string
	err  error
}

func (e *startError) Error() string {
	switch {
	case errors.Is(e.err, exec.ErrNotFound):
		return fmt.Sprintf("%s: no such command in PATH; under sudo PATH is another one: sudo env \"PATH=$PATH\" tcpwaitd exec ...", e.name)
	case errors.Is(e.err, unix.ENOEXEC):
		return fmt.Sprintf("%s: %v: a script needs a first line such as #!/bin/sh", e.name, e.err)
	case errors.Is(e.err, fs.ErrPermission):
		return fmt.Sprintf("%s: %v: make it executable (chmod +x), and with --user readable for that user", e.name, e.err)
	default:
		return fmt.Sprintf("%s: %v", e.name, e.err)
	}
}

func (e *startError) Unwrap() error { return e.err }

func (e *startError) code() int {
	if errors.Is(e.err, exec.ErrNotFound) || errors.Is(e.err, fs.ErrNotExist) {
		return exitNotFound
	}
	return exitNotExecutable
}

// findProgram is what a shell does with the first word of a command.
func findProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		var wrapped *exec.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return "", &startError{name, err}
	}
	return path, nil
}

// child is a command that is started in two steps: first a process that waits at a gate,
// which is this program; let through it becomes the command. So its pid is known, and
// followed, before anything of the command runs.
type child struct {
	cmd *exec.Cmd
	// gate lets it through, fate tells why it could not become the command.
	gate, fate *os.File
	// done is closed when it has ended.
	done chan struct{}
}

// The gate and the fate are its descriptors after stdin, stdout and stderr.
const (
	gateFD = 3
	fateFD = 4
)

// hold starts the process that waits. path is the program, argv its arguments with the name.
func (a *app) hold(path string, argv []string, as *account) (*child, error) {
	gateOut, gateIn, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start command: %w", err)
	}
	fateOut, fateIn, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start command: %w", err), gateOut.Close(), gateIn.Close())
	}
	c := &child{gate: gateIn, fate: fateOut, done: make(chan struct{})}
	c.cmd = exec.Command("/proc/self/exe")
	c.cmd.Args = append([]string{os.Args[0], "exec", "--gate", "--", path}, argv...)
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = a.stdin, unchecked(a.stdout), unchecked(a.stderr)
	c.cmd.ExtraFiles = []*os.File{gateOut, fateIn}
	if as != nil {
		c.cmd.Env = as.environ(os.Environ())
		c.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &as.Credential}
	}
	err = c.cmd.Start()
	_, _ = gateOut.Close(), fateIn.Close()
	if err != nil {
		_, _ = gateIn.Close(), fateOut.Close()
		return nil, fmt.Errorf("start command: %w", err)
	}
	go func() {
		// What the command leaves behind may keep our pipes open: that is its own affair.
		_ = c.cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

// unchecked is the file itself, so that the command has it and not a pipe to us.
func unchecked(w io.Writer) io.Writer {
	if checked, ok := w.(*checkedWriter); ok {
		return checked.Writer
	}
	return w
}

// release lets the command run. The error is a *startError if it does not.
func (c *child) release() error {
	_, err := c.gate.Write([]byte{1})
	if err := errors.Join(err, c.gate.Close()); err != nil && !errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("start command: %w", err)
	}
	// Closed by exec(), or by a death of a signal meanwhile.
	raw, err := io.ReadAll(io.LimitReader(c.fate, 8))
	if err := errors.Join(err, c.fate.Close()); err != nil {
		return fmt.Errorf("start command: %w", err)
	}
	if len(raw) == 4 {
		return &startError{c.cmd.Args[5], syscall.Errno(binary.NativeEndian.Uint32(raw))}
	}
	return nil
}

// abandon ends a process that still waits at the gate.
func (c *child) abandon() {
	_, _ = c.gate.Close(), c.fate.Close()
	<-c.done
}

// code is the exit code of a command that has ended, as a shell tells it.
func (c *child) code() int {
	status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return exitSignal + int(status.Signal())
	}
	return c.cmd.ProcessState.ExitCode()
}

// becomeCommand waits at the gate and becomes the command: argv[0] is the program.
func becomeCommand(argv []string) error {
	if len(argv) < 2 {
		return usagef("--gate is for tcpwaitd itself")
	}
	var one [1]byte
	switch _, err := os.NewFile(gateFD, "gate").Read(one[:]); {
	case errors.Is(err, io.EOF):
		// Nothing is wrong: there is nothing to run.
		return findings(exitCannotRun)
	case err != nil:
		return usagef("--gate is for tcpwaitd itself: %v", err)
	}
	unix.CloseOnExec(gateFD)
	unix.CloseOnExec(fateFD)
	// Ignored signals stay ignored in the command, caught ones do not: this program ignores
	// SIGPIPE, the command shall not.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	err := unix.Exec(argv[0], argv[1:], os.Environ())
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		errno = syscall.ENOEXEC
	}
	_, _ = unix.Write(fateFD, binary.NativeEndian.AppendUint32(nil, uint32(errno)))
	return findings(exitNotExecutable)
}

// forwarded are the signals that are meant for the command.
func forwarded() []os.Signal {
	all := []os.Signal{
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGWINCH, syscall.SIGTSTP, syscall.SIGCONT,
	}
	return slices.DeleteFunc(all, signal.Ignored)
}

// forward passes signals on until stop is called.
func (c *child) forward() (stop func()) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded()...)
	tty := openTerminal()
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				c.pass(s, tty)
			case <-ended:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(ended)
		tty.Close()
	}
}

func (c *child) pass(s os.Signal, tty *os.File) {
	number, ok := s.(syscall.Signal)
	if !ok {
		return
	}
	if !fromTerminal(number, tty) {
		// It may have ended; then there is nobody to tell.
		_ = c.cmd.Process.Signal(number)
	}
	if number == syscall.SIGTSTP {
		// Who stops the command means us as well. SIGCONT goes on here, and is passed on.
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
	}
}

// openTerminal is the terminal that controls us, nil if there is none.
func openTerminal() *os.File {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	return tty
}

// fromTerminal: the keys of a terminal signal the whole foreground group, the command
// included; passed on it would come twice, and many programs take the second Ctrl-C for
// a reason to leave at once. Signals of the same kind sent by kill(1) cannot be told
// apart: in the foreground of a terminal they are not passed on.
func fromTerminal(s syscall.Signal, tty *os.File) bool {
	switch s {
	case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGWINCH:
	default:
		return false
	}
	if tty == nil {
		return false
	}
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// account is a user that the command runs as.
type account struct {
	syscall.Credential
	name, home string
}

// environ is the environment with what a login of the user would set.
func (u *account) environ(env []string) []string {
	set := map[string]string{"USER": u.name, "LOGNAME": u.name, "HOME": u.home}
	for name, value := range set {
		if value == "" {
			continue
		}
		env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		env = append(env, name+"="+value)
	}
	return env
}

// parseAccount reads NAME|UID[:GROUP|GID]. Without a group the user has the groups of the
// databases, with one that group alone; a number that is in none has its own number as group.
func parseAccount(text string) (*account, error) {
	if text == "" {
		return nil, nil
	}
	name, group, hasGroup := strings.Cut(text, ":")
	u, err := user.Lookup(name)
	id, isNumber := parseID(name)
	if err != nil && isNumber {
		u, err = user.LookupId(name)
	}
	a := &account{}
	switch {
	case err == nil:
		a.name, a.home = u.Username, u.HomeDir
		var ok1, ok2 bool
		a.Uid, ok1 = parseID(u.Uid)
		a.Gid, ok2 = parseID(u.Gid)
		if !ok1 || !ok2 {
			return nil, usagef("invalid value %q for --user: its entry in /etc/passwd has no number", text)
		}
	case isNumber:
		a.Uid, a.Gid = id, id
	default:
		return nil, usagef("invalid value %q for --user: no such user; want NAME or UID, and perhaps :GROUP", text)
	}
	if hasGroup {
		a.Gid, err = parseGroup(group)
		return a, err
	}
	if u == nil {
		return a, nil
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("groups of %s: %w", name, err)
	}
	for _, id := range ids {
		if gid, ok := parseID(id); ok {
			a.Groups = append(a.Groups, gid)
		}
	}
	return a, nil
}

func parseGroup(text string) (uint32, error) {
	if g, err := user.LookupGroup(text); err == nil {
		text = g.Gid
	}
	if gid, ok := parseID(text); ok {
		return gid, nil
	}
	return 0, usagef("invalid group %q for --user: no such group", text)
}

// parseID reads a number of a user or group; the largest means "none" to the kernel.
func parseID(text string) (uint32, bool) {
	id, err := strconv.ParseUint(text, 10, 32)
	return uint32(id), err == nil && uint32(id) != ^uint32(0)
}
