package v8

import "testing"

// BenchmarkName names the functions of a blocked thread, over and over.
func BenchmarkName(b *testing.B) {
	p, _ := start(b, nodes(b)[0])
	r, err := Detect(p)
	if err != nil {
		b.Fatal(err)
	}
	frames := walk(b, r, p)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Name(&frames[i%len(frames)])
	}
}

func BenchmarkDetect(b *testing.B) {
	p, _ := start(b, nodes(b)[0])
	b.ReportAllocs()
	for b.Loop() {
		if r, err := Detect(p); r == nil {
			b.Fatal(err)
		}
	}
}
