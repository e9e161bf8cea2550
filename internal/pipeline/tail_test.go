package pipeline

import (
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/report"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// cgroupOfHost is the id of the root of cgroup2, 0 where it is not mounted.
func cgroupOfHost() uint64 {
	for _, at := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if info, err := os.Stat(at); err == nil {
			return info.Sys().(*syscall.Stat_t).Ino
		}
	}
	return 0
}

// BenchmarkTail is all that tail does for a transition after it was decoded.
func BenchmarkTail(b *testing.B) {
	events, group := testenv.Churn(1023), cgroupOfHost()
	for i := range events {
		events[i].Cgroup = group
	}
	for _, f := range []report.Format{report.Table, report.JSON} {
		b.Run(string(f), func(b *testing.B) {
			e, err := New(Config{Now: time.Now})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			out, err := report.NewTail(io.Discard, report.Options{Format: f})
			if err != nil {
				b.Fatal(err)
			}
			out.Clock(event.Clock{Wall: time.Now()})
			tl := tail{engine: e, watched: &watched{}, query: &Query{Filter: &filter.Filter{}}, to: out, cgroups: f == report.JSON}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := tl.transition(&events[i%len(events)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
