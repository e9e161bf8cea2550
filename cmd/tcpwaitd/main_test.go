package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/pprof/profile"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
	"github.com/tcpwaitd/tcpwaitd/internal/ports"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
)

// The scripts run the real program with a canned backend: no root, no BPF.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"tcpwaitd": func() {
			e := newEnv()
			e.location = time.UTC
			e.pidExists = func(pid string) bool { return strings.HasPrefix(pid, "424") || pid == "1" }
			e.open = func(context.Context, backendConfig) (backend, error) {
				return openFake(os.Getenv("BACKEND"))
			}
			os.Exit(run(e, os.Args[1:]))
		},
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Cmds:          map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits CODE CMD... runs a command and wants just that exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits CODE CMD...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// fake answers with one leaking process.
type fake struct{ verdict diagnosis.Verdict }

func openFake(name string) (backend, error) {
	switch name {
	case "", "leaking":
		return &fake{diagnosis.Leaking}, nil
	case "suspicious":
		return &fake{diagnosis.Suspicious}, nil
	case "clean":
		return &fake{diagnosis.Clean}, nil
	case "refused":
		return nil, &pipeline.CannotRunError{Cause: "CAP_BPF is missing", Cure: "run as root"}
	case "refused-late":
		return &unprivileged{}, nil
	default:
		return nil, fmt.Errorf("open backend: no %q", name)
	}
}

var (
	fakeClock = event.Clock{Wall: time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC), K: event.KTime(time.Hour)}
	leaker    = event.Task{Pid: 4242, Tid: 4243, Comm: event.MakeComm("leaker")}
)

func fakeFlow(rport uint16) event.Flow {
	return event.Flow{
		Local:  netip.MustParseAddrPort("10.0.0.1:8080"),
		Remote: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), rport), Netns: 4026531840, Protocol: event.TCP,
	}
}

// fakeCases are three sockets; two of them were told EOF at the same place.
func fakeCases() []diagnosis.Case {
	var cases []diagnosis.Case
	for i := range 3 {
		c := diagnosis.Case{
			Socket: event.Socket{
				At: fakeClock.K, Since: fakeClock.K.Add(-time.Duration(i+1) * time.Minute), Bound: event.Exact,
				Cookie: event.Cookie(i + 1), Inode: 9, State: event.CloseWait, Direction: event.In, Flow: fakeFlow(uint16(50001 + i)),
				Owner: leaker, QueuesKnown: true,
			},
			HoldersKnown: true, Holders: []event.Holder{{Task: leaker, FD: int32(3 + i)}},
			Cause: diagnosis.EOFIgnored, Blamed: leaker, Evidence: event.EvidenceRead,
		}
		c.Socket.Evidence = event.EvidenceRead
		if i < 2 {
			c.EOFSeen, c.EOFAt, c.EOFTask = true, c.Since.Add(time.Second), leaker
			c.Stacks[event.StackEOF] = 70
		}
		cases = append(cases, c)
	}
	return cases
}

// fakeFacts know the stacks only of who watched.
func fakeFacts(watched time.Duration) record.Facts {
	f := record.Facts{Clock: fakeClock, Processes: map[uint32]*owner.Process{4242: {Exe: "/srv/leaker", Cmdline: []string{"leaker", "-v"}}}}
	eof := record.StackOf([]symbol.Frame{
		{Function: "syscall.read", File: "/usr/local/go/src/syscall/zsyscall_linux_amd64.go", Line: 736, Module: "/srv/leaker", Offset: 0x47f0ee, Kind: symbol.Go},
		{Function: "net.(*conn).Read", File: "/usr/local/go/src/net/net.go", Line: 196, Module: "/srv/leaker", Offset: 0x5a1b25, Kind: symbol.Go},
		{Function: "main.(*proxy).pump", File: "/src/proxy.go", Line: 88, Module: "/srv/leaker", Offset: 0x6c0f1a, Kind: symbol.Go},
		{Module: "/srv/leaker", Offset: 0x46e501, Kind: symbol.Native},
	}, &event.Stack{Quality: event.QualityTruncated, Reason: event.ReasonTooDeep, Task: leaker})
	if watched > 0 {
		f.Stacks = map[event.Cookie]*record.Stacks{1: {EOF: &eof}, 2: {EOF: &eof}}
	}
	stand := record.StackOf([]symbol.Frame{{Function: "main.(*pool).get", File: "/src/pool.go", Line: 41, Kind: symbol.Go}},
		&event.Stack{Quality: event.QualityComplete, Task: leaker})
	f.Threads = map[uint32][]record.ThreadStack{4242: record.GroupThreads([]record.Stack{stand, stand})}
	return f
}

