package diagnosis

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Patience is how long the kernel leaves sockets of one network namespace in states that
// they pass through. A program can choose otherwise for its own sockets (TCP_SYNCNT,
// TCP_USER_TIMEOUT, TCP_LINGER2).
type Patience struct {
	synRetries, synLinear, synackRetries, orphanRetries, retries int
	finTimeout, rtoMax                                           time.Duration
}

// The settings that Patience follows from, as Documentation/networking/ip-sysctl.rst of the
// kernel describes them.
const (
	synRetries    = "net.ipv4.tcp_syn_retries"
	synLinear     = "net.ipv4.tcp_syn_linear_timeouts" // since 6.5
	synackRetries = "net.ipv4.tcp_synack_retries"
	orphanRetries = "net.ipv4.tcp_orphan_retries"
	retries2      = "net.ipv4.tcp_retries2"
	finTimeout    = "net.ipv4.tcp_fin_timeout"
	rtoMax        = "net.ipv4.tcp_rto_max_ms" // since 6.15
)

// PatienceSysctls are the names of the settings, all of a network namespace.
func PatienceSysctls() []string {
	return []string{synRetries, synLinear, synackRetries, orphanRetries, retries2, finTimeout, rtoMax}
}

// What is compiled into the kernel (include/net/tcp.h).
const (
	// rtoInit is TCP_TIMEOUT_INIT, the first wait for an answer to a SYN.
	rtoInit = time.Second
	// rtoLeast is TCP_RTO_MIN, on which the kernel bases how long it retransmits.
	rtoLeast = 200 * time.Millisecond
	// defaultRTOMax is TCP_RTO_MAX, compiled in until 6.15.
	defaultRTOMax = 120 * time.Second
	// timeWaitLength is TCP_TIMEWAIT_LEN.
	timeWaitLength = 60 * time.Second
	// aliveRetries take the place of tcp_orphan_retries where that is 0
	// (tcp_orphan_retries() in net/ipv4/tcp_timer.c).
	aliveRetries = 8
	// maxRetries keeps absurd settings from overflowing: with these it is a day already.
	maxRetries = 1 << 10
)

// ParsePatience reads the values of sysctls by name. Those that a kernel does not have yet may
// be missing.
func ParsePatience(values map[string]string) (Patience, error) {
	p := Patience{rtoMax: defaultRTOMax}
	for _, name := range PatienceSysctls() {
		text, ok := values[name]
		if !ok && (name == synLinear || name == rtoMax) {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 31)
		if err != nil {
			return Patience{}, fmt.Errorf("%s: %w", name, err)
		}
		retries := int(min(n, maxRetries))
		switch name {
		case synRetries:
			p.synRetries = retries
		case synLinear:
			p.synLinear = retries
		case synackRetries:
			p.synackRetries = retries
		case orphanRetries:
			p.orphanRetries = retries
		case retries2:
			p.retries = retries
		case finTimeout:
			p.finTimeout = time.Duration(n) * time.Second
		case rtoMax:
			p.rtoMax = max(time.Duration(n)*time.Millisecond, rtoInit)
		}
	}
	return p, nil
}

// Limit is how long the kernel leaves a socket in the state, and by which setting; "compiled
// in" where there is none. orphaned: no program has it any more. 0 means that the kernel has
// no limit of its own.
//
// In FIN_WAIT1, CLOSING and LAST_ACK it is the least time before the kernel gives up when the
// other end acknowledges nothing at all: slower connections get longer.
func (p *Patience) Limit(s event.State, orphaned bool) (limit time.Duration, by string) {
	switch s {
	case event.SynSent:
		return time.Duration(p.synLinear)*rtoInit + p.doubling(p.synRetries), synRetries
	case event.SynRecv, event.NewSynRecv:
		return p.doubling(p.synackRetries), synackRetries
	case event.FinWait1, event.Closing, event.LastAck:
		switch {
		case !orphaned:
			return p.retransmitting(p.retries), retries2
		case p.orphanRetries == 0:
			return p.retransmitting(aliveRetries), orphanRetries
		default:
			return p.retransmitting(p.orphanRetries), orphanRetries
		}
	case event.FinWait2:
		if orphaned {
			return p.finTimeout, finTimeout
		}
		return 0, ""
	case event.TimeWait:
		return timeWaitLength, "compiled in"
	default:
		return 0, ""
	}
}

