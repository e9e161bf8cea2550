package diagnosis

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// OtherEnd is what is known of the socket at the other end of a connection.
type OtherEnd struct {
	// Known: it was found on this host, or it is Gone: it was on this host and is no more.
	Known, Gone bool
	State       event.State
	// Cookie is 0 where the kernel keeps only a mini-socket.
	Cookie event.Cookie
	// Who is the process responsible for it, or the one that has closed it, fit to print; "" if
	// nobody is known.
	Who string
	// Held: a process has a descriptor of it. Valid if HeldKnown.
	Held, HeldKnown bool
}

// Endings says what would end the wait, one way a sentence, the cure first and then what
// only seems one. Each was tried on a real kernel (e2e/explain_test.go). Nil where there is
// no wait.
func Endings(c *Case, other *OtherEnd) []string {
	switch {
	case c.Cause == Unaccepted:
		return unacceptedEndings(c)
	case c.Cause == InFlight:
		return flyingEndings(c)
	case c.Cause == HalfClose:
		return append([]string{"The program, when it has sent all and closes."}, closeEndings(c)...)
	case c.Cause == ZombieFD:
		return append(closeEndings(c), "Nothing from the network: the connection is over, only the descriptor is left.")
	case c.Cause != None:
		return append(closeEndings(c), networkEndings(c, other)...)
	case c.State == event.FinWait2 && !c.Subflow:
		return waitingEndings(c, other)
	default:
		return nil
	}
}

// waitingEndings are those of a socket that waits for the peer's FIN.
func waitingEndings(c *Case, other *OtherEnd) []string {
	by := "The other end, when it closes."
	if other.Known && !other.Gone && other.Who != "" {
		by = fmt.Sprintf("close() of the other end by %s.", other.Who)
	}
	if len(c.Holders) == 0 {
		return []string{by, "The kernel, after net.ipv4.tcp_fin_timeout (60 s unless it was changed): no process holds it any more."}
	}
	return []string{by, fmt.Sprintf("close() of %s: the kernel then forgets it after net.ipv4.tcp_fin_timeout (60 s "+
		"unless it was changed), but the other end stays in CLOSE_WAIT.", descriptorsText(c.Holders))}
}

// closeEndings say who has to close what.
func closeEndings(c *Case) []string {
	who := processes(c.Holders)
	switch {
	case !c.HoldersKnown:
		return []string{"close() by every process that holds it; who does was not looked for."}
	case len(who) == 0:
		return []string{"close() by whoever holds it."}
	case len(who) == 1 && len(c.Holders) == 1:
		return []string{
			fmt.Sprintf("close() of %s.", descriptorsText(c.Holders)),
			fmt.Sprintf("The end of %s: the kernel closes what a process leaves open.", taskText(&who[0])),
		}
	case len(who) == 1:
		return []string{
			fmt.Sprintf("close() of all of %s: they are copies of one, and the last one counts.", descriptorsText(c.Holders)),
			fmt.Sprintf("The end of %s: the kernel closes what a process leaves open.", taskText(&who[0])),
		}
	default:
		return []string{
			fmt.Sprintf("close() by %s processes that hold it: %s.", allText(len(who)), descriptorsText(c.Holders)),
			fmt.Sprintf("The end of %s processes; as long as one of them lives and holds it, nothing ends.", allText(len(who))),
		}
	}
}

func unacceptedEndings(c *Case) []string {
	who := processes(c.Listeners)
	switch len(who) {
	case 0:
		return []string{
			"accept() and then close() by a process that holds the listening socket.",
			"close() of the listening socket by all that hold it: the kernel then resets what waits in its queue.",
		}
	case 1:
		return []string{
			fmt.Sprintf("accept() and then close() by %s.", taskText(&who[0])),
			fmt.Sprintf("close() of the listening socket (%s), or the end of the process: the kernel then resets what waits in its queue.",
				descriptorsText(c.Listeners)),
		}
	default:
		return []string{
			fmt.Sprintf("accept() and then close() by one of the %d processes that listen: %s.", len(who), tasksText(who)),
			fmt.Sprintf("close() of the listening socket by %s of them: the kernel then resets what waits in its queue.", allText(len(who))),
		}
	}
}

