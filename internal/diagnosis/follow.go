package diagnosis

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// PassedEnd is a connection that a process has ended its side of while the other end, held by
// another process on this host, does not close: FIN_WAIT2 here, CLOSE_WAIT there.
type PassedEnd struct {
	// By is the process here, At the moment its FIN was acknowledged.
	By uint32
	At event.KTime
	// To is the process there.
	To uint32
}

// passOn is how soon a program that copies between two connections passes the end of one on
// to the other, after it was told.
const passOn = time.Second

const followAdvice = "These waits end when the processes that are named close theirs: there is the bug. A time limit for " +
	"half-closed connections would keep this program from piling up sockets when others do not close."

// Follow recognises who merely waits for others: a program that copies between two
// connections passes the end of one on to the other and keeps both until that one ends as
// well. If each of its waits has such an end, which came after the wait began and within a
// second after the program was told (or after the wait began, where nobody saw it being
// told: splice() tells too), and all of these stay open because of processes that are
// flagged themselves, then theirs is the bug and its waits follow from it. It is suspicious
// at most: a time limit in it would help as well.
func (d *Diagnosis) Follow(ends []PassedEnd) {
	byPid := map[uint32]*Process{}
	for i := range d.Processes {
		byPid[d.Processes[i].Task.Pid] = &d.Processes[i]
	}
	for i := range d.Processes {
		p := &d.Processes[i]
		if p.Verdict == Clean || !p.Task.Known() {
			continue
		}
		counts := p.follows(ends)
		if len(counts) > 0 && flagged(counts, byPid) {
			p.follow(counts, byPid)
		}
	}
	d.Verdict = Clean
	for i := range d.Processes {
		d.Verdict = max(d.Verdict, d.Processes[i].Verdict)
	}
	slices.SortFunc(d.Processes, func(a, b Process) int {
		if a.Verdict == b.Verdict && a.Task.Known() && b.Task.Known() && (len(a.Follows) > 0) != (len(b.Follows) > 0) {
			return cmp.Compare(len(a.Follows), len(b.Follows)) // the one to fix first
		}
		return worstFirst(a, b)
	})
}

// follows counts the process's waits by whom they wait for; nil if not all of them do.
func (p *Process) follows(ends []PassedEnd) map[uint32]int {
	var waits []*Case
	for i := range p.Groups {
		for _, c := range p.Groups[i].Cases {
			if c.Cause == HalfClose {
				continue
			}
			if c.State != event.CloseWait || c.Bound != event.Exact || c.RecvQ > 0 {
				return nil // whose end is unread was not passed on
			}
			waits = append(waits, c)
		}
	}
	mine := slices.DeleteFunc(slices.Clone(ends), func(e PassedEnd) bool { return e.By != p.Task.Pid })
	if len(waits) == 0 || len(mine) < len(waits) {
		return nil
	}
	slices.SortFunc(waits, func(a, b *Case) int { return cmp.Compare(latest(a), latest(b)) })
	slices.SortFunc(mine, func(a, b PassedEnd) int { return cmp.Compare(a.At, b.At) })
	counts := map[uint32]int{}
	for _, c := range waits {
		at := slices.IndexFunc(mine, func(e PassedEnd) bool { return e.At >= c.Since && e.At <= latest(c) })
		if at < 0 {
			return nil
		}
		counts[mine[at].To]++
		mine = slices.Delete(mine, at, at+1)
	}
	return counts
}

// latest is the last moment at which the end of a wait was passed on.
func latest(c *Case) event.KTime { return max(c.Since, c.EOFAt).Add(passOn) }

func flagged(counts map[uint32]int, byPid map[uint32]*Process) bool {
	for pid := range counts {
		if p := byPid[pid]; pid == 0 || p == nil || p.Verdict == Clean {
			return false
		}
	}
	return true
}

// follow makes one story of it.
func (p *Process) follow(counts map[uint32]int, byPid map[uint32]*Process) {
	var whom []event.Task
	for pid, n := range counts {
		other := byPid[pid]
		whom = append(whom, other.Task)
		other.Why += fmt.Sprintf("; %s of %s follow from these", waitsText(n), taskText(&p.Task))
	}
	slices.SortFunc(whom, func(a, b event.Task) int { return cmp.Compare(a.Pid, b.Pid) })
	p.Follows = whom
	p.Advice = []string{followAdvice, noCure, noKill}
	p.Verdict = min(p.Verdict, Suspicious)
	p.Why = fmt.Sprintf("its waits follow from another process: it has passed the end of each connection on to another one, and waits for %s to close that",
		tasksText(whom))
}

func waitsText(n int) string {
	if n == 1 {
		return "1 wait"
	}
	return fmt.Sprintf("%d waits", n)
}
