package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
	"github.com/tcpwaitd/tcpwaitd/internal/report"
)

// The exit codes of interface.md.
const (
	exitOK         = 0
	exitFailed     = 1
	exitUsage      = 2
	exitLeaking    = 3
	exitSuspicious = 4
	exitCannotRun  = 5
)

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// findings end a command with a code of their own; everything has been said by then.
type findings int

func (f findings) Error() string { return fmt.Sprintf("exit code %d", int(f)) }

// run is the whole program: it returns the exit code.
func run(e *env, args []string) int {
	outside := *e
	out := &checkedWriter{Writer: e.stdout}
	outside.stdout = out
	root := newRoot(&outside)
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	if err == nil {
		err = out.err
	}
	return exitCode(e, cmd, err)
}

// checkedWriter remembers the first error, for cobra drops those of its help.
type checkedWriter struct {
	io.Writer
	err error
}

func (w *checkedWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if w.err == nil {
		w.err = err
	}
	return n, err
}

// exitCode tells the user about the error, once and here only.
func exitCode(e *env, cmd *cobra.Command, err error) int {
	var (
		found  findings
		cannot *pipeline.CannotRunError
	)
	switch {
	case err == nil, errors.Is(err, syscall.EPIPE):
		// Who closed our output has seen enough.
		return exitOK
	case errors.As(err, &found):
		return int(found)
	case isUsage(err):
		fmt.Fprintf(e.stderr, "%s: %v\nTry '%[1]s --help'.\n", cmd.CommandPath(), err)
		return exitUsage
	case errors.As(err, &cannot):
		fmt.Fprintf(e.stderr, "%s: %v\n", cmd.CommandPath(), cannot)
		return exitCannotRun
	case errors.Is(err, context.Canceled):
		fmt.Fprintf(e.stderr, "%s: interrupted before there was anything to show\n", cmd.CommandPath())
		return exitFailed
	}
	fmt.Fprintf(e.stderr, "%s: %v\n", cmd.CommandPath(), err)
	return exitFailed
}

func isUsage(err error) bool {
	var (
		usage  *usageError
		flag   *filter.FlagError
		option *report.OptionError
	)
	return errors.As(err, &usage) || errors.As(err, &flag) || errors.As(err, &option)
}

// noArgs refuses arguments in words that help.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unexpected argument %q: %s takes none", args[0], cmd.CommandPath())
	}
	return nil
}

// unknownCommand is what the root does with arguments.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf(" (did you mean %s?)", strings.Join(near, " or "))
	}
	return usagef("unknown command %q%s: want one of %s", args[0], hint, strings.Join(commandNames(cmd), ", "))
}

func commandNames(root *cobra.Command) []string {
	var names []string
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() || c.Name() == "help" {
			names = append(names, c.Name())
		}
	}
	slices.Sort(names)
	return names
}

// flagError says what a flag takes, or which flags there are.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return &usageError{err}
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
	return usagef("%v: want one of %s", err, strings.Join(names, ", "))
}
