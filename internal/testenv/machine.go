package testenv

import "github.com/tcpwaitd/tcpwaitd/internal/event"

// Arrow is a change of state that Linux makes.
type Arrow struct {
	Old, New event.State
	// Label says in a few words what makes it happen.
	Label string
	// Kernel is where: file:function.
	Kernel string
	// Unseen: no tracepoint tells, for it is a mini-socket's.
	Unseen bool
}

// Machine are the arrows of the pictures in docs/states.md. TestStateMachine in e2e makes each
// of them happen, and no other.
func Machine() []Arrow {
	const (
		input  = "net/ipv4/tcp_input.c:"
		minis  = "net/ipv4/tcp_minisocks.c:"
		tcp    = "net/ipv4/tcp.c:"
		timer  = "net/ipv4/inet_timewait_sock.c:inet_twsk_kill"
		normal = "tcp_rcv_state_process"
	)
	return []Arrow{
		{event.Close, event.Listen, "listen()", "net/ipv4/inet_connection_sock.c:inet_csk_listen_start", false},
		{event.Listen, event.Close, "close()", tcp + "__tcp_close", false},
		{event.Close, event.SynSent, "connect()", "net/ipv4/tcp_ipv4.c:tcp_v4_connect", false},
		{event.SynSent, event.Established, "SYN+ACK", input + "tcp_finish_connect", false},
		{event.SynSent, event.SynRecv, "SYN: both connect", input + "tcp_rcv_synsent_state_process", false},
		{event.SynSent, event.Close, "refused, no answer, no port", input + "tcp_reset", false},
		{event.Listen, event.SynRecv, "SYN", "net/ipv4/inet_connection_sock.c:inet_csk_clone_lock", false},
		{event.SynRecv, event.Established, "ACK", input + normal, false},
		{event.Established, event.FinWait1, "close(): we are first", tcp + "tcp_close_state", false},
		{event.Established, event.CloseWait, "FIN: the peer is first", input + "tcp_fin", false},
		{event.Established, event.Close, "reset", input + "tcp_reset", false},
		{event.FinWait1, event.FinWait2, "ACK of our FIN", input + normal, false},
		{event.FinWait1, event.Closing, "FIN: both close", input + "tcp_fin", false},
		{event.FinWait1, event.Close, "reset", input + "tcp_reset", false},
		{event.FinWait2, event.TimeWait, "FIN", minis + "tcp_time_wait", false},
		{event.FinWait2, event.Close, "reset", input + "tcp_reset", false},
		{event.Closing, event.TimeWait, "ACK of our FIN", minis + "tcp_time_wait", false},
		{event.TimeWait, event.Close, "60 s", timer, true},
		{event.CloseWait, event.LastAck, "close(): at last", tcp + "tcp_close_state", false},
		{event.CloseWait, event.Close, "reset", input + "tcp_reset", false},
		{event.LastAck, event.Close, "ACK of our FIN", input + normal, false},
	}
}