func (b *fake) List(_ context.Context, q pipeline.ListQuery) (*pipeline.Listing, error) {
	l := &pipeline.Listing{Facts: fakeFacts(q.For)}
	l.Cases = diagnosis.Collect(diagnosis.CaseList(fakeCases()), func(c *diagnosis.Case) bool { return q.Filter.MatchCase(c, &l.Facts) })
	return l, nil
}

// Explain knows process 4242 and sockets 1 to 3.
func (b *fake) Explain(_ context.Context, q pipeline.ExplainQuery) (*pipeline.Explained, error) {
	x := &pipeline.Explained{Facts: fakeFacts(q.For), Observed: q.For}
	cases := fakeCases()
	d := diagnosis.Judge(diagnosis.Input{Cases: cases, From: fakeClock.K, To: fakeClock.K, Threshold: q.Threshold})
	x.Process = d.Processes[0]
	switch {
	case q.Pid == 4242:
		for c := range d.Waits() {
			x.Cases = append(x.Cases, c)
		}
		x.States[event.CloseWait], x.States[event.Listen] = 3, 1
		if q.Cookie == 4242 {
			x.Notes = []string{"4242 is the cookie of a socket as well: tcpwaitd explain cookie:4242"}
		}
	case q.Cookie >= 1 && q.Cookie <= 3:
		x.Socket = &cases[q.Cookie-1]
	default:
		return nil, &pipeline.NotFoundError{What: "no process and no socket 5"}
	}
	return x, nil
}

func (b *fake) Tail(_ context.Context, q pipeline.Query, s pipeline.Stream) error {
	s.Clock(fakeClock)
	for i := range 3 {
		t := event.Transition{
			At: fakeClock.K.Add(time.Duration(i) * time.Second), Cookie: 1, Flow: fakeFlow(50001),
			Old: event.Established, New: event.CloseWait, InState: time.Second, InBound: event.Exact, Owner: leaker,
			Evidence: event.EvidenceRead,
		}
		if !q.Filter.MatchTransition(&t, record.Cgroup{}) {
			continue
		}
		if err := s.Transition(&t, record.TransitionFacts{}); err != nil {
			return err
		}
	}
	return s.Flush()
}

func (b *fake) Diagnose(_ context.Context, q pipeline.DiagnoseQuery) (*pipeline.Diagnosed, error) {
	d := &pipeline.Diagnosed{Facts: fakeFacts(q.For), SocketsTotal: 100}
	d.Verdict, d.Observed, d.Threshold = b.verdict, q.For, q.Threshold
	if b.verdict != diagnosis.Clean {
		d.Sockets = 23
		d.Processes = []diagnosis.Process{{
			Task: leaker, Verdict: b.verdict, Sockets: 23, Stuck: 23, Oldest: time.Hour, OldestBound: event.AtLeast,
			Causes: map[diagnosis.Cause]int{diagnosis.EOFIgnored: 23},
		}}
		// The groups are those of three sockets, to see how they look.
		cases := fakeCases()
		all := []*diagnosis.Case{&cases[0], &cases[1], &cases[2]}
		d.Processes[0].Groups = diagnosis.Groups(all, q.Threshold)
	}
	return d, nil
}

