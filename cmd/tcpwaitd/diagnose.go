package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/report"
)

func diagnoseCommand(a *app) *cobra.Command {
	var (
		ff             filterFlags
		stacks         stackFlags
		watch, stuckAt time.Duration
	)
	cmd := &cobra.Command{
		Use:   "diagnose [PID...]",
		Short: "Name the processes that do not close their sockets, why, and what to do",
		Long: `Watch for a while, then name the processes that do not close their sockets: since
when, how fast it grows, why, where in the code, and what to do.

Sockets that wait for the same reason at the same place in the code are one group; the
place is the innermost function of the program's own. -v shows whole stacks, -o pprof
and -o folded make a profile of them.

A process is leaking when waits are stuck and keep coming, suspicious when they are
stuck but do not grow. Ctrl-C judges what was seen so far.

Exit codes: 0 clean, 3 leaking, 4 suspicious only, 5 cannot run here.`,
		Example: `  tcpwaitd diagnose
  tcpwaitd diagnose --for 1m --threshold 5m 1234
  tcpwaitd diagnose --for 1m -o pprof > waits.pb.gz
  tcpwaitd diagnose --for 0 -o json | jq '.processes[] | {pid, comm, verdict, stuck}'`,
		RunE: func(_ *cobra.Command, pids []string) error {
			ff.Pids = append(ff.Pids, pids...)
			a.stacks = stacks
			return a.diagnose(&ff, watch, stuckAt)
		},
	}
	ff.bind(cmd, "all")
	a.hookFlags(cmd)
	stacks.bind(cmd, pipeline.StacksOn)
	thresholdFlag(cmd, &stuckAt)
	cmd.Flags().DurationVar(&watch, "for", 10*time.Second, "how long to watch; 0 judges the present")
	return cmd
}

func (a *app) diagnose(ff *filterFlags, watch, threshold time.Duration) error {
	if err := errors.Join(notNegative("for", watch), notNegative("threshold", threshold), a.stacks.check()); err != nil {
		return err
	}
	o, err := a.report(threshold, report.ProfileFormats()...)
	if err != nil {
		return err
	}
	f, err := ff.parse(a, filter.Sockets)
	if err != nil {
		return err
	}
	o.Filtered = ff.narrow()
	write, err := diagnosisWriter(o)
	if err != nil {
		return err
	}
	return a.withBackend(func(ctx context.Context, b backend) error {
		q := pipeline.DiagnoseQuery{Query: query(f, threshold, true), For: watch}
		if a.isTerminal() || a.verbose {
			q.First = a.preview(watch)
		}
		d, err := b.Diagnose(ctx, q)
		if err != nil {
			return err
		}
		if err := f.Err(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			fmt.Fprintf(a.stderr, "interrupted: watched for %v of %v\n", d.Observed.Round(time.Millisecond), watch)
		}
		if err := write(a.stdout, d); err != nil {
			return err
		}
		return verdictCode(d.Verdict)
	})
}

// diagnosisWriter writes reports, records or profiles.
func diagnosisWriter(o report.Options) (func(io.Writer, *pipeline.Diagnosed) error, error) {
	if o.Format.Profile() {
		out, err := report.NewProfile(o)
		return func(w io.Writer, d *pipeline.Diagnosed) error { return out.Write(w, d.Waits(), &d.Facts, d.Observed) }, err
	}
	out, err := report.NewDiagnosis(o)
	return func(w io.Writer, d *pipeline.Diagnosed) error { return out.Write(w, diagnosisRecord(d)) }, err
}

// preview tells whoever waits what the present looks like.
func (a *app) preview(watch time.Duration) func(*pipeline.Diagnosed) {
	return func(d *pipeline.Diagnosed) {
		fmt.Fprintf(a.stderr, "at present %d sockets in CLOSE_WAIT\n", d.Sockets)
		for i := range d.Processes {
			if i == maxPreview {
				fmt.Fprintf(a.stderr, "  and %d processes more\n", len(d.Processes)-i)
				break
			}
			fmt.Fprintf(a.stderr, "  %s\n", previewLine(&d.Processes[i]))
		}
		fmt.Fprintf(a.stderr, "watching for %v to see what grows (Ctrl-C judges at once)\n", watch)
	}
}

// maxPreview processes are named at once; the rest comes with the judgement.
const maxPreview = 5

func previewLine(p *diagnosis.Process) string {
	who := "nobody known"
	if p.Task.Known() {
		who = fmt.Sprintf("pid %d %s", p.Task.Pid, record.Escape(p.Task.Comm.String()))
	}
	causes := make([]string, 0, len(p.Causes))
	for _, c := range slices.Sorted(maps.Keys(p.Causes)) {
		causes = append(causes, fmt.Sprintf("%d %s", p.Causes[c], c))
	}
	return fmt.Sprintf("%s: %s, oldest %s", who, strings.Join(causes, ", "), report.Age(p.Oldest, p.OldestBound))
}

func diagnosisRecord(d *pipeline.Diagnosed) *record.Diagnosis {
	r := record.FromDiagnosis(&d.Diagnosis, &d.Facts)
	r.UnreadNetns = record.UnreadOf(d.UnreadNetns)
	if d.SocketsTotal > 0 {
		r.SocketsTotal = &d.SocketsTotal
	}
	return &r
}

// verdictCode ends the program with the code of a verdict.
func verdictCode(v diagnosis.Verdict) error {
	switch v {
	case diagnosis.Leaking:
		return findings(exitLeaking)
	case diagnosis.Suspicious:
		return findings(exitSuspicious)
	default:
		return nil
	}
}
