package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func TestFill(t *testing.T) {
	r := newReport(io.Discard)
	r.machine = "a machine"
	r.add(&table{name: "rate", head: []string{"attached", "rate"}, rows: [][]string{{"a|b", "23"}}})
	const page = "# Title\n<!-- measured: machine -->\nold\n<!-- end -->\nby hand\n" +
		"<!-- measured: rate -->\nold\n<!-- end -->\n<!-- measured: list -->\nold\n<!-- end -->\n"
	const want = "# Title\n<!-- measured: machine -->\n\nMeasured on a machine.\n\n<!-- end -->\nby hand\n" +
		"<!-- measured: rate -->\n\n| attached | rate |\n| --- | --: |\n| a\\|b | 23 |\n\n<!-- end -->\n" +
		"<!-- measured: list -->\n\nnot measured: no memory\n\n<!-- end -->\n"
	r.fail("list", errors.New("no memory"))
	got, err := r.fill(page)
	if err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	if again, err := r.fill(got); err != nil || again != got {
		t.Errorf("filled again it is another page: %v\n%s", err, again)
	}
	r.add(&table{name: "unknown", head: []string{"x"}})
	if _, err := r.fill(page); err == nil {
		t.Error("a table without a section is no error")
	}
}

// The page has a section for each table that a run makes.
func TestPageHasSections(t *testing.T) {
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"machine", "targets", "cost", "rate", "list", "list_cost", "memory", "react", "stacks", "go"} {
		if strings.Count(string(page), "<!-- measured: "+name+" -->\n") != 1 {
			t.Errorf("section %s is not there once", name)
		}
	}
}

func TestPlots(t *testing.T) {
	r := newReport(io.Discard)
	sizes := []int{1000, 10_000, 100_000}
	for i, n := range sizes {
		r.set(listKey(listTable, n)+"wall", []float64{20, 60, 300}[i])
		r.set(listKey(listSs, n)+"wall", []float64{10, 133, 6152}[i])
		r.set(listKey(listFloor, n)+"passes", []float64{0.9, 14, 134}[i])
	}
	r.set(rateKey(toolTailJSON, 1)+"ratio", 0.92)
	for name, picture := range map[string]string{"list": r.drawList(sizes), "rate": r.drawRate()} {
		d := xml.NewDecoder(strings.NewReader(picture))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if strings.Contains(picture, "NaN") || strings.Contains(picture, "Inf") {
			t.Errorf("%s: a place that is no number:\n%s", name, picture)
		}
	}
	if got := strings.Count(r.drawRate(), notMeasured); got != 19 {
		t.Errorf("%d bars are said to be missing, want 19", got)
	}
}

func TestLogAxis(t *testing.T) {
	a := logAxis{low: 10, high: 1000, from: 100, to: 300}
	if got := a.at(100); got != 200 {
		t.Errorf("100 is at %v, want 200", got)
	}
	if got := a.powers(); len(got) != 3 {
		t.Errorf("powers of ten: %v", got)
	}
}