// Exec lets the command run and judges sockets of its own making.
func (b *fake) Exec(ctx context.Context, q pipeline.ExecQuery) (*pipeline.Executed, error) {
	if err := q.Release(); err != nil {
		return nil, err
	}
	<-q.Done
	d, err := b.Diagnose(ctx, pipeline.DiagnoseQuery{Query: pipeline.Query{Threshold: q.Threshold}, For: time.Second})
	x := &pipeline.Executed{Diagnosed: *d}
	if b.verdict != diagnosis.Clean {
		x.Unclosed, x.Longest, x.Alive = 23, time.Minute, []event.Task{leaker}
	}
	return x, err
}

// Kill does as it is told, but finds socket 2 gone.
func (b *fake) Kill(ctx context.Context, q pipeline.KillQuery, sink pipeline.KillSink) (*pipeline.Killed, error) {
	facts := fakeFacts(0)
	k := &pipeline.Killed{Actions: map[record.KillAction]int{}}
	cases := fakeCases()
	if q.Yes && len(cases) > q.Limit {
		return nil, &pipeline.LimitError{Chosen: len(cases), Limit: q.Limit}
	}
	for i := range cases {
		c := &cases[i]
		if !q.Filter.MatchCase(c, &facts) || len(q.Cookies) > 0 && !slices.Contains(q.Cookies, c.Cookie) {
			continue
		}
		if k.Chosen++; ctx.Err() != nil {
			continue
		}
		o := record.KillOutcome{At: fakeClock.Wall, State: c.State, Action: record.KillWouldDestroy}
		switch {
		case c.Cookie == 2:
			o.Action, o.Reason = record.KillSkipped, "it has ended meanwhile"
		case q.Yes:
			o.Action = record.KillDestroyed
		}
		k.Actions[o.Action]++
		if err := sink(c, &facts, &o); err != nil {
			return k, err
		}
	}
	for _, c := range q.Cookies {
		if c > 3 {
			k.Missing = append(k.Missing, c)
		}
	}
	return k, nil
}

func (b *fake) States(_ context.Context, q pipeline.StatesQuery) (*pipeline.StateCounts, error) {
	c := &pipeline.StateCounts{Clock: fakeClock}
	c.All[event.CloseWait] = 23
	if q.By == pipeline.ByPid {
		c.Groups = []record.StatesGroup{{Pid: 4242, Comm: "leaker", States: c.All}}
	}
	return c, nil
}

// Timewait knows one process that closes first, and who failed for it.
func (b *fake) Timewait(_ context.Context, q pipeline.TimewaitQuery) (*record.Timewait, error) {
	r := record.NewTimewait(record.Time{Time: fakeClock.Wall}, int64(q.For))
	r.TimeWait, r.Advice = 23, []string{"Keep connections."}
	budget := ports.Budget{
		Destination: ports.Destination{Netns: 4026531840, Laddr: netip.MustParseAddr("10.0.0.1"), Raddr: netip.MustParseAddr("10.0.0.2"), Rport: 443},
		InUse:       23, TimeWait: 23, Range: 29, PerSecond: 2.3, Forecast: ports.Forecast{In: new(3 * time.Second), Soonest: new(2 * time.Second)},
	}
	r.Budgets, r.BudgetsTotal = append(r.Budgets, record.BudgetOf(&budget, "")), 1
	t := event.Transition{New: event.FinWait1, Direction: event.Out, Flow: fakeFlow(50001), Owner: leaker, Closer: leaker.Pid}
	if q.For > 0 && q.Filter.MatchTransition(&t, record.Cgroup{}) {
		r.ActiveClosers = append(r.ActiveClosers, record.ActiveCloser{
			Pid: leaker.Pid, Comm: "leaker", ClosedFirst: 23, PerS: 2.3,
			Groups: []record.CloserGroup{{N: 23, Direction: "out", Rport: 443, Frames: []record.Frame{{Function: "main.fetch", File: "/src/fetch.go", Line: 17}}}},
		})
		r.ConnectFailures = append(r.ConnectFailures, record.ConnectFailure{
			Pid: leaker.Pid, Comm: "leaker", Raddr: budget.Raddr, Rport: budget.Rport, N: 2,
		})
	}
	return &r, nil
}

