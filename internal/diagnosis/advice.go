package diagnosis

import (
	"fmt"
	"slices"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// What is true of every CLOSE_WAIT, said once per process.
const (
	noCure = "Only the program's own close() frees these descriptors. No sysctl does: keepalive, " +
		"tcp_fin_timeout and the tcp_tw_* settings do not cure CLOSE_WAIT."
	noKill = "Do not reach for ss -K first: it destroys the kernel's socket, but the process keeps " +
		"the descriptor, and the evidence is gone."
)

// AdviceFor says in one or two sentences what a cause means for the program's
// author. Empty for none.
func AdviceFor(c Cause) string {
	switch c {
	case Unaccepted:
		return "These connections wait in the accept queue: the listening program does not call accept(). " +
			"Find out what its accept loop is blocked on, or whether it is out of descriptors."
	case UnreadData:
		return "Data and the end of the stream wait unread: the program stopped reading these sockets. " +
			"Look for threads blocked on a lock or a slow call, or a socket taken out of the event loop."
	case UnreadEOF:
		return "The peer has closed and nobody has read it: an idle connection pool, or a thread too busy to read. " +
			"Close idle connections before the peer's idle timeout, or check them when they are taken out and put back."
	case EOFIgnored:
		return "The end of the stream was consumed and close() was not called. " +
			"Look at the code path after read() returns 0 or an error: it must close on every way out."
	case HalfClose:
		return "The peer has shut down its side and the program still sends. This is legitimate use; nothing to do."
	case HeldElsewhere:
		return "The process that opened these sockets has let go of them, but this one still holds a copy. " +
			"If it was inherited, open sockets with SOCK_CLOEXEC and close them in the child; if it was passed, the receiver must close it."
	case InFlight:
		return "No process holds a descriptor of these sockets: they are in a unix-socket message nobody received, " +
			"or in io_uring or the kernel. Look at programs that pass descriptors or register files with io_uring."
	case ZombieFD:
		return "These sockets were shut down both ways but not closed, so ss and netstat do not show them. " +
			"shutdown() does not free a descriptor; close() must follow."
	default:
		return ""
	}
}

// advise sets Advice and Commands, the biggest group first. A clean process
// needs none.
func advise(p *Process) {
	if p.Verdict == Clean {
		return
	}
	for i := range p.Groups {
		g := &p.Groups[i]
		if g.Cause == HalfClose {
			continue
		}
		p.Advice = appendNew(p.Advice, AdviceFor(g.Cause))
		for _, c := range commandsFor(g.Cause, g.Site, p.Task.Pid) {
			p.Commands = appendNew(p.Commands, c)
		}
	}
	p.Advice = append(p.Advice, noCure, noKill)
}

// commandsFor returns what to look at next.
func commandsFor(c Cause, site Site, pid uint32) []string {
	var commands []string
	switch {
	case c == Unaccepted:
		commands = []string{fmt.Sprintf("ss -tlnp '( sport = :%d )'", site.Port)}
	case c != ZombieFD:
		commands = []string{ssCommand(site)}
	}
	commands = append(commands, listCommand(c, site, pid))
	if pid == 0 {
		return commands
	}
	commands = append(commands, fmt.Sprintf("tcpwaitd explain %d", pid))
	if c != Unaccepted {
		commands = append(commands, fmt.Sprintf("ls -l /proc/%d/fd", pid))
	}
	return commands
}

func ssCommand(site Site) string {
	end := "sport"
	if site.Direction == event.Out {
		end = "dport"
	}
	return fmt.Sprintf("ss -tanp state close-wait '( %s = :%d )'", end, site.Port)
}

func listCommand(c Cause, site Site, pid uint32) string {
	command := "tcpwaitd list -o wide"
	if c == ZombieFD {
		command += " --state close"
	}
	switch {
	case pid != 0:
		return command + fmt.Sprintf(" -p %d", pid)
	case site.Direction == event.Out:
		return command + fmt.Sprintf(" -D %d", site.Port)
	default:
		return command + fmt.Sprintf(" -L %d", site.Port)
	}
}

func appendNew(all []string, s string) []string {
	if s == "" || slices.Contains(all, s) {
		return all
	}
	return append(all, s)
}
