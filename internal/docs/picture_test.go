package docs

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// The pictures of docs/states.md are drawn from testenv.Machine, of which TestStateMachine in
// e2e shows that it is what Linux does.
func TestPictures(t *testing.T) {
	for name, draw := range map[string]func(*testing.T) string{"states.svg": drawMachine, "closing.svg": drawClosing} {
		path := filepath.Join(root, "docs", "img", name)
		got, err := os.ReadFile(path)
		if err != nil && !*update {
			t.Fatal(err)
		}
		check(t, path, got, []byte(draw(t)))
	}
}

// picture has a background of its own, so that it can be read on a dark page and on a light
// one.
type picture struct {
	strings.Builder
}

const (
	boxWide, boxHigh = 132.0, 34.0
	lineHigh         = 15.0
)

const style = `<style>
.page{fill:#ffffff;stroke:#d0d7de}
text{font:13px ui-sans-serif,system-ui,sans-serif;fill:#1f2328}
.state{font-weight:600;text-anchor:middle}
.label{text-anchor:middle;font-size:12px}
.left{text-anchor:start;font-size:12px}
.right{text-anchor:end;font-size:12px}
.small{font-size:12px;fill:#59636e}
.box{fill:#f6f8fa;stroke:#59636e}
.close_wait{fill:#ffd8d3;stroke:#cf222e;stroke-width:2}
.time_wait{fill:#fff1c2;stroke:#9a6700;stroke-width:2}
.arrow{stroke:#59636e;stroke-width:1.5;fill:none;marker-end:url(#head)}
.unseen{stroke-dasharray:5 4}
.under{fill:#ffffff}
.head{fill:#59636e}
@media (prefers-color-scheme:dark){
.page{fill:#151b23;stroke:#3d444d}
text{fill:#f0f6fc}
.small{fill:#9198a1}
.box{fill:#212830;stroke:#9198a1}
.close_wait{fill:#5d1f1c;stroke:#ff7b72}
.time_wait{fill:#4b3a0a;stroke:#d29922}
.arrow{stroke:#9198a1}
.under{fill:#151b23}
.head{fill:#9198a1}
}
</style>
<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto-start-reverse"><path class="head" d="M0 0 10 5 0 10z"/></marker></defs>
`

func newPicture(wide, high float64, title string) *picture {
	p := &picture{}
	fmt.Fprintf(p, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img" aria-label="%s">`+"\n",
		wide, high, wide, high, html.EscapeString(title))
	fmt.Fprintf(p, "<!-- Made by go test ./internal/docs -update. -->\n<title>%s</title>\n%s", html.EscapeString(title), style)
	fmt.Fprintf(p, `<rect class="page" x="0.5" y="0.5" width="%g" height="%g" rx="8"/>`+"\n", wide-1, high-1)
	return p
}

func (p *picture) end() string { return p.String() + "</svg>\n" }

type point struct{ x, y float64 }

func (p *picture) text(class string, at point, text string) {
	fmt.Fprintf(p, `<text class="%s" x="%g" y="%g">%s</text>`+"\n", class, round(at.x), round(at.y), html.EscapeString(text))
}

// label is text that can be read on a line: some lines, around a point.
func (p *picture) label(at point, lines ...string) {
	top := at.y - lineHigh*float64(len(lines))/2
	for i, line := range lines {
		wide := textWide(lines[i : i+1])
		fmt.Fprintf(p, `<rect class="under" x="%g" y="%g" width="%g" height="%g"/>`+"\n", round(at.x-wide/2), round(top+lineHigh*float64(i)), round(wide), lineHigh)
		p.text("label", point{at.x, top + lineHigh*float64(i) + 11.5}, line)
	}
}

func (p *picture) state(at point, s event.State) {
	class := "box"
	switch s {
	case event.CloseWait:
		class += " close_wait"
	case event.TimeWait:
		class += " time_wait"
	default:
	}
	fmt.Fprintf(p, `<rect class="%s" x="%g" y="%g" width="%g" height="%g" rx="6"/>`+"\n", class, at.x-boxWide/2, at.y-boxHigh/2, boxWide, boxHigh)
	p.text("state", point{at.x, at.y + 4.5}, s.String())
}

func (p *picture) line(from, to point, unseen bool) {
	class := "arrow"
	if unseen {
		class += " unseen"
	}
	fmt.Fprintf(p, `<path class="%s" d="M%g %g %g %g"/>`+"\n", class, round(from.x), round(from.y), round(to.x), round(to.y))
}

func round(x float64) float64 { return math.Round(x*10) / 10 }

// edge is where the line from one box to the other leaves the first.
func edge(from, to point) point {
	dx, dy := to.x-from.x, to.y-from.y
	scale := math.Inf(1)
	if dx != 0 {
		scale = boxWide / 2 / math.Abs(dx)
	}
	if dy != 0 {
		scale = math.Min(scale, boxHigh/2/math.Abs(dy))
	}
	return point{from.x + dx*scale, from.y + dy*scale}
}

// places of the states. The end of a connection is drawn below, its beginning above.
func places() map[event.State]point {
	const left, mid, right, far = 110.0, 330.0, 550.0, 440.0
	return map[event.State]point{
		event.Close: {mid, 40}, event.Listen: {left, 150}, event.SynSent: {right, 150},
		event.SynRecv: {left, 250}, event.Established: {mid, 330},
		event.FinWait1: {left + 80, 440}, event.CloseWait: {far + 60, 440},
		event.FinWait2: {left - 10, 550}, event.Closing: {left + 200, 550}, event.LastAck: {far + 60, 550},
		event.TimeWait: {left + 80, 660},
	}
}