func (b *fake) Doctor(context.Context) (*record.Doctor, error) {
	checks := []record.Check{{Name: "kernel", OK: true, Detail: "6.18"}}
	if b.verdict != diagnosis.Clean {
		checks = append(checks, record.Check{Name: "capabilities", Detail: "CAP_BPF is missing", Cure: "run as root"})
	}
	d := record.NewDoctor("6.18", "x86_64", checks, nil, nil)
	return &d, nil
}

// unprivileged opens, but may load nothing.
type unprivileged struct{ fake }

func (b *unprivileged) Tail(context.Context, pipeline.Query, pipeline.Stream) error {
	return &pipeline.CannotRunError{Cause: "CAP_BPF is missing", Cure: "run as root"}
}

func (b *unprivileged) Exec(context.Context, pipeline.ExecQuery) (*pipeline.Executed, error) {
	return nil, &pipeline.CannotRunError{Cause: "CAP_BPF is missing", Cure: "run as root"}
}

func (b *fake) Close() error { return nil }

// testEnv runs commands in this process.
func testEnv(b backend) (e *env, stdout, stderr *bytes.Buffer) {
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	return &env{
		stdin: strings.NewReader(""), stdout: stdout, stderr: stderr,
		getenv: func(string) string { return "" }, now: func() time.Time { return fakeClock.Wall }, location: time.UTC,
		isTerminal: func() bool { return false },
		signals:    func() (context.Context, context.CancelFunc) { return context.WithCancel(context.Background()) },
		open:       func(context.Context, backendConfig) (backend, error) { return b, nil },
	}, stdout, stderr
}

func TestEveryCommandHasHelp(t *testing.T) {
	e, _, _ := testEnv(nil)
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		// The commands below completion are cobra's own.
		if c.Short == "" || c.Long == "" || c.Example == "" && c.Parent().Name() != "completion" {
			t.Errorf("%s: no short help, long help or example", c.CommandPath())
		}
		for _, line := range strings.Split(c.Long, "\n") {
			if c.Name() != "completion" && c.HasParent() && c.Parent().Name() != "completion" && len(line) > 90 {
				t.Errorf("%s: long line in help: %s", c.CommandPath(), line)
			}
		}
		for _, sub := range c.Commands() {
			check(sub)
		}
		e, stdout, stderr := testEnv(nil)
		args := strings.Fields(c.CommandPath() + " --help")[1:]
		if code := run(e, args); code != exitOK || stderr.Len() > 0 || !strings.Contains(stdout.String(), "Usage:") {
			t.Errorf("%v: exit code %d, stderr %s", args, code, stderr)
		}
	}
	check(newRoot(e))
}

// Examples in the help must be commands that parse.
func TestExamplesParse(t *testing.T) {
	e, _, _ := testEnv(nil)
	word := regexp.MustCompile(`'[^']*'|\S+`)
	for _, c := range newRoot(e).Commands() {
		for line := range strings.Lines(c.Example) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " | ")
			line, _, _ = strings.Cut(line, " #")
			line, _, _ = strings.Cut(line, " > waits.pb.gz")
			args := word.FindAllString(line, -1)
			if len(args) == 0 || args[0] != "tcpwaitd" {
				continue
			}
			for i := range args {
				args[i] = strings.Trim(args[i], "'")
			}
			e, _, stderr := testEnv(&fake{})
			if code := run(e, args[1:]); code == exitUsage {
				t.Errorf("%s: %s", line, stderr)
			}
		}
	}
}

