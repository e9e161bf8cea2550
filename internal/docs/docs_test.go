package docs

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

var update = flag.Bool("update", false, "rewrite the generated sections of docs/")

// section is a part of a page that is made from code.
type section struct {
	page   string
	render func(*testing.T) string
}

// sections by the name in their opening marker.
func sections() map[string]section {
	return map[string]section{
		"causes":     {"causes.md", causes},
		"blame":      {"causes.md", blame},
		"advice":     {"causes.md", advice},
		"parameters": {"causes.md", parameters},
		"powers":     {"causes.md", powers},
		"packages":   {"architecture.md", packageTable},
		"hooks":      {"architecture.md", hooks},
		"cures":      {"states.md", cures},
		"no_cures":   {"states.md", noCures},
		"misleading": {"states.md", misleading},
		"machine":    {"states.md", machine},
	}
}

// marked finds generated sections: name and content.
var marked = regexp.MustCompile(`(?s)<!-- generated: ([a-z_]+) -->\n(.*?)<!-- end -->\n`)

func TestGeneratedSections(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	met := map[string]int{}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		want := marked.ReplaceAllFunc(text, func(old []byte) []byte {
			name := string(marked.FindSubmatch(old)[1])
			s, known := sections()[name]
			if !known || s.page != filepath.Base(page) {
				t.Errorf("%s: nothing makes the section %q of this page", page, name)
				return old
			}
			met[name]++
			return fmt.Appendf(nil, "<!-- generated: %s -->\n\n%s\n<!-- end -->\n", name, s.render(t))
		})
		if open, whole := bytes.Count(text, []byte("<!-- generated: ")), len(marked.FindAll(text, -1)); open != whole {
			t.Errorf("%s: %d sections begin, %d are whole", page, open, whole)
		}
		check(t, page, text, want)
	}
	for _, name := range slices.Sorted(maps.Keys(sections())) {
		if met[name] != 1 {
			t.Errorf("section %s is in docs/ %d times, want once", name, met[name])
		}
	}
}

func check(t *testing.T, page string, got, want []byte) {
	t.Helper()
	switch {
	case bytes.Equal(got, want):
	case *update:
		if err := os.WriteFile(page, want, 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is not what the code says (go test ./internal/docs -update):\n%s", page, cmp.Diff(string(got), string(want)))
	}
}

// table writes a Markdown table.
func table(head []string, rows [][]string) string {
	var b strings.Builder
	rule := slices.Repeat([]string{"---"}, len(head))
	for _, row := range append([][]string{head, rule}, rows...) {
		for _, cell := range row {
			b.WriteString("| " + strings.ReplaceAll(cell, "|", `\|`) + " ")
		}
		b.WriteString("|\n")
	}
	return b.String()
}

func causes(*testing.T) string {
	var rows [][]string
	for i, r := range diagnosis.Rules() {
		rows = append(rows, []string{fmt.Sprint(i + 1), r.When, word(r.Cause), r.Fault})
	}
	return table([]string{"", "when", "cause", "who is at fault"}, rows)
}

func word(c diagnosis.Cause) string {
	if c == diagnosis.None {
		return "none"
	}
	return "`" + string(c) + "`"
}

func blame(*testing.T) string {
	var rows [][]string
	for i, b := range diagnosis.Blames() {
		causes := "every other"
		if len(b.Causes) > 0 {
			causes = word(b.Causes[0])
		}
		rows = append(rows, []string{fmt.Sprint(i + 1), causes, b.Who})
	}
	return table([]string{"", "cause", "who is blamed"}, rows)
}

// advice gives each cause once, in the order of the table.
func advice(*testing.T) string {
	var rows [][]string
	seen := map[diagnosis.Cause]bool{}
	for _, r := range diagnosis.Rules() {
		if text := diagnosis.AdviceFor(r.Cause); text != "" && !seen[r.Cause] {
			seen[r.Cause] = true
			rows = append(rows, []string{word(r.Cause), text})
		}
	}
	return table([]string{"cause", "what it means"}, rows)
}

func parameters(*testing.T) string {
	var rows [][]string
	for _, p := range diagnosis.Parameters() {
		rows = append(rows, []string{p.Name, p.Value, p.What})
	}
	return table([]string{"parameter", "value", "what it is"}, rows)
}

func powers(*testing.T) string {
	var rows [][]string
	for _, p := range diagnosis.Powers() {
		rows = append(rows, []string{p.Name, p.Value, p.What})
	}
	return table([]string{"window", "leaked per minute", "leaked in the window"}, rows)
}

func packageTable(t *testing.T) string {
	t.Helper()
	all := packages(t)
	var rows [][]string
	for _, dir := range inOrder(all) {
		p := all[dir]
		if len(p.imports) == 0 && len(p.ours()) == 0 && p.about == "" {
			continue
		}
		var imports []string
		for _, imported := range p.ours() {
			imports = append(imports, base(imported))
		}
		rows = append(rows, []string{"`" + dir + "`", p.about, strings.Join(imports, ", ")})
	}
	return table([]string{"package", "what it is", "imports of ours"}, rows)
}

func hooks(*testing.T) string {
	var rows [][]string
	for _, f := range tracer.HookTable() {
		rows = append(rows, []string{"`" + f.Name + "`", f.Ways[0], strings.Join(f.Ways[1:], "; "), f.Without})
	}
	return table([]string{"fact", "first choice", "fallbacks, in order", "without any"}, rows)
}
