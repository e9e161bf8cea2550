package pipeline

import (
	"fmt"
	"path/filepath"
	"regexp"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/netns"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// access says how the commands that are printed get to what they look at.
func (e *Engine) access(f *record.Facts, cases func(yield func(*diagnosis.Case) bool)) diagnosis.Access {
	ways := &ways{proc: e.cfg.Proc}
	ways.own, _ = netns.Current()
	return diagnosis.Access{
		Enter:   ways.enter,
		Runtime: func(pid uint32) string { return runtimeOf(f, cases, pid) },
	}
}

// ways are the ways into network namespaces.
type ways struct {
	proc string
	own  uint32
	// all is nil until it was asked for.
	all map[uint32]netns.NS
}

// safe: a name that needs no quoting in a shell.
var safe = regexp.MustCompile(`^[A-Za-z0-9_./-]+$`)

// enter prefers the process that is looked at anyway.
func (w *ways) enter(inode, pid uint32) (before string, ok bool) {
	if inode == 0 || inode == w.own {
		return "", inode != 0
	}
	if pid != 0 {
		if lives, err := netns.Of(w.proc, pid); err == nil && lives == inode {
			return fmt.Sprintf("nsenter -t %d -n ", pid), true
		}
	}
	ns, ok := w.list()[inode]
	switch {
	case !ok:
		return "", false
	case filepath.Dir(ns.Path) == "/run/netns" && safe.MatchString(ns.Name):
		return fmt.Sprintf("ip netns exec %s ", ns.Name), true
	case ns.Pid != 0:
		return fmt.Sprintf("nsenter -t %d -n ", ns.Pid), true
	case safe.MatchString(ns.Path):
		return fmt.Sprintf("nsenter --net=%s ", ns.Path), true
	default:
		return "", false
	}
}

func (w *ways) list() map[uint32]netns.NS {
	if w.all != nil {
		return w.all
	}
	w.all = map[uint32]netns.NS{}
	// What may not be looked at cannot be entered.
	list, _ := netns.List(w.proc)
	for _, ns := range list {
		w.all[ns.Inode] = ns
	}
	return w.all
}

// runtimes are the language worlds, the ones that say most first: native frames are in every
// program.
var runtimes = []string{"java", "python", "js", "go", "native"}

// runtimeOf is the language of a process by the frames that were seen of it, "" if none was.
func runtimeOf(f *record.Facts, cases func(yield func(*diagnosis.Case) bool), pid uint32) string {
	seen := map[string]bool{}
	look := func(frames []record.Frame) {
		for i := range frames {
			seen[frames[i].Kind] = true
		}
	}
	for i := range f.Threads[pid] {
		look(f.Threads[pid][i].Frames)
	}
	for c := range cases {
		// Whose the other stacks are is not certain: another process may have opened it.
		if st := f.Stacks[c.Cookie]; st != nil && st.EOF != nil && c.EOFTask.Pid == pid {
			look(st.EOF.Frames)
		}
		if st := f.Stacks[c.Cookie]; st != nil && st.Open != nil && c.Owner.Pid == pid && opened(c) {
			look(st.Open.Frames)
		}
	}
	for _, kind := range runtimes {
		if seen[kind] {
			return kind
		}
	}
	return ""
}

func opened(c *diagnosis.Case) bool {
	return c.Socket.Evidence == event.EvidenceAccept || c.Socket.Evidence == event.EvidenceConnect
}
