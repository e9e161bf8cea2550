package tracer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Check is one thing the host must offer, and its cure where it does not.
type Check struct {
	Name   string
	OK     bool
	Detail string
	Cure   string
}

// Checks looks at the host without loading anything. It needs no privilege; all checks
// run, whatever the others say.
func Checks(proc string) []Check {
	release, machine := Release()
	lockdown := Lockdown()
	if lockdown == "" {
		lockdown = "not in this kernel"
	}
	return []Check{
		check("kernel", fmt.Sprintf("Linux %s, %s", release, machine), checkKernel(proc)),
		check("btf", btfPath, checkBTF(proc)),
		check("capabilities", "BPF, PERFMON, NET_ADMIN, SYS_ADMIN", checkCapabilities(proc)),
		check("lockdown", lockdown, checkLockdown(proc)),
		check("procfs", proc, checkProc(proc)),
	}
}

func check(name, detail string, err error) Check {
	var refused *CannotRunError
	if errors.As(err, &refused) {
		return Check{Name: name, Detail: refused.Cause, Cure: refused.Cure}
	}
	return Check{Name: name, OK: true, Detail: detail}
}

// Tracefs returns where tracefs is mounted, "" nowhere. Only the syscall-exit hooks need it.
func Tracefs() string {
	for _, dir := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		if _, err := os.Stat(filepath.Join(dir, "events")); err == nil {
			return dir
		}
	}
	return ""
}

// JIT says whether BPF programs are compiled: net.core.bpf_jit_enable, "" unknown.
func JIT(proc string) string {
	text, err := os.ReadFile(filepath.Join(proc, "sys/net/core/bpf_jit_enable"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
