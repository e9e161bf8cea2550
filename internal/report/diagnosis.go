package report

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// Diagnosis writes a diagnosis: a report for people, or the processes as rows.
type Diagnosis struct {
	doc *document[record.Diagnosis, record.Suspect]
}

// NewDiagnosis checks the options; the error is an *OptionError.
func NewDiagnosis(o Options) (*Diagnosis, error) {
	doc, err := newDocument[record.Diagnosis, record.Suspect](o, "processes")
	return &Diagnosis{doc}, err
}

// Write writes one diagnosis.
func (d *Diagnosis) Write(w io.Writer, r *record.Diagnosis) (err error) {
	sorted := *r
	if sorted.Processes, err = d.doc.sorted(r.Processes); err != nil {
		return err
	}
	o := &d.doc.o
	switch {
	case o.Format == JSON || o.Format == JSONL:
		return d.doc.writeJSON(w, &sorted)
	case o.Format == CSV || len(o.Fields) > 0:
		return d.doc.writeRows(w, sorted.Processes)
	}
	p := page{color: o.Color, all: o.Format == Wide, whole: o.Format == Wide || o.Verbose}
	p.headline(&sorted, o.Filtered)
	p.rates = sorted.ObservedNS >= int64(minRate)
	common := commonAdvice(sorted.Processes)
	for i := range sorted.Processes {
		p.suspect(&sorted.Processes[i], common)
	}
	if len(common) > 0 {
		p.printf("\n%s\n", p.painted(bold, "all of them"))
		p.advice(common)
	}
	p.reservations(sorted.Loss, sorted.UnreadNetns)
	return p.writeTo(w)
}

// headline is the verdict, and what it rests on.
func (p *page) headline(r *record.Diagnosis, filtered bool) {
	p.printf("%s: %s\n", p.painted(bold+verdictColor(r.Verdict), r.Verdict), summary(r))
	how := "judged the present"
	if r.ObservedNS > 0 {
		how = "watched for " + durationText(time.Duration(r.ObservedNS))
	}
	looked := ""
	if r.SocketsTotal != nil && !filtered {
		looked = fmt.Sprintf(" (%d looked at)", *r.SocketsTotal)
	}
	found := fmt.Sprintf("%s; %s in CLOSE_WAIT%s;", how, plural(r.SocketsCloseWait, "socket"), looked)
	stuck, between := stuckText(time.Duration(r.ThresholdNS)), " "
	if len(found)+1+len(stuck) > lineWidth {
		between = "\n"
	}
	p.printf("%s%s%s\n", found, between, stuck)
}

func stuckText(threshold time.Duration) string {
	if threshold <= 0 {
		return "every wait counts as stuck"
	}
	return "stuck means " + exactText(threshold) + " or more"
}

