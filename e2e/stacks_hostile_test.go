package e2e

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// hostile: what a process can put where the agent looks. The agent is shared with the
// other tests and must answer them meanwhile.
func (l *lab) hostile(t *testing.T) {
	t.Helper()
	t.Run("corrupt ELF", func(t *testing.T) {
		t.Parallel()
		l.corruptELF(t)
	})
	t.Run("perf map", func(t *testing.T) {
		t.Parallel()
		l.perfMaps(t)
	})
	t.Run("symbol file", func(t *testing.T) {
		t.Parallel()
		l.symbolFiles(t)
	})
}

// damage overwrites parts of an ELF file that the kernel does not need to run it.
type damage struct {
	name string
	do   func(file []byte, f *elf.File)
}

// fill overwrites a section.
func fill(file []byte, f *elf.File, section string, with byte) {
	s := f.Section(section)
	part := file[s.Offset : s.Offset+s.Size]
	for i := range part {
		part[i] = with
	}
}

// Offsets in the header of a 64-bit ELF file.
const (
	ehShoff     = 40
	ehShnum     = 60
	shdrSize    = 64
	shdrSizeOff = 32
)

var damages = []damage{
	{"eh_frame of ones", func(file []byte, f *elf.File) { fill(file, f, ".eh_frame", 0xff) }},
	{"eh_frame of zeros", func(file []byte, f *elf.File) { fill(file, f, ".eh_frame", 0) }},
	{"eh_frame_hdr of ones", func(file []byte, f *elf.File) { fill(file, f, ".eh_frame_hdr", 0xff) }},
	{"symbols of ones", func(file []byte, f *elf.File) { fill(file, f, ".symtab", 0xff) }},
	{"no end of strings", func(file []byte, f *elf.File) { fill(file, f, ".strtab", 'A') }},
	{"sections beyond the file", func(file []byte, _ *elf.File) { copy(file[ehShoff:], "\xff\xff\xff\xff\xff\xff\xff\x7f") }},
	{"too many sections", func(file []byte, _ *elf.File) { copy(file[ehShnum:], "\xff\xff") }},
	{"sections of any size", func(file []byte, f *elf.File) {
		table := len(file) - len(f.Sections)*shdrSize // where the linker puts it
		for i := range f.Sections {
			copy(file[table+i*shdrSize+shdrSizeOff:], "\xff\xff\xff\xff\xff\xff\xff\x7f")
		}
	}},
}

// corruptELF: names and outer frames may be missing, but what is called complete is so.
func (l *lab) corruptELF(t *testing.T) {
	t.Helper()
	plain := l.compile(t, "gcc", "server.c", "server")
	x := l.startServer(t)
	truth := eventually(t, l.talks(t, x, "hi\n"), serverWants()...)
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			file, err := os.ReadFile(plain)
			if err != nil {
				t.Fatal(err)
			}
			f, err := elf.Open(plain)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			d.do(file, f)
			path := filepath.Join(t.TempDir(), "server")
			if err := testenv.WriteProgram(path, file); err != nil {
				t.Fatal(err)
			}
			x := l.serve(t, path, "PORT")
			for range attempts {
				got := l.talk(t, x.port, "hi\n")
				for _, slot := range []string{"open", "eof", "close"} {
					checkBelieved(t, slot, got[slot], truth[slot])
				}
				if t.Failed() {
					return
				}
			}
		})
	}
}

// checkBelieved compares with the stack of the same program undamaged.
func checkBelieved(t *testing.T, slot string, got, truth *stack) {
	t.Helper()
	if got == nil {
		t.Errorf("no %s stack at all", slot)
		return
	}
	if got.Quality == "complete" && len(got.Frames) != len(truth.Frames) {
		t.Errorf("%s: called complete\n%vtruth\n%v", slot, got, truth)
		return
	}
	for i := range got.Frames[:min(len(got.Frames), len(truth.Frames))] {
		f, g := &got.Frames[i], &truth.Frames[i]
		moved := got.Quality == "complete" && f.Offset != g.Offset
		if moved || got.Quality != "guessed" && f.Function != "" && f.Function != g.Function {
			t.Errorf("%s: frame %d of a %s stack is wrong\n%vtruth\n%v", slot, i, got.Quality, got, truth)
			return
		}
	}
}

// perfMaps: the names of code without a file are in a file that the process names.
func (l *lab) perfMaps(t *testing.T) {
	t.Helper()
	path := l.compile(t, "gcc", "jit.c", "jit")
	// Nobody vouches for the frame pointers of code that nobody knows.
	named := want{slot: "close", quality: "fp-only", frames: append([]string{"close", "drop_client", "jitted::thunk", "serve_one", "main"}, toStart...)}
	nameless := named
	nameless.frames = slices.Clone(named.frames)
	nameless.frames[2] = "" // and no module either
	for name, tt := range map[string]struct {
		// make is a shell command that makes $map.
		make string
		want want
	}{
		"good":             {`: >$map`, named},
		"none":             {`:`, nameless},
		"fifo":             {`mkfifo $map`, nameless},
		"endless":          {`ln -s /dev/zero $map`, nameless},
		"large and sparse": {`truncate -s 1T $map 2>/dev/null || truncate -s 1G $map`, nameless},
		"directory":        {`mkdir $map`, nameless},
		"nonsense":         {`printf 'zz zz \377\nffffffffffffffff ffffffffffffffff \033[31m\n0 0\n\n1' >$map`, nameless},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port := l.port()
			// The shell becomes the program: the process id is known before it starts.
			cmd := exec.Command("sh", "-c", `map=/tmp/perf-$$.map; `+tt.make+` && exec "$0" "$1"`, path, fmt.Sprint(port))
			x := l.serveCommand(t, cmd, port)
			t.Cleanup(func() { removePerfMap(t, x) })
			if name == "good" {
				x.awaitOutput(t, "\n")
				line := strings.TrimSpace(x.output.String()) + " jitted::thunk\n"
				file := fmt.Sprintf("/tmp/perf-%d.map", cmd.Process.Pid)
				if err := os.WriteFile(file, []byte(line), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, l.talks(t, x, ""), tt.want)
		})
	}
}

// symbolFiles: what stands where a container should have libc's symbols.
func (l *lab) symbolFiles(t *testing.T) {
	t.Helper()
	tool(t, "objcopy")
	const planted = "not_of_this_container"
	for name, plant := range map[string]func(t *testing.T, symbols, path string){
		"fifo": func(t *testing.T, _, path string) {
			t.Helper()
			if err := unix.Mkfifo(path, 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"endless": func(t *testing.T, _, path string) {
			t.Helper()
			if err := os.Symlink("/dev/zero", path); err != nil {
				t.Fatal(err)
			}
		},
		// A link out of the container leads to a file of the host, which must not be read.
		"way out": func(t *testing.T, symbols, path string) {
			t.Helper()
			outside := filepath.Join(l.dir, "outside.debug")
			if err := command("objcopy", "--redefine-sym", "__libc_start_call_main="+planted, symbols, outside); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(outside, path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := l.startContainer(t, enterPivot, plant)
			got := eventually(t, l.talks(t, x, "hi\n"), want{slot: "open", frames: serverAccept}, want{slot: "close", frames: serverClose})
			if strings.Contains(got.String(), planted) {
				t.Errorf("a name from a file of the host:\n%v", got)
			}
		})
	}
}
