package e2e

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// oracles compares with gdb, which unwinds by the same tables with code of its own: its
// program counters are the truth.
func (l *lab) oracles(t *testing.T) {
	t.Helper()
	program := tool(t, "gdb")
	if out, err := exec.Command(program, "-nx", "-batch", "-ex", "python print(6*7)").Output(); err != nil || string(out) != "42\n" {
		testenv.Skip(t, "gdb", fmt.Sprintf("it has no Python: %v", err))
	}
	for _, tt := range []struct {
		name, text, user string // user is the frame that stands for the accept
		start            func(*testing.T) *target
	}{
		{"c", "hi\n", "do_accept", l.startServer},
		{"python", "hi\n", "accept_one", l.startPython},
		{"nginx", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "ngx_event_accept", l.startNginx},
		{"redis", "PING\r\n", "anetTcpAccept", l.startRedis},
		{"rust", "hi\n", "rsrv::accept_loop", l.startRust},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			x := tt.start(t)
			// Everything is known of the program before the one event that counts.
			eventually(t, l.talks(t, x, tt.text),
				want{slot: "open", frames: []string{"accept4"}, user: tt.user}, want{slot: "eof"}, want{slot: "close", frames: []string{"close"}})
			l.compare(t, x, tt.text)
		})
	}
}

// compare has one conversation under gdb.
func (l *lab) compare(t *testing.T, x *target, text string) {
	t.Helper()
	pid := l.listenerPid(t, x)
	o := startOracle(t, pid)
	got := l.talk(t, x.port, text)
	truth := o.finish(t)
	maps := readMaps(t, pid)
	for slot, pcs := range truth {
		if got[slot] == nil || got[slot].Quality != "complete" {
			t.Errorf("%s: no complete stack\n%v", slot, got)
			continue
		}
		if text := differ(t, maps, got[slot], pcs); text != "" {
			t.Errorf("%s: %s\ngdb: %#x\n%v", slot, text, pcs, got[slot])
		}
	}
}

// listenerPid: of a server with workers, the one worker.
func (l *lab) listenerPid(t *testing.T, x *target) int {
	t.Helper()
	pid := x.cmd.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	switch words := strings.Fields(string(children)); len(words) {
	case 0:
		return pid
	case 1:
		child, err := strconv.Atoi(words[0])
		if err != nil {
			t.Fatal(err)
		}
		return child
	default:
		t.Fatalf("%d children", len(words))
		return 0
	}
}

type oracle struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	all   strings.Builder
}

// startOracle returns when gdb has attached.
func startOracle(t *testing.T, pid int) *oracle {
	t.Helper()
	o := &oracle{cmd: exec.CommandContext(t.Context(), "gdb", "-nx", "-batch", "-p", strconv.Itoa(pid), "-x", source(t, "oracle.py"))}
	out, in := io.Pipe()
	o.cmd.Stdout, o.cmd.Stderr = in, in
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		in.CloseWithError(o.cmd.Wait())
	}()
	t.Cleanup(func() {
		_ = o.cmd.Process.Kill() // as a rule it has ended
		_, _ = io.Copy(io.Discard, out)
		<-ended
	})
	for o.lines = bufio.NewScanner(out); o.lines.Scan(); {
		if o.lines.Text() == "READY" {
			return o
		}
		fmt.Fprintln(&o.all, o.lines.Text())
	}
	t.Fatalf("gdb: %v: %s", o.lines.Err(), &o.all)
	return nil
}

// finish returns the program counters by slot.
func (o *oracle) finish(t *testing.T) map[string][]uint64 {
	t.Helper()
	truth := map[string][]uint64{}
	for o.lines.Scan() {
		fmt.Fprintln(&o.all, o.lines.Text())
		words := strings.Fields(o.lines.Text())
		if len(words) < 3 || words[0] != "call" && words[0] != "return" {
			continue
		}
		// Of several reads the last one met the end.
		slot := map[string]string{"accept4": "open", "read": "eof", "recvfrom": "eof", "close": "close"}[words[1]]
		truth[slot] = nil
		for _, word := range words[2:] {
			pc, err := strconv.ParseUint(word, 0, 64)
			if err != nil {
				t.Fatalf("gdb: %v", err)
			}
			truth[slot] = append(truth[slot], pc)
		}
	}
	if o.lines.Err() != nil || len(truth) != 3 {
		t.Fatalf("gdb: %v: %s", o.lines.Err(), &o.all)
	}
	return truth
}

// mapping is one line of /proc/PID/maps that has a file.
type mapping struct {
	start, end, offset uint64
	path               string
}

func readMaps(t *testing.T, pid int) []mapping {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	var all []mapping
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 6 {
			continue
		}
		m := mapping{path: words[5]}
		if _, err := fmt.Sscanf(words[0]+" "+words[2], "%x-%x %x", &m.start, &m.end, &m.offset); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, m)
	}
	return all
}

// place is where the code of a program counter is: in a file, at a virtual address of the
// file.
func place(t *testing.T, maps []mapping, pc uint64) (module string, vaddr uint64) {
	t.Helper()
	i := slices.IndexFunc(maps, func(m mapping) bool { return m.start <= pc && pc < m.end })
	if i < 0 {
		return "", pc
	}
	at := pc - maps[i].start + maps[i].offset
	f, err := elf.Open(maps[i].path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Off <= at && at < p.Off+p.Filesz {
			return maps[i].path, at - p.Off + p.Vaddr
		}
	}
	t.Fatalf("%#x of %s is in no segment", at, maps[i].path)
	return "", 0
}

// differ compares the physical frames. A frame that waits for a call to return may be told
// by its return address or by the call, one byte less. A run of Python's frames stands for
// the one frame of the interpreter's loop that runs them.
func differ(t *testing.T, maps []mapping, s *stack, pcs []uint64) string {
	t.Helper()
	var frames []stackFrame
	for i, f := range s.Frames {
		if f.Kind != "python" || i == 0 || s.Frames[i-1].Kind != "python" {
			frames = append(frames, f)
		}
	}
	if len(frames) != len(pcs) {
		return fmt.Sprintf("%d frames, gdb has %d", len(frames), len(pcs))
	}
	for i, pc := range pcs {
		module, vaddr := place(t, maps, pc)
		f := &frames[i]
		if f.Kind == "python" && strings.HasPrefix(filepath.Base(module), "python") {
			continue
		}
		if f.Module != module || f.Offset != vaddr && (i == 0 || f.Offset != vaddr-1) {
			return fmt.Sprintf("frame %d is %v, gdb has %s+%#x", i, f, module, vaddr)
		}
	}
	return ""
}
