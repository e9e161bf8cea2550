package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/ports"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

func cures(*testing.T) string {
	var rows [][]string
	for _, c := range ports.Cures() {
		rows = append(rows, []string{c.Name, c.When, tests(c.Shown)})
	}
	return table([]string{"what helps", "said when", "shown by"}, rows)
}

func noCures(*testing.T) string {
	var rows [][]string
	for _, c := range ports.NoCures() {
		rows = append(rows, []string{c.Name, c.Why, tests([]string{c.Shown})})
	}
	return table([]string{"what does not help", "why", "shown by"}, rows)
}

func misleading(*testing.T) string {
	var rows [][]string
	for _, m := range ports.MisleadingSettings() {
		standard := m.Default
		if standard == "" {
			standard = "depends on memory"
		}
		if m.Gone {
			standard = "gone"
		}
		rows = append(rows, []string{"`" + m.Name + "`", standard, m.Note})
	}
	return table([]string{"setting", "default", "what it does, and what not"}, rows)
}

func machine(*testing.T) string {
	var rows [][]string
	for _, a := range testenv.Machine() {
		rows = append(rows, []string{a.Old.String(), a.New.String(), a.Label, "`" + a.Kernel + "`"})
	}
	return table([]string{"from", "to", "because of", "in the kernel"}, rows)
}

func tests(names []string) string { return "`" + strings.Join(names, "`, `") + "`" }

var (
	testName = regexp.MustCompile("`(Test[A-Z][A-Za-z0-9]*)`")
	noteUsed = regexp.MustCompile(`\[\^([a-z0-9]+)\]`)
	noteLine = regexp.MustCompile(`(?m)^\[\^([a-z0-9]+)\]: (.+)$`)
	// proof is what a note must have: a test, a section of an RFC, or a place in the kernel.
	proof = regexp.MustCompile("`Test[A-Z]|RFC \\d+, sections? \\d|`(?:net|include)/[a-z0-9_/]+\\.[ch]")
)

// Who is on call at night has no time to doubt.
func TestEachClaimHasProof(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "states.md"))
	if err != nil {
		t.Fatal(err)
	}
	notes := map[string]bool{}
	for _, m := range noteLine.FindAllStringSubmatch(string(text), -1) {
		notes[m[1]] = false
		if !proof.MatchString(m[2]) {
			t.Errorf("note %s names no test, RFC or kernel function: %s", m[1], m[2])
		}
	}
	body := noteLine.ReplaceAllString(string(text), "")
	for _, m := range noteUsed.FindAllStringSubmatch(body, -1) {
		if _, known := notes[m[1]]; !known {
			t.Errorf("there is no note %s", m[1])
		}
		notes[m[1]] = true
	}
	for name, used := range notes {
		if !used {
			t.Errorf("nobody refers to note %s", name)
		}
	}
	for _, claim := range claims(body) {
		if !noteUsed.MatchString(claim) {
			t.Errorf("no note says why this is true: %s", claim)
		}
	}
}

// claims are the items of lists, which is where the page says how things are.
func claims(body string) []string {
	var found []string
	for block := range strings.SplitSeq(marked.ReplaceAllString(body, ""), "\n\n") {
		if !strings.HasPrefix(block, "- ") && !strings.HasPrefix(block, "1. ") {
			continue
		}
		found = append(found, regexp.MustCompile(`(?m)^(?:- |\d\. )`).Split(block, -1)[1:]...)
	}
	return found
}

// A test that is named anywhere in docs/ exists.
func TestNamedTestsExist(t *testing.T) {
	known := testNames(t)
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	met := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testName.FindAllStringSubmatch(string(text), -1) {
			met++
			if !known[m[1]] {
				t.Errorf("%s names %s, which there is not", page, m[1])
			}
		}
	}
	if met == 0 {
		t.Error("no page names a test: this one holds nothing any more")
	}
}

func testNames(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test[A-Z][A-Za-z0-9]*)\(`)
	for _, top := range []string{"cmd", "e2e", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(name string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(name, "_test.go") {
				return err
			}
			text, err := os.ReadFile(name)
			for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
				known[m[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return known
}
