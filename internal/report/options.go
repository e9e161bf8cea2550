package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Format is a way to write records.
type Format string

// The formats. For streams JSON and JSONL are the same.
const (
	Table Format = "table"
	Wide  Format = "wide"
	JSON  Format = "json"
	JSONL Format = "jsonl"
	CSV   Format = "csv"
	// PProf and Folded are profiles: only of what has stacks.
	PProf  Format = "pprof"
	Folded Format = "folded"
)

// Formats lists what --output takes everywhere.
func Formats() []string {
	return []string{string(Table), string(Wide), string(JSON), string(JSONL), string(CSV)}
}

// ProfileFormats lists what --output takes besides where there are stacks.
func ProfileFormats() []string { return []string{string(PProf), string(Folded)} }

// ParseFormat returns an *OptionError for a name that is neither of Formats nor of also.
func ParseFormat(name string, also ...string) (Format, error) {
	valid := append(Formats(), also...)
	if !slices.Contains(valid, name) {
		want := "one of " + strings.Join(valid, ", ")
		if slices.Contains(ProfileFormats(), name) {
			want += ": there are no stacks to make a profile of"
		}
		return "", &OptionError{"output", name, want}
	}
	return Format(name), nil
}

// Profile reports whether the format is a profile.
func (f Format) Profile() bool { return f == PProf || f == Folded }

// Options are the same for all writers.
type Options struct {
	Format Format
	// Fields are the columns, by the names of the record's fields; owner stands for all
	// of owner.*. Empty means the format's own choice.
	Fields []string
	// Sort is the field to sort rows by, with a leading - from the largest.
	Sort  string
	Color bool
	// Location is the zone of times in tables, nil means UTC.
	Location *time.Location
	// Threshold is the age from which a wait counts as stuck.
	Threshold time.Duration
	// Filtered: the user chose among the sockets, so how many were looked at says nothing.
	Filtered bool
	// Verbose shows whole stacks in tables, not only the place that stands for them.
	Verbose bool
	// Stacks: they were asked for, so tables have room for them.
	Stacks bool
	// Version is that of the program, for formats that keep it.
	Version string
	// Messages takes what a table has no place for, nil for nothing.
	Messages io.Writer
}

// OptionError is an option the writer cannot take.
type OptionError struct{ Flag, Value, Want string }

func (e *OptionError) Error() string {
	text, want := fmt.Sprintf("invalid value %q for --%s: want ", e.Value, e.Flag), e.Want
	if len(want) > 2*lineWidth {
		// The command's name comes before it.
		const before = len("tcpwaitd diagnose: ")
		want = wrapFrom(want, before+len(text), len(indent))
	}
	return text + want
}

func (o *Options) tabular() bool { return o.Format == Table || o.Format == Wide }

func (o *Options) message(format string, args ...any) {
	if o.Messages != nil {
		fmt.Fprintf(o.Messages, format+"\n", args...)
	}
}

func (o *Options) location() *time.Location {
	if o.Location == nil {
		return time.UTC
	}
	return o.Location
}
