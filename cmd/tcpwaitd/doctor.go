package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tcpwaitd/tcpwaitd/internal/report"
)

func doctorCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say whether tcpwaitd can run here, and how",
		Long: `Say whether tcpwaitd can run here: kernel, BTF, capabilities and lockdown, which kernel
hooks were chosen and why, and which settings are often blamed without reason.

Exit codes: 0 it can run, 5 it cannot; then the failed check names its cure.`,
		Example: `  tcpwaitd doctor
  tcpwaitd doctor -o json | jq '.checks[] | select(.ok | not)'`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return a.doctor() },
	}
	a.hookFlags(cmd)
	return cmd
}

func (a *app) doctor() error {
	o, err := a.report(0)
	if err != nil {
		return err
	}
	out, err := report.NewDoctor(o)
	if err != nil {
		return err
	}
	return a.withBackend(func(ctx context.Context, b backend) error {
		r, err := b.Doctor(ctx)
		if err != nil {
			return err
		}
		if err := out.Write(a.stdout, r); err != nil {
			return err
		}
		if r.OK {
			return nil
		}
		for _, c := range r.Checks {
			if !c.OK {
				fmt.Fprintf(a.stderr, "cause: %s: %s; cure: %s\n", c.Name, c.Detail, c.Cure)
				break
			}
		}
		return findings(exitCannotRun)
	})
}
