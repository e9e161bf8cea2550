package symbol

import (
	"debug/dwarf"
	"debug/elf"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// TestLinesAgainstLibrary compares with debug/dwarf at every byte of the program's code.
func TestLinesAgainstLibrary(t *testing.T) {
	absolute, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]string{
		"5":             {"-gdwarf-5"},
		"4":             {"-gdwarf-4"},
		"3":             {"-gdwarf-3", "-gstrict-dwarf"},
		"64-bit":        {"-gdwarf-5", "-gdwarf64"},
		"compressed":    {"-gdwarf-5", "-gz=zlib"},
		"sections":      {"-gdwarf-5", "-ffunction-sections", "-Wl,--gc-sections"},
		"sections of 4": {"-gdwarf-4", "-ffunction-sections", "-Wl,--gc-sections"},
		"static":        {"-gdwarf-5", "-static"},
		"from there":    {"-gdwarf-4", "-I", absolute},
	} {
		t.Run(name, func(t *testing.T) {
			path := compileC(t, "server.c", flags...)
			f := elfAt(t, path)
			lines, err := readLines(f, f.executable)
			if err != nil {
				t.Fatal(err)
			}
			compared := 0
			for addr, want := range libraryLines(t, path) {
				file, line := lines.find(addr)
				// Before DWARF 5 the directory of the compilation is not in the line table; of DWARF 5
				// the library leaves it out.
				theirs := want.File.Name
				same := file == theirs || strings.HasSuffix(theirs, "/"+file) || strings.HasSuffix(file, "/"+theirs)
				if line != want.Line || line != 0 && !same {
					t.Errorf("%#x: got %s:%d, want %s:%d", addr, file, line, theirs, want.Line)
				}
				compared++
			}
			if compared < 100 {
				t.Errorf("only %d addresses compared", compared)
			}
		})
	}
}

// libraryLines are the lines of all addresses in the functions of testdata/server.c.
func libraryLines(tb testing.TB, path string) map[uint64]dwarf.LineEntry {
	tb.Helper()
	f, err := elf.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	data, err := f.DWARF()
	if err != nil {
		tb.Fatal(err)
	}
	var rows [][2]dwarf.LineEntry // a row and its successor
	for units := data.Reader(); ; units.SkipChildren() {
		unit, err := units.Next()
		if err != nil {
			tb.Fatal(err)
		}
		if unit == nil {
			break
		}
		rows = append(rows, rowsOf(tb, data, unit)...)
	}
	found := map[uint64]dwarf.LineEntry{}
	symbols := symbolsOf(tb, path)
	for _, name := range serverFunctions {
		sym := symbols[name]
		for _, r := range rows {
			for addr := max(r[0].Address, sym.Value); addr < min(r[1].Address, sym.Value+sym.Size); addr++ {
				found[addr] = r[0]
			}
		}
	}
	return found
}

func rowsOf(tb testing.TB, data *dwarf.Data, unit *dwarf.Entry) (rows [][2]dwarf.LineEntry) {
	tb.Helper()
	lines, err := data.LineReader(unit)
	if err != nil {
		tb.Fatal(err)
	}
	if lines == nil {
		return nil
	}
	last := dwarf.LineEntry{EndSequence: true}
	for {
		var e dwarf.LineEntry
		if err := lines.Next(&e); err != nil {
			if !errors.Is(err, io.EOF) {
				tb.Fatal(err)
			}
			return rows
		}
		if !last.EndSequence {
			rows = append(rows, [2]dwarf.LineEntry{last, e})
		}
		last = e
	}
}

// TestLinesOnRequest: of the program itself, and of its debug file.
func TestLinesOnRequest(t *testing.T) {
	p := separate(t, "-g")
	dir := t.TempDir()
	put(t, p.debug, p.byBuildID(dir))
	process := startIdle(t, dir)
	sym := symbolsOf(t, p.original)["do_accept"]
	for _, path := range []string{p.original, p.program} {
		o := objectAt(t, path)
		got := nameAt(t, New(Options{Lines: true}), process, o, sym.Value)
		if got[0].Function != "do_accept" || filepath.Base(got[0].File) != "server.c" || got[0].Line < 11 || got[0].Line > 17 {
			t.Errorf("%s: got %+v", path, got)
		}
		got = nameAt(t, New(Options{}), process, o, sym.Value)
		if got[0].Function != "do_accept" || got[0].File != "" || got[0].Line != 0 {
			t.Errorf("%s without lines: got %+v", path, got)
		}
	}
}

// TestLinesOfLibc: a large file, compressed.
func TestLinesOfLibc(t *testing.T) {
	path := libcFile(t)
	place := debugPaths(elfAt(t, path).buildID, "", path)[0]
	if _, err := os.Stat(place); err != nil {
		testenv.Skip(t, "libc6-dbg", err.Error())
	}
	sym := symbolsOf(t, path)["accept4"]
	got := nameAt(t, New(Options{Lines: true}), nil, objectAt(t, path), sym.Value+1)
	if got[0].Function != "accept4" || !strings.HasSuffix(got[0].File, "sysdeps/unix/sysv/linux/accept4.c") || got[0].Line == 0 {
		t.Errorf("got %+v", got)
	}
}

func TestMalformedLines(t *testing.T) {
	everywhere := func(uint64) bool { return true }
	for name, raw := range map[string]string{
		"empty":           "",
		"short":           "\x10\x00\x00",
		"length too long": "\xff\x00\x00\x00\x05\x00",
		"header too long": "\x0a\x00\x00\x00\x04\x00\xff\xff\x00\x00\x01\x01\x01\x01",
	} {
		table := &lineTable{line: []byte(raw)}
		if u, err := table.unit(0); err == nil {
			t.Errorf("%s: got %+v", name, u)
		}
	}
	// A table of 2^60 directories without fields.
	b := cursor{data: []byte("\x00\xff\xff\xff\xff\xff\xff\xff\xff\x0f")}
	if e := b.lineEntries(); e.count != 0 {
		t.Errorf("%d entries of nothing", e.count)
	}
	f := elfAt(t, compileC(t, "server.c"))
	if _, err := readLines(f, everywhere); !errors.Is(err, errNoSection) {
		t.Errorf("without debug information: got %v", err)
	}
}
