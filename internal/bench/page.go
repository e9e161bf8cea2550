package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// measuredSection is a part of docs/performance.md that a run replaces; the rest is written by
// hand.
var measuredSection = regexp.MustCompile(`(?s)<!-- measured: ([a-z_]+) -->\n.*?<!-- end -->\n`)

// write puts the results into docs/, and draws the pictures.
func (r *report) write(ctx context.Context, sizes []int) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	page := filepath.Join(root, "docs", "performance.md")
	text, err := os.ReadFile(page)
	if err != nil {
		return fmt.Errorf("read page: %w", err)
	}
	fresh, err := r.fill(string(text))
	if err != nil {
		return fmt.Errorf("fill %s: %w", filepath.Base(page), err)
	}
	images := filepath.Join(root, "docs", "img")
	return errors.Join(
		os.WriteFile(page, []byte(fresh), 0o644),
		os.WriteFile(filepath.Join(images, "performance-list.svg"), []byte(r.drawList(sizes)), 0o644),
		os.WriteFile(filepath.Join(images, "performance-rate.svg"), []byte(r.drawRate()), 0o644),
	)
}

// fill replaces each measured section. It fails for a section that nothing makes, and for a
// table that has no section.
func (r *report) fill(page string) (string, error) {
	sections := map[string]string{"machine": r.machineText()}
	for _, t := range r.tables {
		sections[t.name] = t.markdown()
	}
	var errs []error
	page = measuredSection.ReplaceAllStringFunc(page, func(old string) string {
		name := measuredSection.FindStringSubmatch(old)[1]
		text, ok := sections[name]
		delete(sections, name)
		if !ok {
			text = notMeasured + ": " + r.why(name) + "\n"
		}
		return fmt.Sprintf("<!-- measured: %s -->\n\n%s\n<!-- end -->\n", name, text)
	})
	for name := range sections {
		errs = append(errs, fmt.Errorf("no section for %s", name))
	}
	return page, errors.Join(errs...)
}

// machineText says where and under which circumstances.
func (r *report) machineText() string {
	text := "Measured on " + r.machine + ".\n"
	for _, note := range r.notes {
		text += "\n" + strings.ToUpper(note[:1]) + note[1:] + ".\n"
	}
	return text
}
