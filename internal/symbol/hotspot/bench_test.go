package hotspot

import (
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// hotMain starts a JVM and returns the frames of its busy thread.
func hotMain(b *testing.B) (*java, []event.Frame) {
	b.Helper()
	j := startJava(b, jdks(b)[0], []string{"-Xbatch"}, nil)
	j.work(b, hot)
	main := j.waitInRead(b)
	return j, j.detect(b).walkAll(b, j)[main]
}

func BenchmarkDetect(b *testing.B) {
	j, _ := hotMain(b)
	p := j.process(b)
	for b.Loop() {
		if _, err := Detect(p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNames is the time of a whole stack.
func BenchmarkNames(b *testing.B) {
	j, frames := hotMain(b)
	r := j.detect(b)
	for name, forget := range map[string]bool{"first": true, "again": false} {
		b.Run(name, func(b *testing.B) {
			names := 0
			for b.Loop() {
				if forget {
					clear(r.methods)
					clear(r.compiled)
				}
				names = 0
				for i := range frames {
					names += len(r.Names(&frames[i]))
				}
			}
			b.ReportMetric(float64(len(frames)), "frames")
			b.ReportMetric(float64(names), "names")
		})
	}
}
