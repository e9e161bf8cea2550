package report

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// page builds a report for people.
type page struct {
	buf   strings.Builder
	color bool
	// all: nothing is left out or cut off.
	all bool
	// whole: stacks are shown with all their frames.
	whole bool
	// states are the sockets of the one process shown, by state.
	states string
	// started and shared are of the one process shown: since when it runs, and who else holds
	// its sockets.
	started, shared string
	// rates: growth per minute is worth telling even where it is not established.
	rates bool
}

func (p *page) printf(format string, args ...any) { fmt.Fprintf(&p.buf, format, args...) }

// painted is the text in a colour, where there are colours.
func (p *page) painted(color, text string) string {
	if !p.color || color == "" {
		return text
	}
	return color + text + reset
}

const (
	labelWidth = 10
	indent     = "  "
)

// field writes one labelled paragraph, wrapped; nothing if it has no text.
func (p *page) field(label, text string) {
	if text == "" {
		return
	}
	p.buf.WriteString(indent + label + strings.Repeat(" ", max(1, labelWidth-len(label))))
	hang := len(indent) + labelWidth
	p.buf.WriteString(wrap(text, hang) + "\n")
}

// lines writes one label and a line for each text, unwrapped: for what gets copied.
func (p *page) lines(label string, texts []string) {
	for i, text := range texts {
		if i > 0 {
			label = ""
		}
		p.buf.WriteString(indent + label + strings.Repeat(" ", max(1, labelWidth-len(label))) + text + "\n")
	}
}

func (p *page) writeTo(w io.Writer) error {
	_, err := io.WriteString(w, p.buf.String())
	return err
}

// wrap breaks text at spaces to fit a line, starting at column at and continuing there.
// Longer words are left whole.
func wrap(text string, at int) string { return wrapFrom(text, at, at) }

// wrapFrom starts at one column and continues at another.
func wrapFrom(text string, start, at int) string {
	var out strings.Builder
	col := start
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case col+1+n >= lineWidth:
			out.WriteString("\n" + strings.Repeat(" ", at))
			col = at
		default:
			out.WriteByte(' ')
			col++
		}
		out.WriteString(word)
		col += n
	}
	return out.String()
}

// plural writes 1 socket, 2 sockets.
func plural[N int | uint64](n N, one string) string {
	if n == 1 {
		return "1 " + one
	}
	if strings.HasSuffix(one, "s") {
		return fmt.Sprintf("%d %ses", n, one)
	}
	return fmt.Sprintf("%d %ss", n, one)
}

func durationText(d time.Duration) string { return string(appendDuration(nil, d)) }