// doubling adds up a first wait and retries of them, each twice as long as the one before.
func (p *Patience) doubling(retries int) time.Duration {
	var sum time.Duration
	for i, wait := 0, rtoInit; i <= retries; i++ {
		sum += wait
		wait = min(2*wait, p.rtoMax)
	}
	return sum
}

// retransmitting is tcp_model_timeout() of net/ipv4/tcp_timer.c.
func (p *Patience) retransmitting(retries int) time.Duration {
	doublings := bits.Len64(uint64(p.rtoMax/rtoLeast)) - 1 // ilog2
	exponential := (2<<min(retries, doublings) - 1) * rtoLeast
	return exponential + time.Duration(max(0, retries-doublings))*p.rtoMax
}

// Passing are the states that sockets pass through or must not stay in, in the kernel's order.
// A connection may be ESTABLISHED, and a socket LISTEN, as long as it likes.
func Passing() []event.State {
	return []event.State{
		event.SynSent, event.SynRecv, event.FinWait1, event.FinWait2, event.TimeWait, event.Close,
		event.CloseWait, event.LastAck, event.Closing,
	}
}

// CanBeOrphaned reports whether sockets are in this state both with a descriptor (after
// shutdown) and without one (after close).
func CanBeOrphaned(s event.State) bool {
	switch s {
	case event.FinWait1, event.FinWait2, event.LastAck, event.Closing:
		return true
	default:
		return false
	}
}

// Meaning says what it means that sockets stand in a state, and who can do something about it.
func Meaning(s event.State, orphaned bool) string {
	switch s {
	case event.SynSent:
		return "The other end does not answer the request for a connection: it is down, or something on the way drops packets. " +
			"connect() fails at the limit, unless the program has set one of its own. Look at the address and the way to it."
	case event.SynRecv:
		return "Clients asked for a connection, were answered and have not completed it; or the listener waits for their first " +
			"data (TCP_DEFER_ACCEPT). No program has them yet. Look at the clients, and at the way back to them."
	case event.FinWait1, event.LastAck, event.Closing:
		return unacknowledged(s) + kept(orphaned)
	case event.FinWait2:
		if orphaned {
			return "Closed here, and the other end knows, but does not close: there it is CLOSE_WAIT. " +
				"The kernel removes them by itself; to be fixed at the other end."
		}
		return "A program here has ended its side with shutdown() and keeps the socket; the other end knows, but does not close: " +
			"there it is CLOSE_WAIT. There is no limit: it lasts until the other end closes or the program here calls close()."
	case event.TimeWait:
		return "Closed at both ends, here first. The kernel removes them by itself; no program has them."
	case event.Close:
		return "Shut down both ways, but a program has a descriptor open: only its close() frees it."
	case event.CloseWait:
		return "The other end has closed, the program here has not. There is no limit: only the program can end it. " +
			"tcpwaitd diagnose says which one, and why."
	default:
		return ""
	}
}

func unacknowledged(s event.State) string {
	const missing = " the other end does not acknowledge it: it is gone, something on the way drops packets, or it does not " +
		"take the data that was sent before (Send-Q above 1). "
	switch s {
	case event.FinWait1:
		return "This end has ended its side first, and" + missing
	case event.LastAck:
		return "The other end has closed, then this one has, and" + missing
	default:
		return "Both ends have ended their sides at the same time, and of this end" + missing
	}
}

func kept(orphaned bool) string {
	const until = "The kernel sends again, and gives up after the limit if the other end acknowledges nothing more until then."
	if orphaned {
		return "No program has them. " + until
	}
	return "A program keeps the socket. " + until
}
