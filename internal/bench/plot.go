package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// plot is an SVG picture with a background of its own, so that it can be read on a dark page
// and on a light one.
type plot struct {
	strings.Builder
}

const plotStyle = `<style>
.page{fill:#ffffff;stroke:#d0d7de}
text{font:13px ui-sans-serif,system-ui,sans-serif;fill:#1f2328}
.title{font-weight:600}
.right{text-anchor:end}
.mid{text-anchor:middle}
.small{font-size:12px;fill:#59636e}
.grid{stroke:#d0d7de}
.line{fill:none;stroke-width:2}
.floor{stroke:#59636e;stroke-dasharray:5 4}
.ours{stroke:#0969da;stroke-width:3}
.peer1{stroke:#cf222e}
.peer2{stroke:#9a6700}
.peer3{stroke:#8250df}
.b_floor{fill:#afb8c1}
.b_ours{fill:#0969da}
.b_peer{fill:#cf222e}
@media (prefers-color-scheme:dark){
.page{fill:#151b23;stroke:#3d444d}
text{fill:#f0f6fc}
.small{fill:#9198a1}
.grid{stroke:#3d444d}
.floor{stroke:#9198a1}
.ours{stroke:#4493f8}
.peer1{stroke:#ff7b72}
.peer2{stroke:#d29922}
.peer3{stroke:#ab7df8}
.b_floor{fill:#656c76}
.b_ours{fill:#4493f8}
.b_peer{fill:#ff7b72}
}
</style>
`

func newPlot(wide, high float64, title string) *plot {
	p := &plot{}
	fmt.Fprintf(p, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img" aria-label="%s">`+"\n",
		wide, high, wide, high, html.EscapeString(title))
	fmt.Fprintf(p, "<!-- Made by make bench. -->\n<title>%s</title>\n%s", html.EscapeString(title), plotStyle)
	fmt.Fprintf(p, `<rect class="page" x="0.5" y="0.5" width="%g" height="%g" rx="8"/>`+"\n", wide-1, high-1)
	p.text("title", 24, 30, title)
	return p
}

func (p *plot) end() string { return p.String() + "</svg>\n" }

func (p *plot) text(class string, x, y float64, text string) {
	fmt.Fprintf(p, `<text class="%s" x="%.1f" y="%.1f">%s</text>`+"\n", class, x, y, html.EscapeString(text))
}

func (p *plot) grid(x1, y1, x2, y2 float64) {
	fmt.Fprintf(p, `<path class="grid" d="M%.1f %.1f %.1f %.1f"/>`+"\n", x1, y1, x2, y2)
}

// logAxis maps values to places, by powers of ten.
type logAxis struct{ low, high, from, to float64 }

func (a logAxis) at(value float64) float64 {
	share := (math.Log10(value) - math.Log10(a.low)) / (math.Log10(a.high) - math.Log10(a.low))
	return a.from + share*(a.to-a.from)
}

// powers of ten on the axis.
func (a logAxis) powers() []float64 {
	var all []float64
	for p := math.Ceil(math.Log10(a.low) - 1e-9); p <= math.Log10(a.high)+1e-9; p++ {
		all = append(all, math.Pow(10, p))
	}
	return all
}

