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
		if g := &p.Groups[i]; g.Cause != HalfClose {
			p.Advice = appendNew(p.Advice, AdviceFor(g.Cause))
		}
	}
	p.Advice = append(p.Advice, noCure, noKill)
	p.SetCommands(Access{})
}

// SocketAdvice is the advice for one socket.
func SocketAdvice(c *Case) []string {
	advice := appendNew(nil, AdviceFor(c.Cause))
	if c.Cause == None || c.Cause == HalfClose {
		return advice
	}
	return append(advice, noCure, noKill)
}

// Access says how commands get to what they look at. The zero value is for sockets of our
// own namespace and programs in unknown languages.
type Access struct {
	// Enter returns what to put before a command that shall run in a network namespace,
	// "" for our own; ok is false if there is no way in. A process with such a socket helps.
	Enter func(netns, pid uint32) (before string, ok bool)
	// Runtime returns the language world of a process as frames name it, "" unknown.
	Runtime func(pid uint32) string
}

func (a *Access) enter(netns, pid uint32) (string, bool) {
	if a.Enter == nil {
		return "", true
	}
	return a.Enter(netns, pid)
}

// SetCommands sets what to run next to look further at a process that is not clean.
func (p *Process) SetCommands(a Access) {
	p.Commands = nil
	if p.Verdict == Clean {
		return
	}
	pid := p.Task.Pid
	for i := range p.Groups {
		g := &p.Groups[i]
		if g.Cause == HalfClose {
			continue
		}
		if before, ok := a.enter(g.netns(), pid); ok && g.Cause != ZombieFD {
			p.Commands = appendNew(p.Commands, before+g.ssCommand())
		}
		p.Commands = appendNew(p.Commands, listCommand(g.Cause, g.Site, pid))
		if pid == 0 {
			continue
		}
		p.Commands = appendNew(p.Commands, fmt.Sprintf("tcpwaitd explain %d", pid))
		if g.Cause != Unaccepted && g.Cause != InFlight {
			p.Commands = appendNew(p.Commands, fmt.Sprintf("ls -l /proc/%d/fd", pid))
		}
	}
	p.Commands = appendNew(p.Commands, threadsCommand(&a, pid))
}

// netns is the namespace of the group's sockets; of several it is that of the first.
func (g *Group) netns() uint32 {
	if len(g.Cases) == 0 {
		return 0
	}
	return g.Cases[0].Flow.Netns
}

func (g *Group) ssCommand() string {
	kind := "t"
	if len(g.Cases) > 0 && g.Cases[0].Flow.Protocol == event.MPTCP {
		kind = "M"
	}
	end := "sport"
	switch {
	case g.Cause == Unaccepted:
		return fmt.Sprintf("ss -tlnp '( sport = :%d )'", g.Site.Port)
	case g.Site.Direction == event.Out:
		end = "dport"
	}
	return fmt.Sprintf("ss -%sanp state close-wait '( %s = :%d )'", kind, end, g.Site.Port)
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

// threadsCommand shows where the threads of a process stand, by the usual tool for its
// language; "" if that is not known. It stops the process for a moment and changes nothing.
func threadsCommand(a *Access, pid uint32) string {
	if pid == 0 || a.Runtime == nil {
		return ""
	}
	switch a.Runtime(pid) {
	case "java":
		return fmt.Sprintf("jstack %d", pid)
	case "python":
		return fmt.Sprintf("py-spy dump --pid %d", pid)
	case "go", "native":
		return fmt.Sprintf("gdb -p %d -batch -ex 'thread apply all bt'", pid)
	default:
		return ""
	}
}

// maxLookedAt bounds the processes that commands are printed for.
const maxLookedAt = 4

// SocketCommands are what to run next to look further at one socket.
func SocketCommands(c *Case, other *OtherEnd, a Access) []string {
	var commands []string
	who := processes(slices.Concat(c.Holders, c.Listeners, c.Fixed))
	near := c.Blamed.Pid
	if near == 0 && len(who) > 0 {
		near = who[0].Pid
	}
	if before, ok := a.enter(c.Flow.Netns, near); ok {
		for _, command := range ssCommands(c) {
			commands = append(commands, before+command)
		}
	}
	for i := range min(len(c.Holders), maxLookedAt) {
		commands = append(commands, fmt.Sprintf("ls -l /proc/%d/fd/%d", c.Holders[i].Pid, c.Holders[i].FD))
	}
	for i := range min(len(c.Passed), maxLookedAt) {
		commands = append(commands, fmt.Sprintf("ls -l /proc/%d/fd/%d", c.Passed[i].Receiver.Pid, c.Passed[i].FD))
	}
	for i := range min(len(who), maxLookedAt) {
		commands = append(commands, fmt.Sprintf("tcpwaitd explain %d", who[i].Pid))
		commands = appendNew(commands, threadsCommand(&a, who[i].Pid))
	}
	// An MPTCP socket has a number of our own, another one in each run.
	if c.Cookie != 0 && c.Flow.Protocol != event.MPTCP {
		commands = append(commands, fmt.Sprintf("tcpwaitd explain --for 30s cookie:%d", c.Cookie))
		if other.Cookie != 0 {
			commands = append(commands, fmt.Sprintf("tcpwaitd explain cookie:%d", other.Cookie))
		}
	}
	return commands
}

// ssCommands show the socket, or the queue it waits in. Closed ones ss does not list.
func ssCommands(c *Case) []string {
	local, remote := c.Flow.Local.Port(), c.Flow.Remote.Port()
	switch {
	case c.State == event.Close || local == 0:
		return nil
	case c.Flow.Protocol == event.MPTCP:
		return []string{fmt.Sprintf("ss -Mane '( sport = :%d and dport = :%d )'", local, remote)}
	case c.State == event.Listen:
		return []string{fmt.Sprintf("ss -tlnpe '( sport = :%d )'", local)}
	}
	commands := []string{fmt.Sprintf("ss -tanpoei '( sport = :%d and dport = :%d )'", local, remote)}
	if c.Cause == Unaccepted {
		commands = append(commands, fmt.Sprintf("ss -tlnp '( sport = :%d )'", local))
	}
	return commands
}

func appendNew(all []string, s string) []string {
	if s == "" || slices.Contains(all, s) {
		return all
	}
	return append(all, s)
}