// exactText is for what the user gave: nothing of it is rounded off.
func exactText(d time.Duration) string {
	if d < 2*time.Minute && d%time.Second == 0 {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	text := d.String()
	if d%time.Minute == 0 {
		text = strings.TrimSuffix(text, "0s")
	}
	if d%time.Hour == 0 {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// summary counts the processes by verdict; the nobody-known entry is no process.
func summary(r *record.Diagnosis) string {
	counts, waiting := map[string]int{}, 0
	for i := range r.Processes {
		switch s := &r.Processes[i]; {
		case len(s.Follows) > 0:
			waiting++ // no bug of its own
		case s.Pid != 0:
			counts[s.Verdict]++
		}
	}
	var parts []string
	if n := counts["leaking"]; n > 0 {
		parts = append(parts, map[bool]string{true: "1 process does", false: fmt.Sprintf("%d processes do", n)}[n == 1]+
			" not close sockets")
	}
	if n := counts["suspicious"]; n > 0 {
		parts = append(parts, plural(n, "process")+" to look at")
	}
	if waiting > 0 {
		parts = append(parts, map[bool]string{true: "1 process that waits", false: fmt.Sprintf("%d processes that wait", waiting)}[waiting == 1]+" because of that")
	}
	if len(parts) > 0 {
		return strings.Join(parts, ", ")
	}
	if r.Verdict != "clean" {
		return "sockets that no known process is responsible for"
	}
	return "no process fails to close its sockets"
}

func verdictColor(verdict string) string {
	return map[string]string{"leaking": red, "suspicious": yellow, "clean": green}[verdict]
}

// suspect is the block of one process. Clean ones get a line, unless all is wanted.
// Advice that holds for all is left to the end.
func (p *page) suspect(s *record.Suspect, common []string) {
	p.printf("\n")
	if s.Verdict == "clean" && !p.all {
		p.printf("%s; %s\n", p.who(s), p.socketsText(s))
		return
	}
	p.block(s, common)
}

// who is the process and its verdict.
func (p *page) who(s *record.Suspect) string {
	name := "no process known"
	if s.Pid != 0 {
		name = fmt.Sprintf("pid %d %s", s.Pid, s.Comm)
	}
	return p.painted(bold, name) + ": " + p.painted(verdictColor(s.Verdict), s.Verdict)
}

// block is all that is told of one process.
func (p *page) block(s *record.Suspect, common []string) {
	p.printf("%s\n", p.who(s))
	p.field("why", s.Why)
	p.field("sockets", p.socketsText(s))
	p.field("causes", causesText(s.Causes))
	p.field("states", p.states)
	p.field("shared", p.shared)
	p.field("awaits", awaitsText(s.Awaits))
	p.field("files", filesText(s))
	p.lines("command", nonEmpty(clip(cmp.Or(s.Cmdline, s.Exe), p.all)))
	p.field("started", p.started)
	p.field("where", placeText(s))
	p.field("peers", peersText(s.Peers))
	p.field("listeners", listenersText(s.Listeners, p.all))
	p.groups(s.Groups)
	p.threads(s.Threads)
	if s.StacksNotSampled > 0 {
		p.field("stacks", fmt.Sprintf("%d not taken: there were too many a second", s.StacksNotSampled))
	}
	p.lines("try", s.Commands)
	p.advice(slices.DeleteFunc(slices.Clone(s.Advice), func(text string) bool { return slices.Contains(common, text) }))
}

func (p *page) advice(texts []string) {
	for i, text := range texts {
		p.field(map[bool]string{true: "advice"}[i == 0], text)
	}
}

// commonAdvice are the texts that several processes are all given.
func commonAdvice(suspects []record.Suspect) []string {
	var common []string
	given := 0
	for i := range suspects {
		advice := suspects[i].Advice
		if len(advice) == 0 {
			continue
		}
		if given++; given == 1 {
			common = slices.Clone(advice)
			continue
		}
		common = slices.DeleteFunc(common, func(text string) bool { return !slices.Contains(advice, text) })
	}
	if given < 2 {
		return nil
	}
	return common
}

// minRate is the window from which a rate says something by itself.
const minRate = 10 * time.Second

func (p *page) socketsText(s *record.Suspect) string {
	text := fmt.Sprintf("%s, %d stuck", plural(s.Sockets, "socket"), s.Stuck)
	if s.OldestNS != nil {
		text += ", oldest " + ageText(*s.OldestNS, s.OldestBound)
	}
	// Of a few newcomers in a short window a rate is noise.
	established := s.Verdict == "leaking" || s.FDsExhaustedInS != nil
	if s.GrowthPerMin != nil && (established || p.rates) {
		text += fmt.Sprintf(", %+.1f per minute", *s.GrowthPerMin)
		if s.GrowthPerMinLow != nil && s.GrowthPerMinHigh != nil && *s.GrowthPerMin != 0 {
			text += fmt.Sprintf(" (%s to %s)", limitText(*s.GrowthPerMinLow), limitText(*s.GrowthPerMinHigh))
		}
	}
	return text
}

func ageText(ns int64, bound record.Word) string {
	b := event.Exact
	if bound == record.Word(event.AtLeast.String()) {
		b = event.AtLeast
	}
	return string(appendAge(nil, time.Duration(ns), b))
}

// causesText lists the most frequent first.
func causesText(causes map[string]int) string {
	var parts []string
	for _, c := range slices.SortedFunc(maps.Keys(causes), func(a, b string) int {
		return cmp.Or(cmp.Compare(causes[b], causes[a]), cmp.Compare(a, b))
	}) {
		parts = append(parts, fmt.Sprintf("%d %s", causes[c], c))
	}
	return strings.Join(parts, ", ")
}

// limitText has no more digits than a limit deserves.
func limitText(perMin float64) string {
	if perMin >= 100 || perMin <= -100 {
		return fmt.Sprintf("%.0f", perMin)
	}
	return fmt.Sprintf("%.1f", perMin)
}

// filesText is the number of descriptors, and the forecast if there is one.
func filesText(s *record.Suspect) string {
	if s.FDsOpen == nil {
		return ""
	}
	if s.FDsLimit == nil {
		return plural(*s.FDsOpen, "descriptor") + " open"
	}
	switch count := fmt.Sprintf("%d of %d", *s.FDsOpen, *s.FDsLimit); {
	case *s.FDsOpen >= *s.FDsLimit:
		return "no descriptor is left: " + count + " open"
	case s.FDsExhaustedInS != nil:
		return "descriptors run out in " + secondsText(*s.FDsExhaustedInS) + marginText(s) + ": " + count + " open"
	default:
		return count + " descriptors open"
	}
}

// marginText is the error of the forecast.
func marginText(s *record.Suspect) string {
	switch soonest, latest := s.FDsExhaustedMinS, s.FDsExhaustedMaxS; {
	case soonest == nil:
		return ""
	case latest == nil:
		return fmt.Sprintf(" (%s or later at this rate)", secondsText(*soonest))
	default:
		return fmt.Sprintf(" (%s to %s at this rate)", secondsText(*soonest), secondsText(*latest))
	}
}

func secondsText(s int64) string { return durationText(time.Duration(s) * time.Second) }

// placeText prefers names; a container's id is there to find it again.
func placeText(s *record.Suspect) string {
	var parts []string
	if s.Unit != "" {
		parts = append(parts, "unit "+s.Unit)
	}
	switch {
	case s.ContainerName != "":
		parts = append(parts, fmt.Sprintf("container %s (%s)", s.ContainerName, record.ShortContainer(s.Container)))
	case s.Container != "":
		parts = append(parts, "container "+s.Container)
	}
	if pod := s.PodText(s.Pod); pod != "" {
		parts = append(parts, "pod "+pod)
	}
	return strings.Join(parts, ", ")
}

func peersText(peers []record.Remote) string {
	var parts []string
	for _, r := range peers {
		name := r.Raddr.String()
		if r.Rport != 0 {
			name = netip.AddrPortFrom(r.Raddr, r.Rport).String()
		}
		parts = append(parts, fmt.Sprintf("%s (%d)", name, r.N))
	}
	return strings.Join(parts, ", ")
}

// maxListeners keeps a line readable; wide shows all.
const maxListeners = 8

func listenersText(tasks []record.Task, all bool) string {
	var parts []string
	for i, t := range tasks {
		if i == maxListeners && !all {
			parts = append(parts, fmt.Sprintf("%d more", len(tasks)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("%d %s", t.Pid, t.Comm))
	}
	return strings.Join(parts, ", ")
}

// maxGroups keeps a report readable; wide shows all.
const maxGroups = 8

func (p *page) groups(groups []record.Group) {
	more, in := 0, 0
	for i := range groups {
		if i >= maxGroups && !p.all {
			more++
			in += groups[i].N
			continue
		}
		p.group(&groups[i])
	}
	if more > 0 {
		p.field("", fmt.Sprintf("and %s in %s more (-o wide)", plural(in, "socket"), plural(more, "group")))
	}
}

// group says how many sockets of one kind there are and where in the code, then why.
func (p *page) group(g *record.Group) {
	text, s := groupText(g), stackedGroup(g)
	if s.kind == "" {
		p.field("group", text+"; "+whyText(g))
		p.field("", otherEndsText(g.Ends))
		return
	}
	p.place("group", text, &s)
	p.field("", whyText(g))
	p.field("", otherEndsText(g.Ends))
	if p.whole {
		p.stack(&s, len(indent)+labelWidth)
	}
}

func groupText(g *record.Group) string {
	text := plural(g.N, "socket")
	if g.OldestNS != nil {
		text += ", oldest " + ageText(*g.OldestNS, g.OldestBound)
	}
	return text
}

// whyText is the cause and the site of a group.
func whyText(g *record.Group) string {
	site := ""
	switch {
	case g.Lport != 0:
		site = fmt.Sprintf(" on local port %d", g.Lport)
	case g.Rport != 0:
		site = fmt.Sprintf(" to port %d", g.Rport)
	}
	kind := map[record.Word]string{"in": "accepted", "out": "connected"}[g.Direction]
	return joined(string(g.Cause), strings.TrimSpace(kind+site))
}

// joined is the parts that are not empty, with commas.
func joined(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(part string) bool { return part == "" }), ", ")
}

// reservations say what the verdict cannot know.
func (p *page) reservations(l record.LossCounts, unread []record.UnreadNetns) {
	if l.Any() {
		p.printf("\n%s\n", LossText(event.Loss{
			Lost: l.Lost, Dropped: l.Dropped, Evicted: l.Evicted, Missed: l.Missed,
		}))
	}
	for _, ns := range unread {
		p.printf("\nnetwork namespace %d could not be read: %s\n", ns.Netns, ns.Reason)
	}
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// clip shortens a line that need not be read whole.
func clip(s string, all bool) string {
	const limit = lineWidth - 1 - len(indent) - labelWidth
	if all || utf8.RuneCountInString(s) <= limit {
		return s
	}
	return string([]rune(s)[:limit-3]) + "..."
}
