package diagnosis

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// How the waits of a command are judged that were never closed: their process ended with
// them open, or the command did. A test suite lives seconds, so hardly one of them gets as
// old as the threshold. What can be shown all the same is that the program went on working
// while they waited.
//
// Generations are waits of one process at one site each of whose connections was
// established when the one before was already waiting: the program had the peer's FIN, and
// opened or accepted the next connection instead of closing.
//
// Not counted are waits that were not over long after those that the process did close there
// (it is slow, and ran out of time), half-closes in use, connections that nobody accepted, and
// of processes that still run the waits shorter than the grace time.
//
// Leaking: minGenerations or more. Where the end was not read, as in an idle pool,
// minGenerationsPool at one site; never if they are not at one site, for a pool has a
// connection for each destination. Whether the end was read does not matter where the
// program reads its idle connections (Leftover.Reads).
//
// Suspicious: minGenerations at one site of those an idle pool may explain, minScattered
// elsewhere; or minKept or more, however they came, that are no pool and were kept for the
// grace time after the program was told.
//
// Where something is older than the threshold all of Judge holds as well, with these waits
// among the cases. Young waits that grow in number say nothing: a command is over soon.
const (
	minGenerations     = 3
	minGenerationsPool = 5
	// minKept is how many sockets must have been kept for no reason to be worth a look.
	minKept = 3
	// minScattered is more connections than the usual pools keep in all: 10 in urllib3's
	// PoolManager, 20 in Apache HttpClient's PoolingHttpClientConnectionManager.
	minScattered = 21
)

// Leftover is what is known of a wait that was never closed, besides its Case.
type Leftover struct {
	// Opened is when the connection was established, 0 unknown.
	Opened event.KTime
	// Ended: its process has ended. Otherwise it was there when the command ended.
	Ended bool
	// Reads: the program reads its idle connections, so one whose end was not read is in use.
	Reads bool
}

// Leftovers are the waits of a command that were never closed.
type Leftovers struct {
	ByCookie map[event.Cookie]Leftover
	// Grace is how long a program may take to close what it was told the end of.
	Grace time.Duration
}

// JudgeCommand judges the waits of a command: those that are there now and those that ended
// with their processes, which are among in.Cases as they were then.
func JudgeCommand(in Input, left *Leftovers) Diagnosis {
	d := Judge(in)
	d.Verdict = Clean
	for i := range d.Processes {
		p := &d.Processes[i]
		if p.Stuck == 0 {
			p.Verdict, p.Why = Clean, ""
		}
		if p.Task.Known() {
			left.judge(p, &in)
		}
		left.advise(p)
		d.Verdict = max(d.Verdict, p.Verdict)
	}
	slices.SortFunc(d.Processes, worstFirst)
	return d
}

// judge makes the verdict of a process worse, if its leftovers do.
func (l *Leftovers) judge(p *Process, in *Input) {
	s := suspect{task: p.Task, sitesSeen: make(map[Site]bool), passers: make(map[uint16][]event.Task)}
	for i := range p.Groups {
		for _, c := range p.Groups[i].Cases {
			s.add(c)
		}
	}
	for _, site := range s.sites(in.Closed) {
		if verdict, why := l.assess(site); verdict > p.Verdict {
			p.Verdict, p.Why = verdict, why
		}
	}
}

// assess applies the rules at the head of this file to one site.
func (l *Leftovers) assess(s *siteWaits) (Verdict, string) {
	var told, all []entry
	kept, keptFor := 0, time.Duration(0)
	for _, c := range s.waits {
		u, left := l.ByCookie[c.Cookie]
		if !left || !l.counts(c, u, &s.closed) {
			continue
		}
		if u.Opened != 0 {
			all = append(all, entry{u.Opened, c.Since})
			if !l.poolLike(c, u) {
				told = append(told, entry{u.Opened, c.Since})
			}
		}
		if d := l.keptFor(c, u); d >= l.Grace {
			kept++
			if keptFor == 0 || d < keptFor {
				keptFor = d
			}
		}
	}
	toldGen, allGen := generations(told), generations(all)
	scattered := s.site == (Site{event.Out, 0})
	switch {
	case toldGen >= minGenerations:
		return Leaking, fmt.Sprintf("%d never closed; at least %d times it went on to the next connection instead", len(told), toldGen)
	case !scattered && allGen >= minGenerationsPool:
		return Leaking, fmt.Sprintf("%d never closed, their ends not read; at least %d times it went on to the next connection instead", len(all), allGen)
	case !scattered && allGen >= minGenerations, allGen >= minScattered:
		return Suspicious, fmt.Sprintf("%d never closed, their ends not read: idle connections, or a leak at its beginning", len(all))
	case kept >= minKept:
		return Suspicious, fmt.Sprintf("%d never closed, although it had %v or more to do so", kept, keptFor.Round(time.Millisecond))
	default:
		return Clean, ""
	}
}

