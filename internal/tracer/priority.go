package tracer

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// readerBoost is by how much the reader is nicer to itself than to others. What it has to do is
// bounded by what the host does, so it takes no more of a busy processor than without, but
// takes it in time: rings hold fractions of a second. auditd does the same by as much.
const readerBoost = 4

// boost binds the goroutine to a thread that is served before others, until the function returned
// is called. Where that is not permitted the thread stays as it is.
func boost() (end func()) {
	runtime.LockOSThread()
	tid := unix.Gettid()
	// The system call tells 20 - nice, which is never negative.
	before, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
	if err != nil || unix.Setpriority(unix.PRIO_PROCESS, tid, 20-before-readerBoost) != nil {
		return runtime.UnlockOSThread
	}
	return func() {
		// One that cannot be made as it was ends with its goroutine.
		if unix.Setpriority(unix.PRIO_PROCESS, tid, 20-before) == nil {
			runtime.UnlockOSThread()
		}
	}
}
