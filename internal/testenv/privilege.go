package testenv

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// requireEnv, set to 1 in CI, turns skips into failures: a test that never runs proves
// nothing.
const requireEnv = "TCPWAITD_REQUIRE"

// Skip ends the test for lack of a feature, and says so. Under TCPWAITD_REQUIRE=1 it
// fails instead, unless allowedSkips lists the feature.
func Skip(tb testing.TB, feature, reason string) {
	tb.Helper()
	message, fail := skipMessage(os.Getenv(requireEnv) == "1", feature, reason)
	if fail {
		tb.Fatal(message)
	}
	tb.Skip(message)
}

func skipMessage(require bool, feature, reason string) (message string, fail bool) {
	message = fmt.Sprintf("needs %s: %s", feature, reason)
	why, allowed := allowedSkips()[feature]
	switch {
	case require && allowed:
		return message + " (allowed: " + why + ")", false
	case require:
		return message + " (" + requireEnv + "=1 forbids to skip it)", true
	default:
		return message, false
	}
}

// RequireRoot skips the test unless it runs as root.
func RequireRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		Skip(tb, "root", fmt.Sprintf("running as uid %d, run the tests as root", os.Geteuid()))
	}
}

// RequireBPF skips the test if err says that this kernel lacks the feature or that we may
// not use it. Any other error, a program the verifier rejects (EACCES, EINVAL) above all,
// fails it: that is our bug.
func RequireBPF(tb testing.TB, feature string, err error) {
	tb.Helper()
	switch missing(err) {
	case "":
		if err != nil {
			tb.Fatalf("%s: %v", feature, err)
		}
	case "permission":
		Skip(tb, feature, fmt.Sprintf("%v; needs root or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN", err))
	default:
		Skip(tb, feature, fmt.Sprintf("%v; this kernel does not have it, see tcpwaitd doctor", err))
	}
}

// enotsupp is the kernel's own ENOTSUPP, which has no name in user space.
const enotsupp = syscall.Errno(524)

// missing tells a lacking feature ("support") and a lacking privilege ("permission") from
// everything else ("").
func missing(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, syscall.EPERM):
		return "permission"
	// syscall.ENOTSUP and its like match errors.ErrUnsupported. cilium/ebpf wraps its own
	// sentinel, which only the tracer may import.
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, enotsupp),
		strings.Contains(err.Error(), "not supported"):
		return "support"
	default:
		return ""
	}
}
