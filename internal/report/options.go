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
)

// Formats lists what --output takes.
func Formats() []string {
	return []string{string(Table), string(Wide), string(JSON), string(JSONL), string(CSV)}
}

// ParseFormat returns an *OptionError for an unknown name.
func ParseFormat(name string) (Format, error) {
	if !slices.Contains(Formats(), name) {
		return "", &OptionError{"output", name, "one of " + strings.Join(Formats(), ", ")}
	}
	return Format(name), nil
}

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