// Every command that a diagnosis recommends exists and parses.
func TestRecommendedCommandsExist(t *testing.T) {
	word := regexp.MustCompile(`'[^']*'|\S+`)
	tried := 0
	for _, p := range diagnosis.Judge(everyCause()).Processes {
		if len(p.Commands) == 0 {
			t.Errorf("nothing to try for %+v", p)
		}
		for _, line := range slices.Concat(p.Commands, p.Advice) {
			_, args, found := strings.Cut(line, "tcpwaitd ")
			if !found {
				continue
			}
			tried++
			e, _, stderr := testEnv(&fake{})
			e.pidExists = func(string) bool { return true }
			words := word.FindAllString(args, -1)
			if code := run(e, words); code == exitUsage {
				t.Errorf("%s: %s", line, stderr)
			}
		}
	}
	if tried < 8 {
		t.Errorf("only %d commands", tried)
	}
}

// everyCause is a present with a stuck socket for each cause, in and out.
func everyCause() diagnosis.Input {
	to := event.KTime(time.Hour)
	in := diagnosis.Input{From: to, To: to, Threshold: time.Minute}
	who := func(pid uint32) []event.Holder {
		return []event.Holder{{Task: event.Task{Pid: pid, Comm: event.MakeComm("p")}}}
	}
	for i, change := range []func(*diagnosis.Case){
		func(c *diagnosis.Case) { c.Inode, c.Holders, c.Listeners = 0, nil, who(c.Listeners[0].Pid) },
		func(c *diagnosis.Case) { c.Inode, c.Holders, c.Listeners = 0, nil, append(who(1), who(2)...) },
		func(c *diagnosis.Case) { c.RecvQ = 5 },
		func(c *diagnosis.Case) { c.RecvQ = 1 },
		func(*diagnosis.Case) {},
		func(c *diagnosis.Case) { c.Owner, c.Socket.Evidence = event.Task{Pid: 999}, event.EvidenceAccept },
		func(c *diagnosis.Case) { c.Holders = nil },
		func(c *diagnosis.Case) { c.State, c.WasConnected = event.Close, true },
	} {
		for d, direction := range []event.Direction{event.In, event.Out} {
			pid := uint32(100 + 2*i + d)
			c := diagnosis.Case{
				Socket: event.Socket{
					At: to, Since: to.Add(-2 * time.Minute), Bound: event.Exact, Cookie: event.Cookie(pid), Inode: 9,
					State: event.CloseWait, Direction: direction, Flow: fakeFlow(uint16(5000 + pid)),
				},
				Holders: who(pid), HoldersKnown: true, Listeners: who(pid),
			}
			change(&c)
			in.Cases = append(in.Cases, c)
		}
	}
	return in
}

// timeout(1) signals the process and then its group.
func TestSecondSignalDoesNotKill(t *testing.T) {
	ctx, stop := interruptible()
	for range 3 {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	<-ctx.Done()
	stop()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestClosedPipeEndsQuietly(t *testing.T) {
	for _, args := range []string{"list", "list -o json", "list --for 1s --by stack", "list --for 1s -o pprof", "list --for 1s -o folded", "explain --for 1s pid:4242", "explain --for 1s cookie:1", "tail", "diagnose", "states", "doctor", "version", "--version", "help", "list --help", "completion bash"} {
		e, _, stderr := testEnv(&fake{diagnosis.Leaking})
		e.stdout = failingWriter{&os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}}
		if code := run(e, strings.Fields(args)); code != exitOK || stderr.Len() > 0 {
			t.Errorf("%s: exit code %d, stderr %s", args, code, stderr)
		}
		e, _, stderr = testEnv(&fake{diagnosis.Leaking})
		e.stdout = failingWriter{io.ErrShortWrite}
		if code := run(e, strings.Fields(args)); code != exitFailed || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%s: a failed write gave exit code %d, stderr %s", args, code, stderr)
		}
	}
}

// interrupted is a backend whose context ends while it works.
type interrupted struct{ fake }

func (b *interrupted) List(context.Context, pipeline.ListQuery) (*pipeline.Listing, error) {
	return nil, fmt.Errorf("read sockets: %w", context.Canceled)
}

