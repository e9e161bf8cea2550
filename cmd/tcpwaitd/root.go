package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
	"github.com/tcpwaitd/tcpwaitd/internal/report"
)

// commands is the table of all commands. Each has Short, Long and Example, needs no
// privilege for its help, and changes nothing on the host unless its name says so.
func commands() []func(*app) *cobra.Command {
	return []func(*app) *cobra.Command{
		tailCommand,
		listCommand,
		diagnoseCommand,
		explainCommand,
		execCommand,
		killCommand,
		statesCommand,
		timewaitCommand,
		doctorCommand,
		versionCommand,
	}
}

// app is one run: the outside, and the flags all commands have.
type app struct {
	*env
	output  string
	fields  []string
	sort    string
	noColor bool
	verbose bool
	// syscallAccept is a flag of the commands that watch, stacks are flags of the one that runs.
	syscallAccept bool
	stacks        stackFlags
}

func newRoot(e *env) *cobra.Command {
	a := &app{env: e}
	root := &cobra.Command{
		Use:   "tcpwaitd",
		Short: "Say which processes leave TCP sockets in CLOSE_WAIT, since when and why",
		Long: `tcpwaitd watches TCP state transitions in the kernel (eBPF) and says which processes
leave sockets in CLOSE_WAIT, since when, why, and where in the code.

Exit codes: 0 nothing found; 1 run-time error; 2 wrong usage; 3 a process is
leaking; 4 suspicious only; 5 cannot run here.`,
		Example: `  tcpwaitd diagnose            # who does not close, and what to do
  tcpwaitd list                # the sockets in CLOSE_WAIT now, the oldest first
  tcpwaitd explain 1234        # everything known of one process, or of one socket
  tcpwaitd tail --comm nginx   # every state change of nginx's sockets`,
		Args:              unknownCommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return noEmptyValues(cmd) },
		// Errors are told by exitCode.
		SilenceErrors: true, SilenceUsage: true,
		SuggestionsMinimumDistance: 2,
		Version:                    thisBuild().Version,
	}
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.SetFlagErrorFunc(flagError)
	a.globalFlags(root)
	for _, make := range commands() {
		root.AddCommand(make(a))
	}
	root.SetHelpCommand(helpCommand())
	completion(root)
	return root
}

// completion adds cobra's own command and makes it refuse a shell it does not know.
func completion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	cmd, _, err := root.Find([]string{"completion"})
	if err != nil {
		return
	}
	cmd.Example = "  source <(tcpwaitd completion bash)"
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("unknown shell %q: want one of %s", args[0], strings.Join(commandNames(cmd), ", "))
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

func (a *app) globalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVarP(&a.output, "output", "o", string(report.Table), "table, wide, json, jsonl or csv; list, diagnose and explain: pprof or folded")
	f.StringSliceVar(&a.fields, "fields", nil, "the columns, by the names of the record's fields (cookie,owner.pid)")
	f.StringVar(&a.sort, "sort", "", "the field to sort by, with a leading - from the largest")
	f.BoolVar(&a.noColor, "no-color", false, "no colours; so does NO_COLOR in the environment")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "say on stderr what is done; show whole stacks")
	completeOutput(root)
	completeFields(root)
}

// report turns the global flags into the options of a writer; also are formats that not
// every command has.
func (a *app) report(threshold time.Duration, also ...string) (report.Options, error) {
	format, err := report.ParseFormat(a.output, also...)
	if err != nil {
		return report.Options{}, err
	}
	if format == report.PProf && a.isTerminal() {
		return report.Options{}, usagef("a profile is no text: write it to a file (-o pprof > waits.pb.gz) and open that with go tool pprof")
	}
	return report.Options{
		Format: format, Fields: a.fields, Sort: a.sort, Color: a.color(), Verbose: a.verbose,
		Location: a.location, Threshold: threshold, Messages: a.stderr, Version: thisBuild().Version,
	}, nil
}

func (a *app) color() bool {
	return !a.noColor && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb" && a.isTerminal()
}

// withBackend opens the backend, runs f until it is done or a signal comes, and
// closes it.
func (a *app) withBackend(f func(ctx context.Context, b backend) error) (err error) {
	ctx, stop := a.signals()
	defer stop()
	b, err := a.open(ctx, backendConfig{
		Verbose: a.verbose, Messages: a.stderr, Now: a.now, SyscallAccept: a.syscallAccept,
		Stacks: pipeline.StackMode(a.stacks.mode), Lines: a.stacks.lines, Debuginfod: a.stacks.debuginfod,
	})
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := b.Close(); err == nil {
			err = closeErr
		}
	}()
	return f(ctx, b)
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Show the help of a command",
		Long:    "Show the help of a command, or of tcpwaitd itself.",
		Example: "  tcpwaitd help diagnose",
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := cmd.Root().Find(args)
			switch {
			case err != nil || len(rest) > 0 && target == cmd.Root():
				return unknownCommand(cmd.Root(), args)
			case len(rest) > 0:
				return usagef("unexpected argument %q: %s has no such command", rest[0], target.CommandPath())
			}
			target.InitDefaultHelpFlag()
			return target.Help()
		},
	}
}
