package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// Exec writes the diagnosis of a command: a short report for people, or the processes as rows.
type Exec struct {
	doc *document[record.Exec, record.Suspect]
}

// NewExec checks the options; the error is an *OptionError.
func NewExec(o Options) (*Exec, error) {
	doc, err := newDocument[record.Exec, record.Suspect](o, "processes")
	return &Exec{doc}, err
}

// Write writes one report.
func (x *Exec) Write(w io.Writer, r *record.Exec) (err error) {
	sorted := *r
	if sorted.Processes, err = x.doc.sorted(r.Processes); err != nil {
		return err
	}
	o := &x.doc.o
	switch {
	case o.Format == JSON || o.Format == JSONL:
		return x.doc.writeJSON(w, &sorted)
	case o.Format == CSV || len(o.Fields) > 0:
		return x.doc.writeRows(w, sorted.Processes)
	}
	p := page{color: o.Color, all: o.Format == Wide, whole: o.Format == Wide || o.Verbose}
	p.printf("%s: %s\n", p.painted(bold+verdictColor(r.Verdict), r.Verdict), summary(&r.Diagnosis))
	p.printf("%s\n", wrap(execText(r), 0))
	common := commonAdvice(sorted.Processes)
	for i := range sorted.Processes {
		if s := &sorted.Processes[i]; s.Verdict != "clean" || p.all {
			p.printf("\n")
			p.leaver(s, common)
		}
	}
	if len(common) > 0 {
		p.printf("\n%s\n", p.painted(bold, "all of them"))
		p.advice(common)
	}
	if n := len(r.StillRunning); n > 0 {
		verb := map[bool]string{true: "runs", false: "run"}[n == 1]
		p.printf("\n%s\n", wrap(fmt.Sprintf("%s of the command still %s, judged as of its end: %s",
			plural(n, "process"), verb, listenersText(r.StillRunning, p.all)), 0))
	}
	p.reservations(sorted.Loss, sorted.UnreadNetns)
	return p.writeTo(w)
}

// execText says what ran, and what was left open.
func execText(r *record.Exec) string {
	command := strings.Join(r.Command, " ")
	const longest = 48
	if short := []rune(command); len(short) > longest {
		command = string(short[:longest-3]) + "..."
	}
	text := fmt.Sprintf("%s: exit code %d after %s; ", command, r.ExitCode, durationText(time.Duration(r.ObservedNS)))
	if r.Unclosed == 0 {
		return text + "no socket was left in CLOSE_WAIT"
	}
	text += fmt.Sprintf("%s left in CLOSE_WAIT, for at most %s",
		map[bool]string{true: "1 socket was", false: plural(r.Unclosed, "socket") + " were"}[r.Unclosed == 1],
		durationText(time.Duration(r.UnclosedLongestNS)))
	switch r.ClosedAtExit {
	case 0:
	case r.Unclosed:
		text += ", and closed only when the process ended"
	default:
		text += fmt.Sprintf(", %d of them closed only when the process ended", r.ClosedAtExit)
	}
	if r.Verdict == "clean" {
		text += ": too few or too short to tell of a leak"
	}
	return text
}

// leaver is the block of one process.
func (p *page) leaver(s *record.Suspect, common []string) {
	p.printf("%s\n", p.who(s))
	p.field("why", s.Why)
	p.lines("command", nonEmpty(clip(s.Cmdline, p.all)))
	p.places(s.Groups)
	p.lines("try", s.Commands)
	given := s.Advice
	for _, text := range common {
		given = without(given, text)
	}
	p.advice(given)
}

// places shows the groups, those at the same place in the code as one: each test of a suite has
// a server with a port of its own.
func (p *page) places(groups []record.Group) {
	var merged []record.Group
	index := map[string]int{}
	for i := range groups {
		g := &groups[i]
		s := stackedGroup(g)
		key := fmt.Sprint(g.Cause, g.Direction, s.place())
		at, seen := index[key]
		if !seen || s.kind == "" {
			index[key] = len(merged)
			merged = append(merged, *g)
			continue
		}
		old := &merged[at]
		old.N += g.N
		old.Lport, old.Rport = 0, 0
		if g.OldestNS != nil && (old.OldestNS == nil || *g.OldestNS > *old.OldestNS) {
			old.OldestNS, old.OldestBound = g.OldestNS, g.OldestBound
		}
	}
	p.groups(merged)
}

func without(all []string, text string) []string {
	var kept []string
	for _, other := range all {
		if other != text {
			kept = append(kept, other)
		}
	}
	return kept
}