func TestInterrupt(t *testing.T) {
	for args, want := range map[string]struct {
		code   int
		stderr string
	}{
		"tail":     {exitOK, "3 transitions in 0s\n"},
		"diagnose": {exitLeaking, "interrupted: watched for 10s of 10s\n"},
		"list":     {exitFailed, "tcpwaitd list: interrupted before there was anything to show\n"},
	} {
		e, _, stderr := testEnv(&interrupted{fake{diagnosis.Leaking}})
		e.signals = func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			return ctx, cancel
		}
		if code := run(e, strings.Fields(args)); code != want.code || stderr.String() != want.stderr {
			t.Errorf("%s: exit code %d, stderr %q", args, code, stderr)
		}
	}
}

func TestColorOnlyOnATerminal(t *testing.T) {
	for _, tt := range []struct {
		args     string
		terminal bool
		env      string
		want     bool
	}{
		{"diagnose", true, "", true},
		{"diagnose", false, "", false},
		{"diagnose --no-color", true, "", false},
		{"diagnose", true, "NO_COLOR", false},
	} {
		e, stdout, _ := testEnv(&fake{diagnosis.Leaking})
		e.isTerminal = func() bool { return tt.terminal }
		e.getenv = func(name string) string {
			if name == tt.env {
				return "1"
			}
			return ""
		}
		run(e, strings.Fields(tt.args))
		if got := strings.Contains(stdout.String(), "\x1b["); got != tt.want {
			t.Errorf("%+v: colour %v", tt, got)
		}
	}
}

func TestPreview(t *testing.T) {
	e, _, stderr := testEnv(nil)
	a := &app{env: e}
	d := &pipeline.Diagnosed{}
	d.Verdict, d.Sockets = diagnosis.Suspicious, 23
	d.Processes = slices.Repeat([]diagnosis.Process{{
		Task: event.Task{Pid: 7, Comm: event.MakeComm("a\x1bb")}, Oldest: 43 * time.Minute, OldestBound: event.AtLeast,
		Causes: map[diagnosis.Cause]int{diagnosis.UnreadEOF: 23, diagnosis.EOFIgnored: 1},
	}}, maxPreview+1)
	a.preview(10 * time.Second)(d)
	want := "at present 23 sockets in CLOSE_WAIT\n" +
		strings.Repeat("  pid 7 a\\x1bb: 1 eof_ignored, 23 unread_eof, oldest 43m+\n", maxPreview) +
		"  and 1 processes more\n" +
		"watching for 10s to see what grows (Ctrl-C judges at once)\n"
	if stderr.String() != want {
		t.Errorf("got %q", stderr)
	}
}

// What each command takes stacks of, and that a look without watching hooks nothing.
func TestStackFlagsReachTheBackend(t *testing.T) {
	for args, want := range map[string]backendConfig{
		"tail":                            {Stacks: pipeline.StacksOff},
		"tail --stacks all":               {Stacks: pipeline.StacksAll},
		"diagnose":                        {Stacks: pipeline.StacksOn},
		"diagnose --stacks off":           {Stacks: pipeline.StacksOff},
		"diagnose --for 0":                {Stacks: pipeline.StacksOn},
		"list":                            {Stacks: pipeline.StacksOff},
		"list --for 1s":                   {Stacks: pipeline.StacksOn},
		"list --for 1s --stacks off":      {Stacks: pipeline.StacksOff},
		"list --stacks off":               {Stacks: pipeline.StacksOff},
		"explain pid:4242":                {Stacks: pipeline.StacksOn},
		"explain --lines --stacks all 1":  {Stacks: pipeline.StacksAll, Lines: true},
		"states":                          {},
		"diagnose --debuginfod http://a/": {Stacks: pipeline.StacksOn, Debuginfod: []string{"http://a/"}},
		"diagnose --debuginfod https://a --debuginfod http://b:80/x,y --syscall-accept": {
			Stacks: pipeline.StacksOn, Debuginfod: []string{"https://a", "http://b:80/x,y"}, SyscallAccept: true,
		},
	} {
		e, _, stderr := testEnv(nil)
		e.getenv = func(name string) string {
			return map[string]string{"DEBUGINFOD_URLS": "https://from.environment"}[name]
		}
		var got backendConfig
		e.open = func(_ context.Context, c backendConfig) (backend, error) {
			got = c
			return &fake{}, nil
		}
		if code := run(e, strings.Fields(args)); code != exitOK {
			t.Errorf("%s: exit code %d, stderr %s", args, code, stderr)
		}
		got.Messages, got.Now = nil, nil
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", args, got, want)
		}
	}
}

