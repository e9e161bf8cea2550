package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// stackPatience bounds the wait for one record. Its length never decides a test that
// passes: where the processor is emulated a program's tables take long to read.
const stackPatience = patience

// ports are the two ends of a connection, as one end sees them.
type ports struct{ local, remote uint16 }

// change is a transition with its stacks.
type change struct {
	transition
	record.LossCounts
	Stacks stacks
}

// closing: our end closes, first or second.
func (c *change) closing() bool {
	return c.OldState == "CLOSE_WAIT" && c.NewState == "LAST_ACK" ||
		c.OldState == "ESTABLISHED" && c.NewState == "FIN_WAIT1"
}

// agent is a running tail and what it has said so far.
type agent struct {
	*running
	read chan struct{}

	mu    sync.Mutex
	said  map[ports]chan *change
	other error
}

// changesKept of one socket: TCP has 12 states, and nobody passes through all.
const changesKept = 16

// startAgent tails the namespace with all stacks, until the test ends: the tail must
// survive all of it.
func startAgent(t *testing.T, ns *testenv.Netns) *agent {
	t.Helper()
	requireAcceptHook(t)
	args := []string{"tail", "--stacks=all", "--syscall-accept", "-o", "json", "--netns", inode(ns)}
	// It waits for all that the test waits for.
	tail := prepareFor(t, 10*patience, append(args, "-v")...)
	a := &agent{running: startWatching(t, tail), read: make(chan struct{}), said: map[ports]chan *change{}}
	go a.listen()
	t.Cleanup(func() { a.end(t) })
	return a
}

// notice is told of what a program writes, and when it wrote a text.
type notice struct {
	all  *bytes.Buffer
	text string
	told chan struct{}
}

func (n *notice) Write(p []byte) (int, error) {
	n.all.Write(p)
	if n.told != nil && bytes.Contains(n.all.Bytes(), []byte(n.text)) {
		close(n.told)
		n.told = nil
	}
	return len(p), nil
}

// startUntil is start for what is ready when it has logged a text.
func startUntil(t *testing.T, text string, args ...string) *running {
	t.Helper()
	r := &running{cmd: prepare(t, append(args, "-v")...), stderr: &bytes.Buffer{}, done: make(chan struct{})}
	close(r.done) // cmd.Wait waits for stderr
	told := make(chan struct{})
	r.cmd.Stderr = &notice{r.stderr, text, told}
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.stdout, r.pipe = bufio.NewReader(stdout), stdout
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-told:
	case <-time.After(stackPatience):
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		t.Fatalf("%v has not said %s: %s", args, text, r.stderr)
	}
	return r
}

// requireAcceptHook: without fexit only the exit of system calls shows accept(), and that
// hook is looked up in tracefs.
func requireAcceptHook(t *testing.T) {
	t.Helper()
	testenv.RequireRoot(t)
	const events = "/sys/kernel/tracing/events"
	if _, err := os.Stat(events); err != nil && !sees(t).accepts {
		testenv.Skip(t, "tracefs", fmt.Sprintf("%v; mount -t tracefs tracefs /sys/kernel/tracing", err))
	}
}

func (a *agent) listen() {
	defer close(a.read)
	for dec := json.NewDecoder(a.stdout); ; {
		c := &change{}
		if err := dec.Decode(c); err != nil {
			if !errors.Is(err, io.EOF) {
				a.mu.Lock()
				a.other = err
				a.mu.Unlock()
			}
			return
		}
		if c.Kind == "loss" && !lost(c.LossCounts) {
			continue
		}
		if c.Kind != "transition" {
			a.mu.Lock()
			a.other = fmt.Errorf("record of kind %q", c.Kind)
			a.mu.Unlock()
			continue
		}
		select {
		case a.of(ports{c.Lport, c.Rport}) <- c:
		default: // nobody asks for this one
		}
	}
}

func (a *agent) of(p ports) chan *change {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.said[p] == nil {
		a.said[p] = make(chan *change, changesKept)
	}
	return a.said[p]
}

// forget makes room for another connection between the same ports.
func (a *agent) forget(p ports) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.said, p)
}

// await returns the stacks in the first change of the socket that is wanted.
func (a *agent) await(t *testing.T, p ports, wanted func(*change) bool) stacks {
	t.Helper()
	defer a.forget(p)
	enough := time.After(stackPatience)
	var seen []string
	for {
		select {
		case c := <-a.of(p):
			if wanted(c) {
				return c.Stacks
			}
			seen = append(seen, c.OldState+" to "+c.NewState)
		case <-a.read:
			t.Fatalf("tail ended: %v: %s", a.other, a.stderr)
		case <-enough:
			t.Fatalf("port %d to %d: no such transition, only %v", p.local, p.remote, seen)
		}
	}
}

func (a *agent) end(t *testing.T) {
	t.Helper()
	if err := a.cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Errorf("tail has not survived: %v", err)
	}
	<-a.read
	<-a.done
	if err := a.cmd.Wait(); err != nil {
		t.Errorf("tail: %v", err)
	}
	if a.other != nil || t.Failed() {
		t.Errorf("tail: %v, stderr:\n%s", a.other, tailOf(a.stderr.String()))
	}
}

// tailOf is the end of a long text.
func tailOf(text string) string { return text[max(0, len(text)-2048):] }

// Stacks are believed when they come again: the tables of a new process arrive a little
// after its first events.
const (
	attempts = n
	// streak of right ones in a row ends the attempts.
	streak = 5
	// pauseMost after a wrong one; pauses double from 1 ms.
	pauseMost = 128 * time.Millisecond
)

// eventually samples until the stacks are as wanted, several times in a row.
func eventually(t *testing.T, sample func() stacks, wants ...want) stacks {
	t.Helper()
	pause := time.Millisecond
	right := 0
	var history []string // what was wrong with each
	var worst stacks
	for range attempts {
		got := sample()
		wrong := checkAll(wants, got)
		if history = append(history, wrong); wrong == "" {
			if right++; right == streak {
				return got
			}
			continue
		}
		right, worst = 0, got
		time.Sleep(pause)
		pause = min(2*pause, pauseMost)
	}
	t.Fatalf("of %d connections the last %d were right, want %d:\n%v\nthe last wrong one:\n%v",
		attempts, right, streak, strings.Join(slices.Compact(history), "\n"), worst)
	return nil
}
