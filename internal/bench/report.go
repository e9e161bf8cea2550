package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is what was measured: values by key for the targets, tables for people, and the
// reasons for what could not be measured.
type report struct {
	out     io.Writer
	machine string
	tables  []*table
	notes   []string
	values  map[string]float64
	// missing has the reason for a key, or for all keys that begin with it.
	missing map[string]string
}

// table is one of docs/performance.md, by its name there.
type table struct {
	name string
	head []string
	rows [][]string
}

func newReport(out io.Writer) *report {
	return &report{out: out, values: map[string]float64{}, missing: map[string]string{}}
}

// set keeps a value; what is no number was not measured.
func (r *report) set(key string, value float64) {
	if !math.IsNaN(value) {
		r.values[key] = value
	}
}

// fail keeps the reason why everything whose key begins so was not measured.
func (r *report) fail(prefix string, err error) {
	r.missing[prefix] = reasonOf(err)
	r.say("%s: not measured: %s", prefix, r.missing[prefix])
}

// reasonOf is an error as one line, for tables.
func reasonOf(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "out of time"
	}
	return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
}

// notRun is the reason for what no part of the run was to measure.
const notRun = "not in this run"

// why is the reason for a key that has no value.
func (r *report) why(key string) string {
	best := ""
	for prefix := range r.missing {
		if strings.HasPrefix(key, prefix) && len(prefix) >= len(best) {
			best = prefix
		}
	}
	if reason := r.missing[best]; reason != "" {
		return reason
	}
	return notRun
}

// say shows how far the run is.
func (r *report) say(format string, values ...any) {
	fmt.Fprintf(r.out, format+"\n", values...)
}

// note keeps a line about the run as a whole.
func (r *report) note(format string, values ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, values...))
	fmt.Fprintln(r.out, r.notes[len(r.notes)-1])
}

// add keeps a table and shows it.
func (r *report) add(t *table) {
	r.tables = append(r.tables, t)
	fmt.Fprintf(r.out, "\n%s\n", t.name)
	t.print(r.out)
}

// number writes a figure with three digits that matter.
func number(x float64) string {
	switch {
	case math.IsNaN(x):
		return "-"
	case x != 0 && math.Abs(x) < 10:
		return fmt.Sprintf("%.2f", x)
	case math.Abs(x) < 100:
		return fmt.Sprintf("%.1f", x)
	default:
		return thousands(x)
	}
}

func thousands(x float64) string {
	digits := fmt.Sprintf("%.0f", math.Abs(x))
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	if x < 0 {
		return "-" + digits
	}
	return digits
}

// print aligns the columns; those of numbers to the right.
func (t *table) print(w io.Writer) {
	wide := make([]int, len(t.head))
	all := append([][]string{t.head}, t.rows...)
	for _, row := range all {
		for i, cell := range row {
			wide[i] = max(wide[i], len([]rune(cell)))
		}
	}
	for _, row := range all {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 && t.numeric(i) {
				fmt.Fprintf(&line, "%*s  ", wide[i], cell)
			} else {
				fmt.Fprintf(&line, "%-*s  ", wide[i], cell)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// numeric reports whether a column begins with numbers wherever there is something.
func (t *table) numeric(column int) bool {
	for _, row := range t.rows {
		if cell := row[column]; cell != "" && cell != "-" && !strings.ContainsAny(cell[:1], "0123456789-.") {
			return false
		}
	}
	return true
}

// markdown writes it for docs/.
func (t *table) markdown() string {
	var b strings.Builder
	rule := make([]string, len(t.head))
	for i := range rule {
		rule[i] = "---"
		if i > 0 && t.numeric(i) {
			rule[i] = "--:"
		}
	}
	for _, row := range append([][]string{t.head, rule}, t.rows...) {
		for _, cell := range row {
			b.WriteString("| " + strings.ReplaceAll(cell, "|", `\|`) + " ")
		}
		b.WriteString("|\n")
	}
	return b.String()
}

// describeMachine says where this was measured.
func describeMachine() string {
	var uts unix.Utsname
	// It cannot fail with an address of ours.
	_ = unix.Uname(&uts)
	load, _ := os.ReadFile("/proc/loadavg")
	one, _, _ := strings.Cut(string(load), " ")
	return fmt.Sprintf("Linux %s, %s, %d CPUs%s, load average %s at the beginning, %s",
		unix.ByteSliceToString(uts.Release[:]), unix.ByteSliceToString(uts.Machine[:]),
		runtime.NumCPU(), cpuModel(), one, time.Now().UTC().Format("2006-01-02"))
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, model, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
			return " (" + strings.Join(strings.Fields(model), " ") + ")"
		}
	}
	return ""
}
