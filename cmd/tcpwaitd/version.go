package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/report"
)

// version is set by the linker in releases (-X main.version=v1.2.3).
var version string

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show the version",
		Long:    "Show the version, the revision it was built from, and the Go release and platform.",
		Example: "  tcpwaitd version\n  tcpwaitd version -o json",
		Args:    noArgs,
		RunE:    func(*cobra.Command, []string) error { return a.version() },
	}
}

// build is the record of a version.
type build struct {
	record.Head
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func thisBuild() build {
	b := build{
		Head:    record.Head{Schema: record.Schema, Kind: "version"},
		Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Revision = s.Value
		}
	}
	return b
}

func (a *app) version() error {
	format, err := report.ParseFormat(a.output)
	switch {
	case err != nil:
		return err
	case format == report.CSV:
		return usagef("invalid value %q for --output: want one of table, wide, json, jsonl: a version has no rows", a.output)
	case len(a.fields) > 0:
		return usagef("invalid value %q for --fields: want nothing: a version has no rows", strings.Join(a.fields, ","))
	case a.sort != "":
		return usagef("invalid value %q for --sort: want nothing: a version has no rows", a.sort)
	}
	b := thisBuild()
	if format == report.JSON || format == report.JSONL {
		return json.NewEncoder(a.stdout).Encode(b)
	}
	words := slices.DeleteFunc([]string{"tcpwaitd", b.Version, b.Revision, b.Go, b.Platform},
		func(w string) bool { return w == "" })
	_, err = fmt.Fprintln(a.stdout, strings.Join(words, " "))
	return err
}