// flyingEndings are those of a socket without a descriptor.
func flyingEndings(c *Case) []string {
	switch c.Where() {
	case "message":
		unix := make([]event.Holder, 0, len(c.Passed))
		for i := range c.Passed {
			unix = append(unix, event.Holder{Task: c.Passed[i].Receiver, FD: c.Passed[i].FD})
		}
		who := processes(unix)
		if len(who) == 0 {
			break
		}
		return []string{
			fmt.Sprintf("recvmsg() and then close() of the descriptor received, by %s: the message waits in a unix socket (%s).",
				tasksText(who), descriptorsText(unix)),
			"close() of that unix socket by all that hold it: the kernel closes what nobody received.",
		}
	case "io_uring":
		who := processes(c.Fixed)
		return []string{
			fmt.Sprintf("Closing or unregistering the fixed file in the io_uring of %s (%s).", tasksText(who), slotsText(c.Fixed)),
			"The end of that ring: close() of its descriptor by all that hold it.",
		}
	case "kernel":
		return []string{"The part of the kernel that made it for itself: no process has a descriptor to close."}
	}
	return []string{
		"close() by whoever receives the descriptor, if it is in a unix-socket message.",
		"The end of what carries it: the unix socket, or the io_uring that has it as a fixed file.",
	}
}

// networkEndings say what the network can do. It never gives the descriptor back.
func networkEndings(c *Case, other *OtherEnd) []string {
	const kernelPart = "that ends the kernel's socket, but the descriptor stays open until close()"
	if c.Flow.Protocol == event.MPTCP {
		return nil // how its subflows end was not tried
	}
	var all []string
	switch {
	case other.Gone:
		all = append(all, "A send by the program: the other end is gone, so it draws a RST; "+kernelPart+".")
		if c.Keepalive {
			all = append(all, "The next keepalive probe: it draws a RST; "+kernelPart+".")
		}
	case other.Known && other.HeldKnown && other.Held:
		all = append(all, "Nothing from the network: "+cmp.Or(other.Who, "a process")+" still holds the other end, which answers.")
	case other.Known && other.HeldKnown:
		all = append(all, "A send by the program: the other end is closed, so it draws a RST; "+kernelPart+".")
		if c.Keepalive {
			all = append(all, "Keepalive, once the kernel has forgotten the other end (net.ipv4.tcp_fin_timeout after its close(), 60 s "+
				"unless it was changed): a probe then draws a RST; "+kernelPart+".")
		}
	case c.Keepalive:
		all = append(all, "Keepalive, if the other host has forgotten the connection or is gone: a RST, or no answer to the probes; "+kernelPart+".")
	default:
		all = append(all, "A RST from the peer, which it sends only in answer to something: a send by the program draws one "+
			"if the other end is closed; "+kernelPart+".")
	}
	if !c.Keepalive && !other.Held {
		all = append(all, "No timer: keepalive is off, and nothing is sent that could go unacknowledged.")
	}
	return all
}

// allText is both, all 3.
func allText(n int) string {
	if n == 2 {
		return "both"
	}
	return fmt.Sprintf("all %d", n)
}

func taskText(t *event.Task) string {
	return fmt.Sprintf("pid %d (%s)", t.Pid, commText(&t.Comm))
}

// commText is a name fit to print: it is the process's own choice.
func commText(c *event.Comm) string {
	quoted := strconv.QuoteToGraphic(c.String())
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// maxNamed keeps a sentence readable.
const maxNamed = 8

func tasksText(tasks []event.Task) string {
	return listText(len(tasks), func(i int) string { return taskText(&tasks[i]) })
}

func descriptorsText(hs []event.Holder) string {
	return listText(len(hs), func(i int) string {
		return fmt.Sprintf("descriptor %d of pid %d (%s)", hs[i].FD, hs[i].Pid, commText(&hs[i].Comm))
	})
}

func slotsText(hs []event.Holder) string {
	return listText(len(hs), func(i int) string { return fmt.Sprintf("slot %d of pid %d", hs[i].FD, hs[i].Pid) })
}

func listText(n int, text func(int) string) string {
	parts := make([]string, 0, maxNamed+1)
	for i := range n {
		if i == maxNamed {
			parts = append(parts, fmt.Sprintf("%d more", n-i))
			break
		}
		parts = append(parts, text(i))
	}
	if last := len(parts) - 1; last > 0 {
		return strings.Join(parts[:last], ", ") + " and " + parts[last]
	}
	return strings.Join(parts, "")
}
