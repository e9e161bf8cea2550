package report

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// stacked is one stack and what it is the stack of.
type stacked struct {
	// kind is the moment, as in records.
	kind             string
	direction, cause record.Word
	frames           []record.Frame
	quality, reason  string
}

func stackedOf(kind string, direction, cause record.Word, st *record.Stack) stacked {
	if st == nil {
		return stacked{}
	}
	return stacked{kind, direction, cause, st.Frames, st.Quality, st.Reason}
}

func stackedGroup(g *record.Group) stacked {
	return stacked{g.StackKind, g.Direction, g.Cause, g.Frames, g.Quality, g.Reason}
}

// verb says what happened at the place.
func (s *stacked) verb() string {
	switch s.kind {
	case event.StackOpen.String():
		switch s.direction {
		case record.Word(event.In.String()):
			return "accepted at"
		case record.Word(event.Out.String()):
			return "connected at"
		default:
			return "opened at"
		}
	case event.StackLastRead.String():
		return "first used at"
	case event.StackEOF.String():
		return "EOF read at"
	case event.StackClose.String():
		if s.cause == record.Word(diagnosis.ZombieFD) {
			return "shut down at"
		}
		return "closed at"
	default:
		return "at"
	}
}

// place is the stack in one line: EOF read at main.(*proxy).pump proxy.go:88. Empty if there
// is no stack.
func (s *stacked) place() string {
	if s.kind == "" {
		return ""
	}
	return s.verb() + " " + s.at()
}

// at is the frame that stands for the stack. Where it can be wrong, it says so.
func (s *stacked) at() string {
	f := record.UserFrame(s.frames)
	if f == nil {
		return "a place not known" + s.why()
	}
	text := shortFrame(f)
	if s.quality == event.QualityGuessed.String() || s.quality == event.QualityFPOnly.String() {
		text += " (" + s.quality + ")"
	}
	return text
}

func (s *stacked) why() string {
	if s.reason == "" {
		return ""
	}
	return " (" + s.reason + ")"
}

// shortFrame is a function with the base name of its file.
func shortFrame(f *record.Frame) string {
	at := ""
	if f.File != "" {
		at = path.Base(f.File)
	}
	return frameText(f, at, path.Base(f.Module))
}

// longFrame is a function with the path of its file, or with its module.
func longFrame(f *record.Frame) string {
	at := f.File
	if at == "" && f.Module != "" {
		at = path.Base(f.Module)
	}
	return frameText(f, at, path.Base(f.Module))
}

// frameText writes name and place; code without a name is module+0x1234, or its address where
// there is no module either.
func frameText(f *record.Frame, at, module string) string {
	if f.Line > 0 && f.File != "" {
		at += ":" + strconv.Itoa(f.Line)
	}
	switch {
	case f.Function != "":
		return strings.TrimSpace(f.Function + " " + at)
	case f.File != "":
		return at
	case f.Module != "":
		return fmt.Sprintf("%s+%#x", module, f.Offset)
	case f.Offset != 0:
		return fmt.Sprintf("%#x", f.Offset)
	case f.Kind == "signal":
		return "<signal>"
	default:
		return "?"
	}
}

// lines is the whole stack, innermost first, one frame a line, and at the end what is wrong
// with it. With a limit the paths of files give way first, then the beginnings of names.
func (s *stacked) lines(limit int) []string {
	lines := make([]string, 0, len(s.frames)+1)
	for i := range s.frames {
		text := longFrame(&s.frames[i])
		if limit > 0 && utf8.RuneCountInString(text) > limit {
			text = clipLeft(shortFrame(&s.frames[i]), limit)
		}
		lines = append(lines, text)
	}
	if s.quality != "" && s.quality != event.QualityComplete.String() {
		text := s.quality
		if s.reason != "" {
			text += ": " + s.reason
		}
		lines = append(lines, "("+text+")")
	}
	return lines
}

// clipLeft shortens text to fit: the end of a name tells more than its beginning.
func clipLeft(text string, room int) string {
	const mark = "..."
	n := utf8.RuneCountInString(text)
	if n <= room || room <= len(mark) {
		return text
	}
	return mark + string([]rune(text)[n-room+len(mark):])
}

// frameIndent sets the frames of a stack off.
const frameIndent = "  "

// stack writes the whole stack below a field; unless all is wanted, its lines fit the screen.
func (p *page) stack(s *stacked, at int) {
	limit := lineWidth - 1 - at - len(frameIndent)
	if p.all {
		limit = 0
	}
	for _, text := range s.lines(limit) {
		p.printf("%*s%s%s\n", at, "", frameIndent, text)
	}
}

// place writes a line that ends with a place; a name too long for the screen loses its
// beginning.
func (p *page) place(label, before string, s *stacked) {
	text := s.place()
	if text == "" {
		p.field(label, before)
		return
	}
	hang := len(indent) + labelWidth
	if verb := s.verb() + " "; !p.all {
		text = verb + clipLeft(s.at(), lineWidth-1-hang-len(verb))
	}
	if before != "" {
		text = before + ", " + text
	}
	p.field(label, text)
}

// maxThreads places are shown; wide shows all.
const maxThreads = 4

// byPlace puts stacks together that differ only in what is not shown.
func byPlace(threads []record.ThreadStack) []record.ThreadStack {
	var all []record.ThreadStack
	index := map[string]int{}
	for i := range threads {
		t := threads[i]
		s := stacked{frames: t.Frames, quality: t.Quality, reason: t.Reason}
		at, seen := index[s.at()]
		if !seen {
			index[s.at()] = len(all)
			all = append(all, t)
			continue
		}
		all[at].N += t.N
	}
	slices.SortStableFunc(all, func(a, b record.ThreadStack) int { return b.N - a.N })
	return all
}

// threads says where the threads of a process stand now.
func (p *page) threads(threads []record.ThreadStack) {
	if !p.whole {
		threads = byPlace(threads)
	}
	more, in := 0, 0
	for i := range threads {
		t := &threads[i]
		if i >= maxThreads && !p.all {
			more++
			in += t.N
			continue
		}
		label := map[bool]string{true: "threads"}[i == 0]
		s := stacked{frames: t.Frames, quality: t.Quality, reason: t.Reason}
		text := plural(t.N, "thread") + map[bool]string{true: " stands at ", false: " stand at "}[t.N == 1]
		at := s.at()
		if !p.all {
			at = clipLeft(at, lineWidth-1-len(indent)-labelWidth-len(text))
		}
		p.field(label, text+at)
		if p.whole {
			p.stack(&s, len(indent)+labelWidth)
		}
	}
	if more > 0 {
		p.field("", fmt.Sprintf("and %s at %s more", plural(in, "thread"), plural(more, "place")))
	}
}
