package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tool is something that watches every transition of the host.
type tool struct {
	// name is what the tables and the keys of values say.
	name string
	// argv is the command; none means that nothing is attached.
	argv []string
	// ready is what it says on stderr when it has attached; "" for those that say nothing.
	ready string
	// wanted recognises a line for a transition of the load; nil: its lines are not counted.
	wanted func(line []byte) bool
	// lost recognises what it says of lost events, on stdout or stderr.
	lost *regexp.Regexp
	// peer: not ours, and slow enough for less load.
	peer bool
	// missing is why it cannot be measured here, nil if it can.
	missing error
}

// agentReady is the last of the hooks that tcpwaitd -v tells of, of those every kernel has.
const agentReady = "fact=transitions hook=inet_sock_set_state kind=tp_btf attached=true"

var (
	agentLost = regexp.MustCompile(`"lost":([0-9]+)|([0-9]+) lost`)
	peerLost  = regexp.MustCompile(`(?i)lost ([0-9]+) events`)
	floorLost = regexp.MustCompile(`^lost ([0-9]+)`)
)

// watch is how long the diagnoses under test watch: longer than any run.
const watch = "20m"

// The names of the tools.
const (
	toolNothing     = "nothing"
	toolEmpty       = "floor: empty program"
	toolKeep        = "floor: socket storage of 184 bytes"
	toolRecord      = "floor: 64-byte record, batched ring, text"
	toolTailJSON    = "tail -o json"
	toolTail        = "tail"
	toolDiagnose    = "diagnose --stacks off"
	toolStacks      = "diagnose"
	toolTcpstates   = "tcpstates"
	toolTcplife     = "tcplife"
	toolBpftrace    = "bpftrace"
	bpftraceProgram = `tracepoint:sock:inet_sock_set_state /args->protocol == 6/ {
	$ms = @at[args->skaddr] ? (nsecs - @at[args->skaddr]) / 1000000 : 0;
	printf("%x %d %s %s %d %s %d %d %d %d\n", args->skaddr, pid, comm, ntop(args->saddr), args->sport,
		ntop(args->daddr), args->dport, args->oldstate, args->newstate, $ms);
	if (args->newstate == 7) {
		delete(@at[args->skaddr]);
	} else {
		@at[args->skaddr] = nsecs;
	}
}
END { clear(@at); }
`
)

// tools are all there are, floors and peers included, in the order of the tables; in a quick run
// one of each kind.
func (s *stage) tools() []tool {
	agent := func(name string, args ...string) tool {
		return tool{name: name, argv: slices.Concat([]string{s.agent}, args, []string{"-v"}), ready: agentReady, lost: agentLost}
	}
	floor := func(name, child string) tool {
		return tool{name: name, argv: s.childCommand(child, 0, 0), ready: ready, lost: floorLost}
	}
	all := []tool{
		{name: toolNothing},
		floor(toolEmpty, "floor-empty"),
		floor(toolKeep, "floor-keep"),
		floor(toolRecord, "floor-record"),
		agent(toolTailJSON, "tail", "-o", "json"),
		agent(toolTail, "tail"),
		agent(toolDiagnose, "diagnose", "--stacks", "off", "--for", watch),
		agent(toolStacks, "diagnose", "--for", watch),
	}
	for i := range all {
		if all[i].name == toolTailJSON {
			all[i].wanted = reportedOfLoad
		}
	}
	all = append(all, s.peers()...)
	if s.quick {
		all = slices.DeleteFunc(all, func(t tool) bool { return t.name == toolTail || t.name == toolStacks })
	}
	return all
}

// peers are the tools people use now.
func (s *stage) peers() []tool {
	states, statesErr := peerProgram("tcpstates")
	life, lifeErr := peerProgram("tcplife")
	script := filepath.Join(s.dir, "states.bt")
	trace, traceErr := exec.LookPath("bpftrace")
	if traceErr != nil {
		traceErr = errors.New("not installed")
	} else {
		traceErr = os.WriteFile(script, []byte(bpftraceProgram), 0o600)
	}
	return []tool{
		{name: toolTcpstates, argv: []string{states}, peer: true, wanted: ofLoad, lost: peerLost, missing: statesErr},
		{name: toolBpftrace, argv: []string{trace, script}, peer: true, wanted: ofLoad, lost: peerLost, missing: traceErr},
		// One line a connection: what it loses is not counted.
		{name: toolTcplife, argv: []string{life}, peer: true, lost: peerLost, missing: lifeErr},
	}
}

// peersEnv lists programs to compare with, or directories of them.
const peersEnv = "PEERS"

