package testenv

// allowedSkips are the features that may be missing even where TCPWAITD_REQUIRE=1 turns
// every other skip into a failure, each with the reason. Keep it short.
func allowedSkips() map[string]string {
	return map[string]string{
		"ss":    "a cross-check with another tool; VM guests have none",
		"mptcp": "a kernel option (CONFIG_MPTCP, net.mptcp.enabled)",
		"ipv6":  "a kernel option (CONFIG_IPV6)",
	}
}
