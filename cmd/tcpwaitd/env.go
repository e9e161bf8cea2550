package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// backend answers the commands. The real one is the pipeline; tests give their own.
type backend interface {
	// List is one snapshot, joined with holders and owners and explained.
	List(ctx context.Context, q pipeline.ListQuery) (*pipeline.Listing, error)
	// Tail blocks until ctx ends, which is no error, or s returns one.
	Tail(ctx context.Context, q pipeline.Query, s pipeline.Stream) error
	// Diagnose watches for q.For and judges. A context that ends early is no error.
	Diagnose(ctx context.Context, q pipeline.DiagnoseQuery) (*pipeline.Diagnosed, error)
	// Explain tells all that is known of one process or socket.
	Explain(ctx context.Context, q pipeline.ExplainQuery) (*pipeline.Explained, error)
	// Exec lets a command run and judges its sockets.
	Exec(ctx context.Context, q pipeline.ExecQuery) (*pipeline.Executed, error)
	// Kill destroys sockets and gives each in turn to the sink. A context that ends early is no
	// error.
	Kill(ctx context.Context, q pipeline.KillQuery, sink pipeline.KillSink) (*pipeline.Killed, error)
	States(ctx context.Context, q pipeline.StatesQuery) (*pipeline.StateCounts, error)
	// Timewait watches for q.For and tells who closes first and how many ports are left. A
	// context that ends early is no error.
	Timewait(ctx context.Context, q pipeline.TimewaitQuery) (*record.Timewait, error)
	// Doctor works without privileges: what it may not see is a failed check.
	Doctor(ctx context.Context) (*record.Doctor, error)
	// Close detaches everything. It is called once.
	Close() error
}

// env is everything the commands take from outside, so that tests can replace it.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	// getenv overrides os.Getenv.
	getenv func(string) string
	now    func() time.Time
	// location is the zone of times in tables; records are always UTC.
	location *time.Location
	// isTerminal says whether stdout is one.
	isTerminal func() bool
	// netnsInode overrides stat() of namespace files; nil is the real thing.
	netnsInode func(path string) (uint32, error)
	// pidExists says whether there is such a process; nil does not ask.
	pidExists func(pid string) bool
	// signals returns a context that ends with the first SIGINT or SIGTERM. Another one
	// kills, unless it comes within signalGrace.
	signals func() (context.Context, context.CancelFunc)
	// open makes the backend. It attaches nothing yet and needs no privilege; the
	// backend's methods return *pipeline.CannotRunError where it cannot work.
	open func(ctx context.Context, c backendConfig) (backend, error)
}

// backendConfig is what all commands tell the backend.
type backendConfig struct {
	// Verbose asks for messages about what is done, on Messages.
	Verbose  bool
	Messages io.Writer
	// Now reads the wall clock.
	Now func() time.Time
	// SyscallAccept allows the hook on the exit of every system call.
	SyscallAccept bool
	// Stacks, Lines and Debuginfod: see pipeline.Config.
	Stacks     pipeline.StackMode
	Lines      bool
	Debuginfod []string
}

func newEnv() *env {
	// A closed pipe shall be an error of write(), not our death.
	signal.Ignore(syscall.SIGPIPE)
	return &env{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		getenv: os.Getenv, now: time.Now, location: time.Local,
		isTerminal: func() bool {
			_, err := unix.IoctlGetTermios(int(os.Stdout.Fd()), unix.TCGETS)
			return err == nil
		},
		pidExists: pidExists,
		signals:   interruptible,
		open:      openBackend,
	}
}

// signalGrace is how long further signals count as the same one: timeout(1) signals the
// process and then its group.
const signalGrace = time.Second

func interruptible() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() { time.AfterFunc(signalGrace, stop) })
	return ctx, func() {
		// After a signal the timer frees it: the second one may come while we leave.
		if ctx.Err() == nil {
			stop()
		}
	}
}

// pidExists asks /proc. Outside the host's pid namespace it cannot know.
func pidExists(pid string) bool {
	if host, err := owner.HostPidNS(); err != nil || !host {
		return true
	}
	_, err := os.Stat("/proc/" + pid)
	return !errors.Is(err, fs.ErrNotExist)
}
