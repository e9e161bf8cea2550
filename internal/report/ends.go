package report

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// maxEnds are named in a line.
const maxEnds = 4

// otherEndsText tells of the other ends that are on this host.
func otherEndsText(ends []record.Ends) string {
	if len(ends) == 0 {
		return ""
	}
	text := endsText(ends)
	switch {
	case text == "":
		return ""
	case len(ends) > 1 || ends[0].N > 1:
		return "peers: " + text
	default:
		return "peer: " + text
	}
}

// awaitsText tells of the connections that a process has ended its side of.
func awaitsText(ends []record.Ends) string {
	n := 0
	for i := range ends {
		n += ends[i].N
	}
	if n == 0 {
		return ""
	}
	text := fmt.Sprintf("it has ended its side of %s (FIN_WAIT2) and waits for the end of the other", plural(n, "connection"))
	if local := endsText(ends); local != "" {
		text += ": " + local
	}
	return text
}

func endsText(ends []record.Ends) string {
	var parts []string
	more := 0
	for i := range ends {
		if len(parts) == maxEnds {
			more += ends[i].N
			continue
		}
		if text := endText(&ends[i]); text != "" {
			parts = append(parts, text)
		}
	}
	if more > 0 {
		parts = append(parts, fmt.Sprintf("%d more", more))
	}
	return strings.Join(parts, "; ")
}

// endText is one kind of other ends, "" if they are not on this host.
func endText(e *record.Ends) string {
	var text string
	switch {
	case e.Gone:
		text = "gone"
	case e.State == "":
		return ""
	case e.Pid != 0 && e.Closed:
		text = fmt.Sprintf("pid %d %s, which has closed, %s", e.Pid, e.Comm, e.State)
	case e.Closed:
		text = "held by no process, " + e.State
	case e.Pid != 0:
		text = fmt.Sprintf("pid %d %s, %s", e.Pid, e.Comm, e.State)
	default:
		text = e.State
	}
	if e.Netns != 0 {
		text += ", in the network namespace " + cmp.Or(e.NetnsName, fmt.Sprint(e.Netns))
	}
	if e.N > 1 {
		text += fmt.Sprintf(" (%d)", e.N)
	}
	return text
}