// watchFor is a backend that remembers how long it was to watch.
type watchFor struct {
	fake
	list    pipeline.ListQuery
	explain pipeline.ExplainQuery
}

func (b *watchFor) List(ctx context.Context, q pipeline.ListQuery) (*pipeline.Listing, error) {
	b.list = q
	return b.fake.List(ctx, q)
}

func (b *watchFor) Explain(ctx context.Context, q pipeline.ExplainQuery) (*pipeline.Explained, error) {
	b.explain = q
	return b.fake.Explain(ctx, q)
}

func TestQueriesReachTheBackend(t *testing.T) {
	b := &watchFor{}
	e, _, _ := testEnv(b)
	run(e, strings.Fields("list --for 7s --threshold 9s"))
	if b.list.For != 7*time.Second || b.list.Threshold != 9*time.Second {
		t.Errorf("list: %+v", b.list)
	}
	for args, want := range map[string]pipeline.ExplainQuery{
		"4242":                        {Pid: 4242, Cookie: 4242, Threshold: time.Minute},
		"pid:4242 --for 7s":           {Pid: 4242, For: 7 * time.Second, Threshold: time.Minute},
		"cookie:2 --threshold 0":      {Cookie: 2},
		"4503599627370497":            {Cookie: 4503599627370497, Threshold: time.Minute},
		"cookie:4503599627370497":     {Cookie: 4503599627370497, Threshold: time.Minute},
		"18446744073709551615 -o csv": {Cookie: 1<<64 - 1, Threshold: time.Minute},
	} {
		run(e, append([]string{"explain"}, strings.Fields(args)...))
		if b.explain != want {
			t.Errorf("explain %s: %+v, want %+v", args, b.explain, want)
		}
	}
}

// A profile would upset a terminal.
func TestProfileIsNotForTerminals(t *testing.T) {
	for _, args := range []string{"list --for 1s", "diagnose", "explain 4242"} {
		e, stdout, stderr := testEnv(&fake{diagnosis.Leaking})
		e.isTerminal = func() bool { return true }
		if code := run(e, append(strings.Fields(args), "-o", "pprof")); code != exitUsage || stdout.Len() > 0 || !strings.Contains(stderr.String(), "write it to a file") {
			t.Errorf("%s: exit code %d, stderr %s", args, code, stderr)
		}
		e, stdout, _ = testEnv(&fake{diagnosis.Leaking})
		run(e, append(strings.Fields(args), "-o", "pprof"))
		p, err := profile.Parse(stdout)
		if err != nil || len(p.Sample) == 0 {
			t.Errorf("%s: %v, profile %v", args, err, p)
			continue
		}
		if len(p.Comments) != 1 || !strings.HasPrefix(p.Comments[0], "tcpwaitd") {
			t.Errorf("%s: comments %q", args, p.Comments)
		}
		// Text is for terminals too.
		e, stdout, stderr = testEnv(&fake{diagnosis.Leaking})
		e.isTerminal = func() bool { return true }
		if run(e, append(strings.Fields(args), "-o", "folded")); !strings.Contains(stdout.String(), "main.(*proxy).pump") && args != "explain 4242" {
			t.Errorf("%s: %s %s", args, stdout, stderr)
		}
	}
}
