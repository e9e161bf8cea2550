package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/report"
)

// execFlags are those of exec.
type execFlags struct {
	stacks           stackFlags
	threshold, grace time.Duration
	report, user     string
	// gate: this is the process that becomes the command.
	gate bool
}

func execCommand(a *app) *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec [flags] -- COMMAND [ARG...]",
		Short: "Run a command and judge only its sockets: a leak test for CI",
		Long: `Run a command, watch the sockets of its processes from the first connect() to the
end, and say which of them were never closed, and where in the code they were opened.

The command has our standard input, output and signals. The report goes to standard
error, or with --report to a file in the format that -o says. Sockets of other
processes are not judged.

A program that ends leaves closing to the kernel, and one socket left that way is no
leak. A process leaks if it left three or more (five, if an idle pool of connections
would look the same) although it went on to a new connection after each; see docs/ci.md.

The exit code is the command's own, 128+N if it died of signal N, 126 or 127 if it
cannot be run. If it was 0: 0 clean, 3 leaking, 4 suspicious only. 5: cannot run here.`,
		Example: `  sudo tcpwaitd exec -- ./integration-test
  sudo env "PATH=$PATH" tcpwaitd exec --user "$USER" -- go test ./...
  sudo tcpwaitd exec --report leaks.json -o json -- make check`,
		RunE: func(_ *cobra.Command, args []string) error {
			if f.gate {
				return becomeCommand(args)
			}
			return a.exec(&f, args)
		},
	}
	flags := cmd.Flags()
	// The flags after the command's name are the command's.
	flags.SetInterspersed(false)
	a.hookFlags(cmd)
	f.stacks.bind(cmd, pipeline.StacksOn)
	thresholdFlag(cmd, &f.threshold)
	flags.DurationVar(&f.grace, "grace", time.Second, "how long a program may take to close what it was told the end of")
	flags.StringVar(&f.report, "report", "", "write the report to this file instead of standard error")
	flags.StringVar(&f.user, "user", "", "run the command as this user (NAME or UID, optionally :GROUP), with its groups and HOME")
	flags.BoolVar(&f.gate, "gate", false, "")
	_ = flags.MarkHidden("gate")
	return cmd
}

func (a *app) exec(f *execFlags, argv []string) error {
	a.stacks = f.stacks
	if err := errors.Join(notNegative("threshold", f.threshold), notNegative("grace", f.grace), f.stacks.check()); err != nil {
		return err
	}
	if len(argv) == 0 {
		return usagef("no command: want one after --, such as tcpwaitd exec -- make check")
	}
	as, err := parseAccount(f.user)
	if err != nil {
		return err
	}
	write, err := a.execWriter(f)
	if err != nil {
		return err
	}
	path, err := findProgram(argv[0])
	if err != nil {
		return a.notStarted(err)
	}
	out, err := a.reportFile(f.report)
	if err != nil {
		return err
	}
	code, d, err := a.runAndJudge(f, path, argv, as)
	if d == nil {
		if closeErr := out.Close(); err == nil {
			err = closeErr
		}
		return a.ended(code, err)
	}
	err = write(out, &ran{d, argv, code, f.grace})
	if err := errors.Join(err, out.Close()); err != nil {
		return a.ended(code, fmt.Errorf("write report: %w", err))
	}
	if code != exitOK {
		return findings(code)
	}
	return verdictCode(d.Verdict)
}

// ended is how it ends where there is no report: the command's own code comes first, but a
// failure of ours is told.
func (a *app) ended(code int, err error) error {
	if err == nil || code == exitOK {
		if code != exitOK {
			return findings(code)
		}
		return err
	}
	fmt.Fprintf(a.stderr, "tcpwaitd exec: %v\n", err)
	return findings(code)
}

// notStarted tells why the command could not be run.
func (a *app) notStarted(err error) error {
	var start *startError
	if !errors.As(err, &start) {
		return err
	}
	fmt.Fprintf(a.stderr, "tcpwaitd exec: %v\n", start)
	return findings(start.code())
}

// runAndJudge returns the command's exit code and the judgement, which is nil if there is none.
func (a *app) runAndJudge(f *execFlags, path string, argv []string, as *account) (code int, d *pipeline.Executed, err error) {
	// Signals are the command's: no context ends by them.
	ctx := context.Background()
	b, err := a.open(ctx, backendConfig{
		Verbose: a.verbose, Messages: a.stderr, Now: a.now, SyscallAccept: a.syscallAccept,
		Stacks: pipeline.StackMode(a.stacks.mode), Lines: a.stacks.lines, Debuginfod: a.stacks.debuginfod,
	})
	if err != nil {
		return exitOK, nil, err
	}
	defer func() {
		if closeErr := b.Close(); err == nil {
			err = closeErr
		}
	}()
	c, err := a.hold(path, argv, as)
	if err != nil {
		return exitOK, nil, err
	}
	defer c.forward()()
	released := false
	d, err = b.Exec(ctx, pipeline.ExecQuery{
		Threshold: f.threshold, Grace: f.grace, Pid: uint32(c.cmd.Process.Pid), Done: c.done,
		Release: func() error { released = true; return c.release() },
	})
	if !released {
		c.abandon()
		return exitOK, nil, err
	}
	// Whatever became of the watching, the command runs to its end.
	<-c.done
	var start *startError
	if errors.As(err, &start) {
		return exitOK, nil, a.notStarted(err)
	}
	return c.code(), d, err
}

// reportFile is where the report goes: opened before the command runs, so that nothing was
// run in vain.
func (a *app) reportFile(name string) (io.WriteCloser, error) {
	if name == "" {
		return keepOpen{a.stderr}, nil
	}
	file, err := os.Create(name)
	if err != nil {
		return nil, usagef("cannot write the report: %v", err)
	}
	return file, nil
}

// keepOpen is not ours to close.
type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// ran is a command that has ended, and what is said of it.
type ran struct {
	*pipeline.Executed
	argv  []string
	code  int
	grace time.Duration
}

func (r *ran) record() *record.Exec {
	x := &record.Exec{
		Diagnosis: *diagnosisRecord(&r.Diagnosed), ExitCode: r.code,
		GraceNS: int64(r.grace), Unclosed: r.Unclosed, UnclosedLongestNS: int64(r.Longest), ClosedAtExit: r.Late,
		StillRunning: []record.Task{},
	}
	for _, arg := range r.argv {
		x.Command = append(x.Command, record.Escape(arg))
	}
	for i := range r.Alive {
		x.StillRunning = append(x.StillRunning, record.TaskOf(&r.Alive[i]))
	}
	return x
}

// execWriter writes reports, records or profiles.
func (a *app) execWriter(f *execFlags) (func(io.Writer, *ran) error, error) {
	o, err := a.report(f.threshold, report.ProfileFormats()...)
	if err != nil {
		return nil, err
	}
	o.Color = f.report == "" && !a.noColor && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb" && isTerminal(a.stderr)
	if o.Format.Profile() {
		if o.Format == report.PProf && f.report == "" {
			return nil, usagef("a profile is no text: write it to a file (--report waits.pb.gz) and open that with go tool pprof")
		}
		out, err := report.NewProfile(o)
		return func(w io.Writer, r *ran) error { return out.Write(w, r.Waits(), &r.Facts, r.Observed) }, err
	}
	out, err := report.NewExec(o)
	return func(w io.Writer, r *ran) error { return out.Write(w, r.record()) }, err
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}
