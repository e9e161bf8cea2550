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
// A runtime that tidies up closes sockets as well: CPython when it finalizes, C++ when it destroys
// globals. Such a wait was closed only when the process ended (ClosedByExit), and is one that was
// never closed. It is known by the stack of the close(), which is taken of waits that lasted the
// grace time. Where there is no such stack (ClosedBeforeExit) a program that tidies up by itself
// looks the same: only those count that were kept for the grace time after the program was told,
// and they make it suspicious at most: minGenerations, together with those never closed.
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

// LateClose is how a wait was closed that counts as never closed.
type LateClose uint8

const (
	// NotClosed is not at all while its process lived.
	NotClosed LateClose = iota
	// ClosedByExit is by what a process runs at its end, as the stack of the close() shows.
	ClosedByExit
	// ClosedBeforeExit is directly before its process ended. By whom is not known.
	ClosedBeforeExit
)

// Leftover is what is known of a wait that was never closed, besides its Case.
type Leftover struct {
	// Opened is when the connection was established, 0 unknown.
	Opened event.KTime
	// Ended: its process has ended. Otherwise it was there when the command ended.
	Ended bool
	// Reads: the program reads its idle connections, so one whose end was not read is in use.
	Reads bool
	// Closed is how it was closed after all.
	Closed LateClose
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
			left.doubt(p)
			left.judge(p, &in)
		}
		left.advise(p)
		d.Verdict = max(d.Verdict, p.Verdict)
	}
	slices.SortFunc(d.Processes, worstFirst)
	return d
}

// doubt: where it is not known who closed, Judge has seen too much.
func (l *Leftovers) doubt(p *Process) {
	for i := range p.Groups {
		for _, c := range p.Groups[i].Cases {
			if p.Verdict > Suspicious && l.ByCookie[c.Cookie].Closed == ClosedBeforeExit {
				p.Verdict = Suspicious
			}
		}
	}
}

// Tells reports whether a wait that was closed after all says anything: see ClosedBeforeExit.
func (l *Leftovers) Tells(c *Case) bool {
	u := l.ByCookie[c.Cookie]
	return u.Closed != ClosedBeforeExit || l.keptFor(c, u) >= max(l.Grace, 1)
}

// leftAt are the waits of a site that count.
type leftAt struct {
	entries []entry
	// late were closed after all.
	late int
}

func (a *leftAt) addIf(counts bool, u Leftover, since event.KTime) {
	if !counts || u.Opened == 0 {
		return
	}
	a.entries = append(a.entries, entry{u.Opened, since})
	if u.Closed != NotClosed {
		a.late++
	}
}

// generations is the largest number of entries that follow one another: established (lo)
// when the one before was waiting (hi).
func (a *leftAt) generations() int { return momentsOf(a.entries, 0).n }

func (a *leftAt) text() string {
	switch n := len(a.entries); a.late {
	case 0:
		return fmt.Sprintf("%d never closed", n)
	case n:
		return fmt.Sprintf("%d closed only when the process ended", n)
	default:
		return fmt.Sprintf("%d never closed, %d of them closed only when the process ended", n, a.late)
	}
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
	// doubtful are told, with those of which it is not known who closed.
	var told, all, doubtful leftAt
	kept, keptFor := 0, time.Duration(0)
	for _, c := range s.waits {
		u, left := l.ByCookie[c.Cookie]
		if !left || !l.counts(c, u, &s.closed) {
			continue
		}
		pool := l.poolLike(c, u)
		doubtful.addIf(!pool, u, c.Since)
		if u.Closed == ClosedBeforeExit {
			continue
		}
		all.addIf(true, u, c.Since)
		told.addIf(!pool, u, c.Since)
		if d := l.keptFor(c, u); d >= l.Grace {
			kept++
			if keptFor == 0 || d < keptFor {
				keptFor = d
			}
		}
	}
	scattered := s.site == (Site{event.Out, 0})
	switch toldGen, allGen := told.generations(), all.generations(); {
	case toldGen >= minGenerations:
		return Leaking, fmt.Sprintf("%s; at least %d times it went on to the next connection instead", told.text(), toldGen)
	case !scattered && allGen >= minGenerationsPool:
		return Leaking, fmt.Sprintf("%s, their ends not read; at least %d times it went on to the next connection instead", all.text(), allGen)
	case !scattered && allGen >= minGenerations, allGen >= minScattered:
		return Suspicious, fmt.Sprintf("%s, their ends not read: idle connections, or a leak at its beginning", all.text())
	case doubtful.generations() >= minGenerations:
		return Suspicious, fmt.Sprintf("%s; at least %d times it went on to the next connection instead, and by whom they were closed is not known",
			doubtful.text(), doubtful.generations())
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

// What is true of every wait that nobody closed.
const (
	bodyAdvice = "A response of Go's net/http was not read to its end and its body not closed: defer resp.Body.Close() right after " +
		"the check of the error, also where the body is not needed. Who asked is not on the stack, for the transport connects in " +
		"a goroutine of its own; the linter bodyclose finds such places in the program's source."
	exitAdvice = "At its end the kernel closes what a program has left open, so nothing is lost here. In a program that goes on running " +
		"each of these sockets would keep a descriptor for ever."
	lateAdvice = "They were closed by what a program runs at its end, such as an interpreter's tidying up or the destructors of globals: " +
		"nothing is lost here. In a program that goes on running each of these sockets would keep a descriptor for ever."
	doubtAdvice = "They were closed directly before the program ended. If the program closed them itself, it could have done so when it " +
		"was told of their end. With --stacks on it shows who did."
)

// advise gives the advice for ended processes, whose files nobody can look at any more.
func (l *Leftovers) advise(p *Process) {
	p.Advice, p.Commands = nil, nil
	if p.Verdict == Clean {
		return
	}
	alive, atEnd := false, exitAdvice
	for i := range p.Groups {
		g := &p.Groups[i]
		u := l.ByCookie[g.OldestCookie]
		alive = alive || !u.Ended
		switch u.Closed {
		case NotClosed:
		case ClosedByExit:
			atEnd = lateAdvice
		case ClosedBeforeExit:
			atEnd = doubtAdvice
		}
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
	p.Advice = append(p.Advice, atEnd)
}

// Unclosed counts the waits that were never closed, how many of them were closed only when the
// process ended, and how long the longest lasted.
func (l *Leftovers) Unclosed(d *Diagnosis) (n, late int, longest time.Duration) {
	for c := range d.Waits() {
		u, left := l.ByCookie[c.Cookie]
		if !left || c.Cause == HalfClose || c.Cause == Unaccepted {
			continue
		}
		n, longest = n+1, max(longest, cmp.Or(c.Dwell(), 1))
		if u.Closed != NotClosed {
			late++
		}
	}
	return n, late, longest
}
