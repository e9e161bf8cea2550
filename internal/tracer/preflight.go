package tracer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The cures a user can apply, worded once.
const (
	cureRoot     = "run it as root, or with the capabilities BPF, PERFMON, NET_ADMIN, SYS_PTRACE and SYS_ADMIN"
	cureKernel   = "use Linux 5.15 or newer"
	cureBTF      = "use a kernel built with CONFIG_DEBUG_INFO_BTF=y (all current distributions have it)"
	cureLockdown = "boot without lockdown=confidentiality (integrity is enough to protect the kernel's code)"
	cureProc     = "mount procfs, or in a container share the host's"
)

// The oldest kernel that has every required hook.
const (
	minMajor = 5
	minMinor = 15
)

const btfPath = "/sys/kernel/btf/vmlinux"

// needed are the capabilities without which nothing works, by number
// (include/uapi/linux/capability.h). Either all of them or SYS_ADMIN alone up to the point
// where descriptors of others are read.
var needed = []struct {
	bit  uint
	name string
}{
	{unix.CAP_SYS_ADMIN, "SYS_ADMIN (network namespaces)"},
	{unix.CAP_BPF, "BPF"},
	{unix.CAP_PERFMON, "PERFMON"},
	{unix.CAP_NET_ADMIN, "NET_ADMIN"},
}

// preflight finds the reason, if the host cannot be traced at all, before the kernel
// gives a less telling one.
func preflight(proc string) error {
	checks := []func(string) error{checkKernel, checkProc, checkCapabilities, checkBTF, checkLockdown}
	for _, check := range checks {
		if err := check(proc); err != nil {
			return err
		}
	}
	return nil
}

// Release returns the kernel's release string and machine name.
func Release() (release, machine string) {
	var u unix.Utsname
	// Cannot fail with a valid pointer.
	_ = unix.Uname(&u)
	return unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
}

func checkKernel(string) error {
	release, _ := Release()
	major, minor, ok := parseRelease(release)
	if ok && (major < minMajor || major == minMajor && minor < minMinor) {
		return &CannotRunError{
			Cause: fmt.Sprintf("Linux %s is too old: socket iterators and records need %d.%d", release, minMajor, minMinor),
			Cure:  cureKernel,
		}
	}
	return nil
}

func parseRelease(release string) (major, minor int, ok bool) {
	first, rest, found := strings.Cut(release, ".")
	second, _, _ := strings.Cut(rest, ".")
	second, _, _ = strings.Cut(second, "-")
	major, err1 := strconv.Atoi(first)
	minor, err2 := strconv.Atoi(second)
	return major, minor, found && err1 == nil && err2 == nil
}

func checkProc(proc string) error {
	if _, err := os.Stat(filepath.Join(proc, "self/status")); err != nil {
		return &CannotRunError{Cause: "procfs cannot be read", Cure: cureProc, Err: err}
	}
	return nil
}

func checkCapabilities(proc string) error {
	effective, err := effectiveCapabilities(proc)
	if err != nil {
		return &CannotRunError{Cause: "own capabilities cannot be read", Cure: cureProc, Err: err}
	}
	var missing []string
	for _, c := range needed {
		if effective&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &CannotRunError{Cause: "missing privilege: " + strings.Join(missing, ", "), Cure: cureRoot}
}

func effectiveCapabilities(proc string) (uint64, error) {
	status, err := os.ReadFile(filepath.Join(proc, "self/status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	return 0, errors.New("no CapEff line")
}

func checkBTF(string) error {
	if _, err := os.Stat(btfPath); err != nil {
		return &CannotRunError{Cause: "the kernel offers no BTF at " + btfPath, Cure: cureBTF, Err: err}
	}
	return nil
}

func checkLockdown(string) error {
	if mode := Lockdown(); mode == "confidentiality" {
		return &CannotRunError{Cause: "kernel lockdown is in confidentiality mode, which forbids BPF to read kernel memory", Cure: cureLockdown}
	}
	return nil
}

// Lockdown returns the active mode: none, integrity, confidentiality, "" where the kernel
// does not say.
func Lockdown() string {
	text, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(text), "[")
	mode, _, _ := strings.Cut(after, "]")
	return mode
}

// cannotLoad turns an error of loading into the host's reason.
func cannotLoad(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return &CannotRunError{Cause: "the kernel refuses to load BPF programs", Cure: cureRoot, Err: err}
	}
	return &CannotRunError{Cause: "BPF programs cannot be loaded", Cure: "see tcpwaitd doctor for what this kernel allows", Err: err}
}
