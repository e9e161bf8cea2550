package symbol

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

func nodeFile(tb testing.TB) string {
	tb.Helper()
	path, err := exec.LookPath("node")
	if err != nil {
		testenv.Skip(tb, "node", "not in PATH")
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		tb.Fatal(err)
	}
	return path
}

// BenchmarkOpen reads the tables of one object: what the first frame of it costs, and how
// much of that is kept.
func BenchmarkOpen(b *testing.B) {
	for name, path := range map[string]func(testing.TB) string{
		"node": nodeFile,
		"libc": libcFile,
		"go":   func(tb testing.TB) string { tb.Helper(); return "/proc/self/exe" },
	} {
		b.Run(name, func(b *testing.B) {
			o := objectAt(b, path(b))
			b.ReportAllocs()
			kept := int64(0)
			for b.Loop() {
				m := &image{path: o.Path}
				m.file.Store(o.File)
				kept = m.load()
			}
			b.ReportMetric(float64(kept), "kept-B")
		})
	}
}

// BenchmarkName names addresses that were not asked for before, and one that was.
func BenchmarkName(b *testing.B) {
	for name, path := range map[string]func(testing.TB) string{
		"node": nodeFile,
		"libc": libcFile,
		"go":   func(tb testing.TB) string { tb.Helper(); return "/proc/self/exe" },
	} {
		o := objectAt(b, path(b))
		s := New(Options{})
		m, ok := s.image(o)
		if !ok {
			b.Fatal("not read")
		}
		var low, size uint64
		for _, seg := range m.elf.segments {
			if seg.exec {
				low, size = seg.off, seg.filesz
			}
		}
		b.Run(name+"/new", func(b *testing.B) {
			b.ReportAllocs()
			i := uint64(0)
			for b.Loop() {
				const prime = 104729
				i += prime
				m.frames(low+i%size, true, nil)
			}
		})
		b.Run(name+"/known", func(b *testing.B) {
			b.ReportAllocs()
			frames := []event.Frame{{Kind: event.FrameFile, Object: o.ID, Addr: low + size/2}}
			for b.Loop() {
				s.Frames(nil, only(o), nil, frames)
			}
		})
	}
}

// BenchmarkLines reads the line tables of the C library's debug package.
func BenchmarkLines(b *testing.B) {
	f := elfAt(b, libcFile(b))
	place := debugPaths(f.buildID, "", "/")[0]
	if _, err := os.Stat(place); err != nil {
		testenv.Skip(b, "libc6-dbg", err.Error())
	}
	file := objectAt(b, place).File
	b.ReportAllocs()
	for b.Loop() {
		info, err := readDebug(file, f, true)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(info.bytes()), "kept-B")
	}
}
