package tracer

import (
	"context"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// niceOfThread is that of the thread that calls.
func niceOfThread(t *testing.T) int {
	t.Helper()
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid())
	if err != nil {
		t.Fatal(err)
	}
	return 20 - raw
}

// The reader is served before others as long as it reads, and no longer.
func TestReaderComesFirst(t *testing.T) {
	tr := openIn(t, testenv.NewNetns(t), Config{Live: true})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, meanwhile := niceOfThread(t), 0
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := tr.Run(ctx, nil, func() error {
		meanwhile = niceOfThread(t)
		cancel()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if after := niceOfThread(t); meanwhile != before-readerBoost || after != before {
		t.Errorf("nice was %d, %d while it read, and %d after that", before, meanwhile, after)
	}
}