// drawList is the time of each lister over the number of sockets.
func (r *report) drawList(sizes []int) string {
	const wide, high = 720.0, 430.0
	p := newPlot(wide, high, "Who holds the sockets in CLOSE_WAIT: time by number of sockets")
	x := logAxis{float64(sizes[0]), float64(sizes[len(sizes)-1]), 80, 470}
	y := logAxis{1, 60_000, 370, 55}
	for _, v := range x.powers() {
		p.grid(x.at(v), y.from, x.at(v), y.to)
		p.text("small mid", x.at(v), y.from+20, thousands(v))
	}
	for _, v := range y.powers() {
		p.grid(x.from, y.at(v), x.to, y.at(v))
		p.text("small right", x.from-8, y.at(v)+4, duration(v))
	}
	p.text("small mid", (x.from+x.to)/2, y.from+42, "sockets")
	var ends []ending
	for _, l := range []struct{ key, name, class string }{
		{"wall", listLsof, "peer1"},
		{"wall", listSs, "peer2"},
		{"wall", listNetstat, "peer3"},
		{"wall", listTable, "ours"},
		{"passes", listFloor, "floor"},
	} {
		var points []string
		var last ending
		for _, n := range sizes {
			if ms, ok := r.values[listKey(l.name, n)+l.key]; ok && ms > 0 {
				at := ending{x.at(float64(n)), y.at(max(ms, y.low)), l.name, l.class}
				points, last = append(points, fmt.Sprintf("%.1f %.1f", at.x, at.y)), at
			}
		}
		if len(points) == 0 {
			continue
		}
		fmt.Fprintf(p, `<path class="line %s" d="M%s"/>`+"\n", l.class, strings.Join(points, " "))
		ends = append(ends, last)
	}
	p.legend(x.to+20, 90, ends)
	return p.end()
}

// ending is the last point of a line, and what the line is.
type ending struct {
	x, y        float64
	name, class string
}

// legend names the lines, the highest first.
func (p *plot) legend(x, y float64, ends []ending) {
	for i, e := range ends {
		at := y + float64(i)*26
		fmt.Fprintf(p, `<path class="line %s" d="M%.1f %.1f %.1f %.1f"/>`+"\n", e.class, x, at, x+26, at)
		name, _, _ := strings.Cut(e.name, " -nP")
		if e.class == "ours" {
			name = "tcpwaitd " + name
		}
		p.text("small", x+34, at+4, name)
	}
}

// duration writes milliseconds for an axis.
func duration(ms float64) string {
	if ms < 1000 {
		return fmt.Sprintf("%.0f ms", ms)
	}
	return thousands(ms/1000) + " s"
}

// drawRate is what each tool leaves of the rate of connections.
func (r *report) drawRate() string {
	const wide, row, from, to = 720.0, 40.0, 300.0, 620.0
	tools := []struct{ name, class string }{
		{toolEmpty, "b_floor"},
		{toolKeep, "b_floor"},
		{toolRecord, "b_floor"},
		{toolDiagnose, "b_ours"},
		{toolStacks, "b_ours"},
		{toolTailJSON, "b_ours"},
		{toolTail, "b_ours"},
		{toolBpftrace, "b_peer"},
		{toolTcpstates, "b_peer"},
		{toolTcplife, "b_peer"},
	}
	high := 120 + row*float64(len(tools))
	p := newPlot(wide, high, "Short connections a second with a tool attached, of none attached")
	p.text("small", 24, 50, "upper bar: one worker, lower bar: four workers, which keep both CPUs busy")
	most := 1.0
	for _, t := range tools {
		for _, workers := range workersOf() {
			most = max(most, r.values[rateKey(t.name, workers)+"ratio"])
		}
	}
	bottom := 70 + row*float64(len(tools))
	for _, v := range []float64{0, 0.25, 0.5, 0.75, 1} {
		at := from + v/most*(to-from)
		p.grid(at, 66, at, bottom)
		p.text("small mid", at, bottom+20, fmt.Sprintf("%.2f", v))
	}
	for i, t := range tools {
		y := 72 + row*float64(i)
		name := t.name
		if t.class == "b_ours" {
			name = "tcpwaitd " + name
		}
		name, _, _ = strings.Cut(name, ", batched")
		p.text("right", from-10, y+20, name)
		for j, workers := range workersOf() {
			ratio, ok := r.values[rateKey(t.name, workers)+"ratio"]
			if !ok {
				p.text("small", from+6, y+12+float64(j)*15, notMeasured)
				continue
			}
			long := ratio / most * (to - from)
			fmt.Fprintf(p, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="12"/>`+"\n", t.class, from, y+2+float64(j)*15, long)
			p.text("small", from+long+6, y+12+float64(j)*15, fmt.Sprintf("%.2f", ratio))
		}
	}
	return p.end()
}