// peerProgram finds a program in $PEERS.
func peerProgram(name string) (string, error) {
	for _, entry := range strings.FieldsFunc(os.Getenv(peersEnv), func(r rune) bool { return r == ':' || r == ',' || r == ' ' }) {
		for _, path := range []string{entry, filepath.Join(entry, name)} {
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && filepath.Base(path) == name {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("not in $%s", peersEnv)
}

// ofLoad looks for the port of the load as a whole number.
func ofLoad(line []byte) bool {
	port := strconv.Itoa(serverPort)
	digit := func(c byte) bool { return c >= '0' && c <= '9' }
	for from := 0; ; {
		i := bytes.Index(line[from:], []byte(port))
		if i < 0 {
			return false
		}
		i += from
		end := i + len(port)
		if (i == 0 || !digit(line[i-1])) && (end == len(line) || !digit(line[end])) {
			return true
		}
		from = end
	}
}

// reportedOfLoad leaves out what tcpwaitd infers: the kernel reports no such transition.
func reportedOfLoad(line []byte) bool {
	return bytes.Contains(line, []byte(`"kind":"transition"`)) && !bytes.Contains(line, []byte(`"inferred":true`)) && ofLoad(line)
}

// attached is a tool at work. out and err are files that end with it; out is nil where its
// output goes elsewhere.
type attached struct {
	tool
	*process
	stage    *stage
	out, err *os.File
}

// attach starts a tool that writes to a file, and returns when it watches and has nothing else
// to do any more. It returns nil for the tool nothing.
func (s *stage) attach(ctx context.Context, t tool) (*attached, error) {
	if t.argv == nil && t.missing == nil {
		return nil, nil
	}
	out, err := os.CreateTemp(s.dir, "out")
	if err != nil {
		return nil, fmt.Errorf("attach %s: %w", t.name, err)
	}
	a, err := s.attachTo(ctx, t, out)
	if err != nil {
		return nil, errors.Join(err, out.Close(), os.Remove(out.Name()))
	}
	a.out = out
	return a, nil
}

// attachTo is the same with another place for the output.
func (s *stage) attachTo(ctx context.Context, t tool, out *os.File) (a *attached, err error) {
	if t.missing != nil {
		return nil, t.missing
	}
	a = &attached{tool: t, stage: s}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("attach %s: %w", t.name, err), a.detach())
		}
	}()
	if a.err, err = os.CreateTemp(s.dir, "err"); err != nil {
		return a, err
	}
	if a.process, err = s.start(command{argv: t.argv, stdout: out, stderr: a.err}); err != nil {
		return a, err
	}
	if err := a.waitReady(ctx); err != nil {
		return a, err
	}
	return a, a.quiet(ctx)
}

const attachPatience = 60 * time.Second

func (a *attached) waitReady(ctx context.Context) error {
	for deadline := time.Now().Add(attachPatience); !a.isReady(); {
		if a.over() {
			return fmt.Errorf("ended: %s", a.lastWords())
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready within %v", attachPatience)
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (a *attached) isReady() bool {
	if a.ready == "" {
		// It says nothing: it has a program, and quiet waits for the rest.
		programs, err := programsOf(a.pid())
		return err == nil && len(programs) > 0
	}
	text, err := os.ReadFile(a.err.Name())
	return err == nil && bytes.Contains(text, []byte(a.ready))
}

func (a *attached) lastWords() string {
	text, err := os.ReadFile(a.err.Name())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// detach ends the tool; findings (3 and 4) of ours are no failure.
func (a *attached) detach() (err error) {
	if a.process != nil {
		err = a.stage.stop(a.process)
		if state := a.cmd.ProcessState; err == nil && state.ExitCode() > 4 {
			err = fmt.Errorf("%s ended with %v: %s", a.name, state, a.lastWords())
		}
	}
	for _, f := range []*os.File{a.out, a.err} {
		if f != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}
	return err
}

// finish ends the tool and says what it wrote and what it says it lost.
func (a *attached) finish() (lines, lost int, err error) {
	if err := a.stage.stop(a.process); err != nil {
		return 0, 0, errors.Join(err, a.detach())
	}
	for _, f := range []*os.File{a.out, a.err} {
		n, l, scanErr := a.count(f)
		err = errors.Join(err, scanErr)
		lines, lost = lines+n, lost+l
	}
	return lines, lost, errors.Join(err, a.detach())
}

// count goes through what it wrote. Ours says totals, others what they lost since the last time.
func (a *attached) count(f *os.File) (lines, lost int, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, 0, err
	}
	scanner := bufio.NewScanner(f)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		line := scanner.Bytes()
		if a.wanted != nil && a.wanted(line) {
			lines++
			continue
		}
		m := a.lost.FindSubmatch(line)
		if m == nil {
			continue
		}
		n, err := strconv.Atoi(string(slices.Concat(m[1:]...)))
		if err != nil {
			return 0, 0, fmt.Errorf("parse %q: %w", line, err)
		}
		if a.peer {
			lost += n
		} else {
			lost = n
		}
	}
	return lines, lost, scanner.Err()
}
