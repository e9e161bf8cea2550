package testenv

// allowedSkips are the features that may be missing even where TCPWAITD_REQUIRE=1 turns
// every other skip into a failure, each with the reason. Keep it short.
func allowedSkips() map[string]string {
	return map[string]string{
		"ss":    "a cross-check with another tool; VM guests have none",
		"mptcp": "a kernel option (CONFIG_MPTCP, net.mptcp.enabled)",
		"ipv6":  "a kernel option (CONFIG_IPV6)",
		"tun":   "a device that containers need not have (/dev/net/tun)",
		"ktls":  "a kernel option (CONFIG_TLS)",

		"32-bit programs": "some virtual machines run none, whatever the kernel's options",

		"mini-socket hooks": "fentry and fexit, which some kernels refuse; VM guests of amd64 have them",

		"unwind tables":   "an amd64 kernel of 5.17 or newer; others have a test of their own way",
		"guest programs":  "VM guests have neither compilers nor servers",
		"guest time":      "VM guests emulate their processor; what is not about hooks is tried outside",
		"virtual threads": "JDK 21 has them, Debian's 17 has not",
		"python3.12":      "Debian 12 has 3.11; internal/symbol/python fetches the others",
		"python3.13":      "as python3.12",
		"trampoline":      "glibc's way to return from a signal handler; other C libraries differ",
	}
}
