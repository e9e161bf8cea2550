package v8

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol/python/proctest"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// told is what testdata/chain.js says of itself.
type told struct {
	Pid    int
	Frames []struct{ Function, File string }
}

func (w *told) frames() []symbol.Frame {
	var all []symbol.Frame
	for _, f := range w.Frames {
		if f.Function == "" {
			f.Function = anonymous
		}
		all = append(all, symbol.Frame{Function: f.Function, File: f.File, Kind: symbol.JS})
	}
	return all
}

// nodes returns the Node.js programs of this machine. More can be given in
// TCPWAITD_TEST_NODES, like PATH.
func nodes(tb testing.TB) []string {
	tb.Helper()
	found := filepath.SplitList(os.Getenv("TCPWAITD_TEST_NODES"))
	for _, name := range []string{"node", "nodejs"} {
		if path, err := exec.LookPath(name); err == nil {
			if path, err = filepath.EvalSymlinks(path); err == nil && !slices.Contains(found, path) {
				found = append(found, path)
			}
		}
	}
	if len(found) == 0 {
		testenv.Skip(tb, "node", "no node in PATH")
	}
	return found
}

// start runs testdata/chain.js until the test ends.
func start(tb testing.TB, node string, flags ...string) (*object.Process, told) {
	tb.Helper()
	fifo := filepath.Join(tb.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(tb.Context(), node, append(flags, "testdata/chain.js", fifo)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		tb.Fatalf("node said nothing: %v", err)
	}
	var said told
	if err := json.Unmarshal(line, &said); err != nil {
		tb.Fatalf("%s: %v", line, err)
	}
	return proctest.Process(tb, said.Pid), said
}

// stackPointer waits until the main thread blocks in read(2), and returns its stack pointer.
func stackPointer(tb testing.TB, pid uint32) uint64 {
	tb.Helper()
	for range 500 {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
		if err != nil {
			tb.Fatal(err)
		}
		// The number of the system call, 6 arguments, the stack pointer, the instruction.
		fields := strings.Fields(string(text))
		var sp uint64
		if len(fields) == 9 && fields[0] == fmt.Sprint(unix.SYS_READ) {
			if _, err := fmt.Sscanf(fields[7], "0x%x", &sp); err != nil {
				tb.Fatal(err)
			}
			return sp
		}
		time.Sleep(10 * time.Millisecond)
	}
	tb.Fatal("node does not read")
	return 0
}

// stackWords bounds the part of the stack that is looked at.
const stackWords = 1 << 13

// stack is a copy of a thread's stack from its stack pointer on.
type stack struct {
	sp   uint64
	data []byte
}

func (s *stack) has(at uint64) bool {
	return at >= s.sp && at-s.sp < uint64(len(s.data)-wordSize)
}

func (s *stack) word(at uint64) uint64 {
	if !s.has(at) {
		return 0
	}
	return binary.LittleEndian.Uint64(s.data[at-s.sp:])
}

// frames follows frame pointers as the kernel side does: Aux is what is where frames of
// JavaScript have the function, if they have a context and not a marker before it.
func (s *stack) frames(fp uint64) []event.Frame {
	var all []event.Frame
	for last := uint64(0); fp > last && s.has(fp); last, fp = fp, s.word(fp) {
		f := event.Frame{Kind: event.FrameAnon, Addr: s.word(fp + 8), Return: true}
		if s.word(fp-8)&1 == 1 {
			f.Aux = s.word(fp - 16)
		}
		all = append(all, f)
	}
	return all
}

// walk returns the frames of the main thread. The C++ code below JavaScript may have no frame
// pointers: of all chains that begin somewhere on the stack it is the one with most functions.
func walk(tb testing.TB, r *Runtime, p *object.Process) []event.Frame {
	tb.Helper()
	s := stack{sp: stackPointer(tb, p.Pid), data: make([]byte, stackWords*wordSize)}
	n, _ := p.Memory.ReadAt(s.data, s.sp)
	s.data = s.data[:n]
	var best []event.Frame
	most := 0
	for at := s.sp; s.has(at); at += wordSize {
		if s.word(at) <= at {
			continue
		}
		frames := s.frames(s.word(at))
		if functions := len(named(r, frames)); functions > most {
			best, most = frames, functions
		}
	}
	if most == 0 {
		tb.Fatal("no function of JavaScript on the stack")
	}
	return best
}

func named(r *Runtime, frames []event.Frame) []symbol.Frame {
	var all []symbol.Frame
	for i := range frames {
		if f, ok := r.Name(&frames[i]); ok {
			all = append(all, f)
		}
	}
	return all
}

// TestFrames compares the functions on the stack with what V8 says itself.
func TestFrames(t *testing.T) {
	for _, node := range nodes(t) {
		for _, flags := range [][]string{nil, {"--no-opt", "--always-sparkplug"}} {
			t.Run(strings.Join(append(flags, strings.ReplaceAll(node, "/", "_")), " "), func(t *testing.T) {
				p, said := start(t, node, flags...)
				r, err := Detect(p)
				if err != nil || r == nil {
					t.Fatalf("Detect: %v, %v", r, err)
				}
				got := named(r, walk(t, r, p))
				checkFrames(t, got, said.frames())
				// From memory they are the same.
				if again := named(r, walk(t, r, p)); !slices.Equal(got, again) {
					t.Errorf("named again: %v", cmp.Diff(got, again))
				}
			})
		}
	}
}

func checkFrames(t *testing.T, got, want []symbol.Frame) {
	t.Helper()
	// What innermost called since is not in what it said.
	for i := range got {
		if got[i].Function == "innermost" {
			if got[0].Function != "readSync" || !strings.HasSuffix(got[0].File, "fs") {
				t.Errorf("the innermost function is %+v", got[0])
			}
			got = got[i:]
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("functions (-V8 +read):\n%s", diff)
	}
}

func TestDetectNone(t *testing.T) {
	p := proctest.Process(t, os.Getpid())
	if r, err := Detect(p); r != nil || err != nil {
		t.Errorf("Detect of a Go program: %v, %v", r, err)
	}
}
