package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// leakVerdict is what a script reads of a verdict with stacks.
type leakVerdict struct {
	Processes []struct {
		Pid    int
		Groups []struct {
			N         int
			StackKind string `json:"stack_kind"`
			Frames    []stackFrame
			Quality   string
		}
	}
}

// A leak ends in one group with the place in the code, whatever the format.
func TestStacksNameTheLeak(t *testing.T) {
	if os.Getenv("TCPWAITD_VM") == "1" {
		testenv.Skip(t, "guest programs", "a compiler")
	}
	requireAcceptHook(t)
	l := &lab{ns: testNetns(t), dir: t.TempDir()}
	l.lastPort.Store(firstPort)
	// It listens before anybody looks, so its tables are loaded with the first look.
	x := l.serve(t, l.gobuild(t, "goserver", "goserver"), "127.0.0.1:PORT")
	watch := func(format string) *running {
		return startUntil(t, `msg="unwind tables"`, "diagnose", "--stacks=all", "--syscall-accept", "-o", format,
			"--for", patience.String(), "--threshold", "1ms", "--netns", inode(l.ns))
	}
	asJSON, asFolded, asPprof := watch("json"), watch("folded"), watch("pprof")
	for range n {
		c := l.dial(t, x.port)
		c.say(t, "hi\n")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	l.awaitRead(t, x.port)
	const exitLeaking, exitSuspicious = 3, 4
	outputs := map[string]string{}
	for format, r := range map[string]*running{"json": asJSON, "folded": asFolded, "pprof": asPprof} {
		ended := r.interrupt(t)
		if ended.code != exitLeaking && ended.code != exitSuspicious {
			t.Errorf("%s: exit code %d: %s", format, ended.code, ended.stderr)
		}
		outputs[format] = ended.stdout
	}
	t.Run("json", func(t *testing.T) { checkLeakJSON(t, outputs["json"], x.cmd.Process.Pid) })
	t.Run("folded", func(t *testing.T) { checkLeakFolded(t, outputs["folded"]) })
	t.Run("pprof", func(t *testing.T) { checkLeakPprof(t, outputs["pprof"]) })
}

// awaitRead waits until the server has been told the end of all n connections.
func (l *lab) awaitRead(t *testing.T, port uint16) {
	t.Helper()
	for enough := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		read := 0
		for _, row := range testenv.TCPTable(t, l.ns.Path) {
			if row.Lport == port && row.State == event.CloseWait && row.RecvQ == 0 {
				read++
			}
		}
		if read == n {
			return
		}
		if time.Now().After(enough) {
			t.Fatalf("the server has met the end of %d connections, want %d", read, n)
		}
	}
}

func checkLeakJSON(t *testing.T, text string, pid int) {
	t.Helper()
	v := decode[leakVerdict](t, text)
	if len(v.Processes) != 1 || v.Processes[0].Pid != pid || len(v.Processes[0].Groups) != 1 {
		t.Fatalf("want one process with one group: %s", text)
	}
	g := v.Processes[0].Groups[0]
	s := &stack{Frames: g.Frames, Quality: g.Quality}
	eof := want{slot: "eof", frames: []string{anything, "net.(*conn).Read", "main.leakHandler", "main.acceptLoop"}, user: "main.leakHandler"}
	if text := eof.check(stacks{g.StackKind: s}); g.N != n || text != "" {
		t.Errorf("%d sockets, want %d; %s\n%v", g.N, n, text, s)
	}
}

// checkLeakFolded: "comm;outermost;...;innermost COUNT".
func checkLeakFolded(t *testing.T, text string) {
	t.Helper()
	count := 0
	for line := range strings.Lines(text) {
		i := strings.LastIndexByte(line, ' ')
		value, err := strconv.Atoi(strings.TrimSpace(line[i+1:]))
		if i < 0 || err != nil {
			t.Fatalf("%q ends with no number: %v", line, err)
		}
		frames := strings.Split(line[:i], ";")
		handler, read := slices.Index(frames, "main.leakHandler"), slices.Index(frames, "net.(*conn).Read")
		if handler > 0 && read == handler+1 && frames[0] == "goserver" {
			count += value
		}
	}
	if count != n {
		t.Errorf("%d sockets in main.leakHandler, want %d:\n%s", count, n, text)
	}
}

// checkLeakPprof reads the profile with Go's own tool.
func checkLeakPprof(t *testing.T, profile string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "profile")
	if err := os.WriteFile(file, []byte(profile), 0o644); err != nil {
		t.Fatal(err)
	}
	pprof := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("go", append([]string{"tool", "pprof"}, append(args, file)...)...)
		cmd.Env = append(os.Environ(), "PPROF_TMPDIR="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("pprof %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	if raw := pprof("-raw"); !strings.Contains(raw, "main.leakHandler") || !strings.Contains(raw, "sockets/count") {
		t.Errorf("not in the profile: %s", raw)
	}
	// "flat flat% sum% cum cum% name": what is called from the handler counts for it.
	row := regexp.MustCompile(`(?m)\s` + strconv.Itoa(n) + `\s+100%\s+main\.leakHandler$`)
	if top := pprof("-top", "-nodecount=100", "-sample_index=sockets"); !row.MatchString(top) {
		t.Errorf("not %d sockets in main.leakHandler: %s", n, top)
	}
}

// The leaker is the one target that every machine has, VM guests above all.
func TestStacksOfLeaker(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		testenv.Skip(t, "unwind tables", "stacks are unwound on amd64 only")
	}
	ns := testNetns(t)
	a := startAgent(t, ns)
	goes := func(outer ...string) []string {
		return append(append([]string{anything}, outer...), anything, "main.main", "runtime.main", "runtime.goexit")
	}
	wants := []want{
		{slot: "eof", frames: goes("main.(*endpoint).read", anything, "main.eofIgnored")},
		// By a goroutine of its own.
		{slot: "close", frames: []string{anything, "golang.org/x/sys/unix.Close", anything, "main.(*leak).report.func3", "runtime.goexit"}},
	}
	if sees(t).accepts {
		wants = append(wants, want{slot: "open", frames: goes("main.(*endpoint).accept", anything, "main.eofIgnored")})
	}
	// All that a second process needs is learnt from the first.
	eventually(t, func() stacks {
		leak := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path, CloseAfter: time.Millisecond})
		var last stacks
		for _, s := range leak.Entered {
			last = a.await(t, ports{s.Lport, s.Rport}, (*change).closing)
		}
		if err := leak.Stop(); err != nil {
			t.Fatal(err)
		}
		return last
	}, wants...)
}
