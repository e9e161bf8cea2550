package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// Doctor writes what tcpwaitd found out about the host.
type Doctor struct {
	doc *document[record.Doctor, record.Check]
}

// NewDoctor checks the options; the error is an *OptionError.
func NewDoctor(o Options) (*Doctor, error) {
	doc, err := newDocument[record.Doctor, record.Check](o, "checks")
	return &Doctor{doc}, err
}

// Write writes one finding. CSV and chosen fields are of the checks.
func (d *Doctor) Write(w io.Writer, r *record.Doctor) (err error) {
	sorted := *r
	if sorted.Checks, err = d.doc.sorted(r.Checks); err != nil {
		return err
	}
	o := &d.doc.o
	switch {
	case o.Format == JSON || o.Format == JSONL:
		return d.doc.writeJSON(w, &sorted)
	case o.Format == CSV || len(o.Fields) > 0:
		return d.doc.writeRows(w, sorted.Checks)
	}
	p := page{color: o.Color}
	p.checks(&sorted)
	p.hooks(sorted.Hooks)
	p.sysctls(sorted.MisleadingSysctls)
	return p.writeTo(w)
}

func (p *page) checks(r *record.Doctor) {
	verdict := p.painted(green, "tcpwaitd can run here")
	if !r.OK {
		verdict = p.painted(red, "tcpwaitd cannot run here")
	}
	p.printf("%s: Linux %s, %s\n\n", verdict, r.Kernel, r.Arch)
	widest := 0
	for _, c := range r.Checks {
		widest = max(widest, len(c.Name))
	}
	for _, c := range r.Checks {
		result := p.painted(green, "ok  ")
		if !c.OK {
			result = p.painted(red, "FAIL")
		}
		hang := len("FAIL") + widest + 4
		p.printf("%s  %-*s  %s\n", result, widest, c.Name, wrap(c.Detail, hang))
		if c.Cure != "" {
			p.printf("%*s%s\n", hang, "", wrap("cure: "+c.Cure, hang))
		}
	}
}

// hooks lists what is used, and the reason for what is not.
func (p *page) hooks(hooks []event.Hook) {
	if len(hooks) == 0 {
		return
	}
	fact, hook := len("FACT"), len("HOOK")
	for _, h := range hooks {
		fact, hook = max(fact, len(h.Fact)), max(hook, len(h.Hook))
	}
	p.printf("\n%s\n", p.painted(bold, fmt.Sprintf("USED  %-*s  %-*s  KIND", fact, "FACT", hook, "HOOK")))
	for _, h := range hooks {
		used := p.painted(green, "yes ")
		if !h.Attached {
			used = "no  "
		}
		p.printf("%s  %-*s  %-*s  %s\n", used, fact, h.Fact, hook, h.Hook, h.Kind)
		if !h.Attached {
			const hang = len("USED  ")
			p.printf("%*s%s\n", hang+2, "", wrap(h.Reason, hang+2))
		}
	}
}

// sysctls tells of the settings that somebody has changed, and names the others.
func (p *page) sysctls(list []record.Sysctl) {
	if len(list) == 0 {
		return
	}
	var untouched []string
	p.printf("\nSettings that cure neither CLOSE_WAIT nor TIME_WAIT, whatever the web says:\n")
	for _, s := range list {
		if !s.Changed && s.NamespacesChanged == 0 {
			untouched = append(untouched, s.Name+" = "+s.Value)
			continue
		}
		p.printf("%s\n%s%s\n", p.painted(yellow, sysctlFound(&s)), indent, wrap(s.Note, len(indent)))
	}
	if len(untouched) > 0 {
		p.printf("%s\n", wrap("at the default, or not misleading as set: "+strings.Join(untouched, ", "), 0))
	}
}

func sysctlFound(s *record.Sysctl) string {
	text := s.Name + " = " + s.Value
	if s.Default != "" {
		text += " (default " + s.Default + ")"
	}
	others := s.NamespacesChanged
	if s.Changed {
		others--
	}
	switch {
	case len(s.Files) > 0:
		text += " in " + strings.Join(s.Files, ", ")
	case others > 0 && s.Changed:
		text += fmt.Sprintf(", changed in %d of the other network namespaces as well", others)
	case others > 0:
		text += fmt.Sprintf(", but changed in %d of the other network namespaces", others)
	}
	return text
}