// counts: the wait says something about its program.
func (l *Leftovers) counts(c *Case, u Leftover, closed *Closed) bool {
	switch {
	case c.Cause == Unaccepted || c.Cause == ZombieFD || c.Cause == HalfClose:
		return false
	case !u.Ended && c.Dwell() < l.Grace:
		return false
	case closed.N > 0 && c.Dwell() <= closed.Longest+closed.Longest/slowSlack:
		return false
	default:
		return c.Bound != event.BoundUnknown
	}
}

// poolLike: an idle connection in a pool would look the same.
func (l *Leftovers) poolLike(c *Case, u Leftover) bool {
	return c.Cause == InFlight || c.Cause == UnreadEOF && !u.Reads
}

// keptFor is how long the program is known to have kept the socket although it was told of
// the end, or could have known it; 0 unknown. Who is told and ends at once need not close.
func (l *Leftovers) keptFor(c *Case, u Leftover) time.Duration {
	switch {
	case l.poolLike(c, u):
		return 0
	case c.Cause != EOFIgnored:
		return c.Dwell()
	case c.EOFSeen && c.EOFAt != 0:
		return max(0, c.At.Sub(c.EOFAt))
	default:
		return 0
	}
}

// generations is the largest number of entries that follow one another: established (lo)
// when the one before was waiting (hi).
func generations(all []entry) int { return momentsOf(all, 0).n }

// What is true of every wait that nobody closed.
const (
	bodyAdvice = "A response of Go's net/http was not read to its end and its body not closed: defer resp.Body.Close() right after " +
		"the check of the error, also where the body is not needed. Who asked is not on the stack, for the transport connects in " +
		"a goroutine of its own; the linter bodyclose finds such places in the program's source."
	exitAdvice = "At its end the kernel closes what a program has left open, so nothing is lost here. In a program that goes on running " +
		"each of these sockets would keep a descriptor for ever."
)

// advise gives the advice for ended processes, whose files nobody can look at any more.
func (l *Leftovers) advise(p *Process) {
	p.Advice, p.Commands = nil, nil
	if p.Verdict == Clean {
		return
	}
	alive := false
	for i := range p.Groups {
		g := &p.Groups[i]
		u := l.ByCookie[g.OldestCookie]
		alive = alive || !u.Ended
		switch {
		case g.Cause == HalfClose:
		case u.Reads && (g.Cause == UnreadEOF || g.Cause == UnreadData):
			p.Advice = appendNew(p.Advice, bodyAdvice)
		default:
			p.Advice = appendNew(p.Advice, AdviceFor(g.Cause))
		}
	}
	if alive && p.Task.Known() {
		p.Commands = []string{fmt.Sprintf("tcpwaitd explain %d", p.Task.Pid)}
		p.Advice = append(p.Advice, noCure)
		return
	}
	p.Advice = append(p.Advice, exitAdvice)
}

// Unclosed counts the waits that were never closed, and how long the longest lasted.
func (l *Leftovers) Unclosed(d *Diagnosis) (n int, longest time.Duration) {
	for c := range d.Waits() {
		if _, left := l.ByCookie[c.Cookie]; left && c.Cause != HalfClose && c.Cause != Unaccepted {
			n, longest = n+1, max(longest, cmp.Or(c.Dwell(), 1))
		}
	}
	return n, longest
}
