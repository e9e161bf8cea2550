package report

import (
	"fmt"
	"io"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// Groups writes sockets by the place in the code, as memleak does with memory.
type Groups struct {
	doc *document[record.Groups, record.SocketGroup]
}

// NewGroups checks the options; the error is an *OptionError.
func NewGroups(o Options) (*Groups, error) {
	doc, err := newDocument[record.Groups, record.SocketGroup](o, "groups")
	return &Groups{doc}, err
}

// Write writes one list of groups.
func (g *Groups) Write(w io.Writer, r *record.Groups) (err error) {
	sorted := *r
	if sorted.Groups, err = g.doc.sorted(r.Groups); err != nil {
		return err
	}
	o := &g.doc.o
	switch {
	case o.Format == JSON || o.Format == JSONL:
		return g.doc.writeJSON(w, &sorted)
	case o.Format == CSV || len(o.Fields) > 0:
		return g.doc.writeRows(w, sorted.Groups)
	}
	p := page{color: o.Color, all: o.Format == Wide}
	for i := range sorted.Groups {
		if i > 0 {
			p.printf("\n")
		}
		p.socketGroup(&sorted.Groups[i])
	}
	return p.writeTo(w)
}

// socketGroup is one block: how many, where, whose and why, and the whole stack.
func (p *page) socketGroup(g *record.SocketGroup) {
	text, s := groupText(&g.Group), stackedGroup(&g.Group)
	if s.kind == "" {
		text += ", no stack"
	} else {
		at := s.at()
		if !p.all {
			at = clipLeft(at, lineWidth-1-len(indent)-len(s.verb())-1)
		}
		text += ", " + s.verb() + " " + at
	}
	p.printf("%s\n", p.painted(bold, wrapFrom(text, 0, len(indent))))
	who := "nobody known"
	if g.Pid != 0 {
		who = fmt.Sprintf("pid %d %s", g.Pid, g.Comm)
	}
	state := g.State
	if state == event.CloseWait.String() {
		state = ""
	}
	p.printf("%s%s\n", indent, wrap(who+": "+joined(state, whyText(&g.Group)), len(indent)))
	p.stack(&s, len(indent))
}

// GroupedFields are those of Groups.
func GroupedFields() []string { return allNames(leavesOf[record.SocketGroup]()) }