func drawMachine(t *testing.T) string {
	t.Helper()
	const wide, high = 660.0, 740.0
	p := newPicture(wide, high, "The states of a TCP connection on Linux and what leads from one to another")
	at, below := places(), point{500, 660}
	both := map[[2]event.State]bool{}
	for _, a := range testenv.Machine() {
		both[[2]event.State{a.Old, a.New}] = true
	}
	type text struct {
		at    point
		lines []string
	}
	var labels []text
	resets := map[event.State]bool{}
	for _, a := range testenv.Machine() {
		from, to := at[a.Old], at[a.New]
		if from == (point{}) || to == (point{}) {
			t.Fatalf("no place for %v -> %v", a.Old, a.New)
		}
		if a.New == event.Close && a.Label == "reset" {
			resets[a.Old] = true
			continue
		}
		if a.New == event.Close && (a.Old == event.TimeWait || a.Old == event.LastAck) {
			to = below
		}
		lines := split(a.Label)
		var beside float64
		if both[[2]event.State{a.New, a.Old}] {
			// Side by side with the line that goes back, and the text outside.
			shift := 14.0
			if a.Old == event.Close {
				shift = -shift
			}
			from.x, to.x = from.x+shift, to.x+shift
			beside = math.Copysign(textWide(lines)/2+8, shift)
		}
		begin, end := edge(from, to), edge(to, from)
		p.line(begin, end, a.Unseen)
		labels = append(labels, text{point{(begin.x+end.x)/2 + beside, (begin.y + end.y) / 2}, lines})
	}
	for _, l := range labels {
		p.label(l.at, l.lines...)
	}
	for _, s := range event.States() {
		where, drawn := at[s]
		if !drawn {
			continue
		}
		p.state(where, s)
		if resets[s] {
			corner := point{where.x + boxWide/2, where.y}
			p.line(corner, point{corner.x + 22, corner.y}, false)
			p.text("left small", point{corner.x + 26, corner.y + 4}, "reset")
		}
	}
	p.state(below, event.Close)
	p.text("left small", point{20, high - 32}, "reset: the connection is cut off and in CLOSE at once.")
	p.text("left small", point{20, high - 15}, "Dashed: no tracepoint tells, the kernel's timer does it.")
	return p.end()
}

// textWide is about how wide the longest line of a label is.
func textWide(lines []string) float64 {
	longest := 0
	for _, line := range lines {
		longest = max(longest, len(line))
	}
	return 6.4*float64(longest) + 4
}

// split puts what follows a colon on a line of its own.
func split(label string) []string {
	head, tail, two := strings.Cut(label, ": ")
	if !two {
		head, tail, two = strings.Cut(label, ", no ")
		if tail != "" {
			tail = "no " + tail
		}
	}
	if two {
		return []string{head, tail}
	}
	return []string{head}
}

// drawClosing tells of one connection that closes, each end on its side, downwards in time.
func drawClosing(t *testing.T) string {
	t.Helper()
	const wide, high, left, right = 660.0, 560.0, 130.0, 530.0
	p := newPicture(wide, high, "How a connection closes: the end that closes first, and the other one")
	p.text("state", point{left, 30}, "closes first")
	p.text("state", point{right, 30}, "closes second")

	first := []event.State{event.Established, event.FinWait1, event.FinWait2, event.TimeWait, event.Close}
	second := []event.State{event.Established, event.CloseWait, event.LastAck, event.Close}
	firstAt := map[event.State]float64{event.Established: 65, event.FinWait1: 145, event.FinWait2: 245, event.TimeWait: 405, event.Close: 515}
	secondAt := map[event.State]float64{event.Established: 65, event.CloseWait: 195, event.LastAck: 345, event.Close: 465}
	side := func(x float64, path []event.State, at map[event.State]float64, told map[event.State]string) {
		for i, s := range path {
			p.state(point{x, at[s]}, s)
			if i == 0 {
				continue
			}
			a := find(t, path[i-1], s)
			from, to := point{x, at[path[i-1]] + boxHigh/2}, point{x, at[s] - boxHigh/2}
			p.line(from, to, a.Unseen)
			p.label(point{x, (from.y + to.y) / 2}, cmp.Or(told[s], a.Label))
		}
	}
	side(left, first, firstAt, map[event.State]string{event.FinWait1: "close()"})
	side(right, second, secondAt, map[event.State]string{event.CloseWait: "FIN", event.LastAck: "close()"})

	// The segments between.
	segment := func(from, to point, text string) {
		p.line(from, to, false)
		p.label(point{(from.x + to.x) / 2, (from.y + to.y) / 2}, text)
	}
	l, r := left+boxWide/2+4, right-boxWide/2-4
	segment(point{l, firstAt[event.FinWait1]}, point{r, secondAt[event.CloseWait] - 4}, "FIN")
	segment(point{r, secondAt[event.CloseWait] + 6}, point{l, firstAt[event.FinWait2]}, "ACK")
	segment(point{r, secondAt[event.LastAck]}, point{l, firstAt[event.TimeWait] - 6}, "FIN")
	segment(point{l, firstAt[event.TimeWait] + 6}, point{r, secondAt[event.Close]}, "ACK")
	p.label(point{wide/2 + 20, 285}, "No timer ends CLOSE_WAIT: it lasts", "until the program on this side closes.")
	return p.end()
}

// find is the arrow between two states. A picture shows none that is not there.
func find(t *testing.T, from, to event.State) testenv.Arrow {
	t.Helper()
	for _, a := range testenv.Machine() {
		if a.Old == from && a.New == to {
			return a
		}
	}
	t.Fatalf("Linux does not go from %v to %v", from, to)
	return testenv.Arrow{}
}
