package owner

import (
	"fmt"
	"os"
	"syscall"
)

// procPidInitIno is the inode of the first pid namespace: PROC_PID_INIT_INO in the
// kernel's include/linux/proc_ns.h, a fixed number since 3.8 and since 6.18 part of the
// user-space interface (PID_NS_INIT_INO in include/uapi/linux/nsfs.h).
const procPidInitIno = 0xEFFFFFFC

// HostPidNS reports whether this process lives in the first pid namespace. Elsewhere the
// pids the kernel reports are not the names that /proc here gives.
func HostPidNS() (bool, error) {
	info, err := os.Stat("/proc/self/ns/pid")
	if err != nil {
		return false, fmt.Errorf("read own pid namespace: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false, fmt.Errorf("read own pid namespace: no inode in %T", info.Sys())
	}
	return st.Ino == procPidInitIno, nil
}
