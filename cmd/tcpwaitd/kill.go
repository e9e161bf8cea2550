package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/report"
)

// killStates is the default of --state.
const killStates = "close-wait"

// defaultKillLimit is more than a person can have looked at one by one.
const defaultKillLimit = 1000

// killFlags are the flags of kill.
type killFlags struct {
	filterFlags
	cookies                  []string
	yes, anyState, halfClose bool
	limit                    int
	stuckAt                  time.Duration
	// stateChosen: --state was given.
	stateChosen bool
}

func killCommand(a *app) *cobra.Command {
	var kf killFlags
	cmd := &cobra.Command{
		Use:   "kill",
		Short: "Destroy chosen CLOSE_WAIT sockets in the kernel; a dry run unless --yes",
		Long: `Destroy chosen sockets in CLOSE_WAIT in the kernel (SOCK_DESTROY, as ss -K), in any
network namespace.

It frees no descriptor: the process keeps that until it calls close() or ends, so this is
no cure for "too many open files", and the evidence goes with the sockets. It frees ports
and addresses, what waits to be sent, and the peer in FIN_WAIT2.

Without --yes nothing is done: what would be destroyed is shown, with what that cures and
what not. With --yes there is one audit line for each socket, written as it is done; -o
json writes one record a line. Right before its end each socket is looked up again by its
cookie; one that has ended or moved on is skipped.

The sockets must be chosen: by process, port, address, place, --where or --cookie. Sockets
in other states than CLOSE_WAIT are refused without --any-state, and those on which the
program still sends (half_close) without --half-close. Listening, closed, TIME_WAIT and
MPTCP sockets are always refused.

Exit codes: 0 done, 1 some failed (the reasons are in the lines), 5 cannot run here.`,
		Example: `  tcpwaitd kill -p 1234 --min-dwell 1h
  tcpwaitd kill -p 1234 --min-dwell 1h --yes -o json | tee -a killed.json
  tcpwaitd kill --cookie 5678,5679 --yes
  tcpwaitd kill -L 8080 --raddr 10.0.0.0/8 --where 'cause == "eof_ignored"'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kf.stateChosen = cmd.Flags().Changed("state")
			return a.kill(&kf)
		},
	}
	kf.bind(cmd, killStates)
	thresholdFlag(cmd, &kf.stuckAt)
	f := cmd.Flags()
	f.StringSliceVar(&kf.cookies, "cookie", nil, "these sockets only, by the cookies that list -o wide shows")
	f.BoolVar(&kf.yes, "yes", false, "do it")
	f.BoolVar(&kf.anyState, "any-state", false, "allow connections that are not in CLOSE_WAIT: live ones are cut")
	f.BoolVar(&kf.halfClose, "half-close", false, "allow sockets on which the program still sends")
	f.IntVar(&kf.limit, "limit", defaultKillLimit, "if more sockets than this would be destroyed, destroy none")
	return cmd
}

// chooses reports whether the flags say which sockets. Family, direction, state and age
// only say of what kind, and most sockets of a host can be of that kind.
func (kf *killFlags) chooses() bool {
	for _, list := range [][]string{
		kf.Pids, kf.Comms, kf.Lports, kf.Rports, kf.Laddrs, kf.Raddrs, kf.Netns, kf.Containers, kf.Cgroups, kf.cookies,
	} {
		if len(list) > 0 {
			return true
		}
	}
	return kf.Where != ""
}

// check refuses what makes no sense, and what nobody can want.
func (kf *killFlags) check() error {
	if !kf.chooses() {
		return usagef("choose the sockets, for example by -p PID, --comm, -L PORT, --raddr, --netns, --where or --cookie: " +
			"all of the host are never destroyed")
	}
	if kf.limit < 1 {
		return usagef("invalid value %q for --limit: want a number of sockets, 1 or more", strconv.Itoa(kf.limit))
	}
	return notNegative("threshold", kf.stuckAt)
}

// checkStates refuses the states that are never destroyed, and those nobody allowed.
func (kf *killFlags) checkStates(chosen event.StateSet) error {
	if !kf.stateChosen {
		return nil
	}
	for _, s := range event.States() {
		switch reason := pipeline.RefusedState(s); {
		case chosen == 0, s == event.CloseWait:
		case !chosen.Has(s):
		case reason != "":
			return usagef("invalid value %q for --state: %s", stateName(s), reason)
		case !kf.anyState:
			return usagef("invalid value %q for --state: only CLOSE_WAIT is destroyed; --any-state allows live connections to be cut", stateName(s))
		}
	}
	if chosen == 0 && !kf.anyState {
		return usagef("invalid value \"all\" for --state: only CLOSE_WAIT is destroyed; --any-state allows live connections to be cut")
	}
	return nil
}

func stateName(s event.State) string {
	return strings.ToLower(strings.ReplaceAll(s.String(), "_", "-"))
}

func (kf *killFlags) parseCookies() ([]event.Cookie, error) {
	var cookies []event.Cookie
	for _, text := range kf.cookies {
		n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
		if err != nil || n == 0 {
			return nil, usagef("invalid value %q for --cookie: want the cookies of sockets, as list -o wide shows them", text)
		}
		if c := event.Cookie(n); !slices.Contains(cookies, c) {
			cookies = append(cookies, c)
		}
	}
	return cookies, nil
}

// query checks all flags.
func (kf *killFlags) query(a *app) (q pipeline.KillQuery, err error) {
	if err := kf.check(); err != nil {
		return q, err
	}
	if q.Cookies, err = kf.parseCookies(); err != nil {
		return q, err
	}
	if len(q.Cookies) > 0 && !kf.stateChosen {
		// Who names a socket is told why it is refused.
		kf.States = []string{"all"}
	}
	f, err := kf.parse(a, filter.Sockets)
	if err != nil {
		return q, err
	}
	q.Query = query(f, kf.stuckAt, true)
	q.Peers = strings.Contains(kf.Where, "peer")
	q.Yes, q.AnyState, q.HalfClose, q.Limit = kf.yes, kf.anyState, kf.halfClose, kf.limit
	return q, kf.checkStates(f.States())
}

func (a *app) kill(kf *killFlags) error {
	q, err := kf.query(a)
	if err != nil {
		return err
	}
	o, err := a.report(kf.stuckAt)
	if err != nil {
		return err
	}
	out, err := report.NewKill(a.stdout, o, kf.yes)
	if err != nil {
		return err
	}
	return a.withBackend(func(ctx context.Context, b backend) error {
		k, err := b.Kill(ctx, q, out.Socket)
		var limit *pipeline.LimitError
		if errors.As(err, &limit) {
			return usagef("%v: choose fewer, or raise --limit", limit)
		}
		if k == nil {
			return err
		}
		// What was done is told even where it could not be written.
		if err = errors.Join(err, out.End()); err == nil || kf.yes {
			a.killSummary(kf, k, out, ctx.Err() != nil)
		}
		switch {
		case err != nil && kf.yes:
			// Even a closed pipe is a failure: nothing is destroyed that cannot be told of.
			return fmt.Errorf("stopped, for the audit line could not be written: %s", err.Error())
		case err != nil:
			return err
		}
		return killCode(k, len(q.Cookies) > 0)
	})
}

// killSummary says on stderr what the lines on stdout come to.
func (a *app) killSummary(kf *killFlags, k *pipeline.Killed, out *report.Kill, interrupted bool) {
	a.reservations(event.Loss{}, k.UnreadNetns)
	for _, c := range k.Missing {
		fmt.Fprintf(a.stderr, "no socket with the cookie %d passes the filter: it has ended, or never was\n", c)
	}
	turns := 0
	for _, n := range k.Actions {
		turns += n
	}
	switch {
	case k.Chosen == 0 && len(k.Missing) == 0:
		fmt.Fprintln(a.stderr, nothingFound(&kf.filterFlags))
	case kf.yes:
		fmt.Fprintln(a.stderr, report.KillSummary(k.Actions, true))
		if left := out.Left(); left != "" {
			fmt.Fprintln(a.stderr, left)
		}
	case k.Chosen > 0 && !out.Shown():
		fmt.Fprintln(a.stderr, report.KillSummary(k.Actions, false)+"; nothing was done; add --yes to destroy")
	}
	if n := k.Actions[record.KillWouldDestroy]; n > kf.limit {
		fmt.Fprintf(a.stderr, "that is more than --limit %d, so --yes alone would destroy none\n", kf.limit)
	}
	if left := k.Chosen - turns; interrupted {
		fmt.Fprintf(a.stderr, "interrupted: %d of %d sockets were left as they were\n", left, k.Chosen)
	}
}

// killCode is 1 where something that was asked for could not be done: named sockets must
// be there and not be refused, and namespaces be readable.
func killCode(k *pipeline.Killed, named bool) error {
	if k.Actions[record.KillFailed] > 0 || len(k.UnreadNetns) > 0 || len(k.Missing) > 0 ||
		named && k.Actions[record.KillRefused] > 0 {
		return findings(exitFailed)
	}
	return nil
}
