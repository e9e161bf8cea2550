package ports

import "strconv"

// Misleading is a setting that people turn to against CLOSE_WAIT or TIME_WAIT.
type Misleading struct {
	Name string
	// Default is what the kernel sets, "" where that depends on the host: see DefaultOf.
	Default string
	// Gone: the kernel has it no more; what a file says of it does nothing.
	Gone bool
	// Note says what it does, and what not.
	Note string
}

const (
	// EstablishedTable has the size of the table of connections, since 6.1. It is negative where
	// a namespace shares the host's.
	EstablishedTable = "net.ipv4.tcp_ehash_entries"

	// defaultFinTimeout is TCP_FIN_TIMEOUT (include/net/tcp.h).
	defaultFinTimeout = TimeWaitLasts
)

// MisleadingSettings are those worth a word where they are changed. The defaults are of
// tcp_sk_init (net/ipv4/tcp_ipv4.c); that of tcp_tw_reuse is since 4.19.
func MisleadingSettings() []Misleading {
	const keepalive = "keepalive finds dead peers; in CLOSE_WAIT the peer answers, or has forgotten the connection and resets it, and either way the descriptor stays open"
	return []Misleading{
		{Name: FinTimeout, Default: "60", Note: "bounds FIN_WAIT2 without a process; neither TIME_WAIT (60 s, compiled in) nor CLOSE_WAIT"},
		{Name: TimeWaitReuse, Default: "2", Note: "lets the end that connects take ports over from TIME_WAIT, if both ends use timestamps; nothing for a server, nor for CLOSE_WAIT"},
		{Name: "net.ipv4.tcp_tw_recycle", Gone: true, Note: "gone since Linux 4.12: it broke clients behind NAT"},
		{Name: TimeWaitLimit, Note: "lowering it leaves TIME_WAIT out, and with it the guard against old segments in new connections; nothing for CLOSE_WAIT"},
		{Name: Timestamps, Default: "1", Note: "without timestamps no port can be taken over from TIME_WAIT, and nothing guards against wrapped sequence numbers"},
		{Name: "net.ipv4.tcp_keepalive_time", Default: "7200", Note: keepalive},
		{Name: "net.ipv4.tcp_keepalive_intvl", Default: "75", Note: keepalive},
		{Name: "net.ipv4.tcp_keepalive_probes", Default: "9", Note: keepalive},
		{Name: "net.ipv4.tcp_orphan_retries", Default: "0", Note: "for sockets that their process has closed; in CLOSE_WAIT it has not"},
	}
}

// DefaultOf is the setting's default in a namespace where read gives the values of settings,
// "" unknown. The limit of TIME_WAIT is half the table of connections (tcp_set_hashinfo).
func (m *Misleading) DefaultOf(read func(name string) (string, bool)) string {
	if m.Name != TimeWaitLimit {
		return m.Default
	}
	text, ok := read(EstablishedTable)
	n, err := strconv.Atoi(text)
	if !ok || err != nil {
		return ""
	}
	return strconv.Itoa(max(n, -n) / 2)
}

// Set reports whether somebody has changed the setting in the direction that misleads.
func (m *Misleading) Set(value, standard string) bool {
	switch {
	case standard == "":
		return false
	case m.Name == Timestamps:
		return value == "0"
	case m.Name == TimeWaitLimit:
		now, err := strconv.Atoi(value)
		was, failed := strconv.Atoi(standard)
		return err == nil && failed == nil && now < was
	default:
		return value != standard
	}
}
