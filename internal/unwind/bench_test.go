//go:build amd64

package unwind

import (
	"os"
	"testing"
)

func BenchmarkRead(b *testing.B) {
	for _, patterns := range [][]string{libc, libcrypto, python, node, libjvm} {
		path := requireFile(b, patterns...)
		b.Run(path, func(b *testing.B) {
			f, err := os.Open(path)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			rows := 0
			b.ReportAllocs()
			for b.Loop() {
				table, err := ReadFile(f, NewRules())
				if err != nil {
					b.Fatal(err)
				}
				rows = len(table.Rows)
			}
			b.ReportMetric(float64(rows), "rows")
		})
	}
}

// BenchmarkUnwind is without reading tables: they are in the cache.
func BenchmarkUnwind(b *testing.B) {
	for _, c := range []struct {
		name, compiler string
		flags          []string
	}{
		{"tables", "gcc", nil},
		{"guessed", "musl-gcc", nil},
	} {
		b.Run(c.name, func(b *testing.B) {
			th := start(b, sysRead, "", build(b, c.compiler, c.flags...), "read")
			p, s := process(b, th.pid), th.snapshot(b)
			u := NewUnwinder(NewCache(NewRules(), cacheRoom), nil)
			frames := 0
			b.ReportAllocs()
			for b.Loop() {
				frames = len(u.Unwind(s, p).Frames)
			}
			b.ReportMetric(float64(frames), "frames")
		})
	}
}
