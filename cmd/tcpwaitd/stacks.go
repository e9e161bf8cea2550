package main

import (
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
)

// stackFlags are those of the commands that take stacks. Each command has its own, for the
// defaults differ.
type stackFlags struct {
	mode       string
	lines      bool
	debuginfod []string
}

func stackModes() []string {
	return []string{string(pipeline.StacksOff), string(pipeline.StacksOn), string(pipeline.StacksAll)}
}

// bind adds the flags. mode is the default of --stacks.
func (s *stackFlags) bind(cmd *cobra.Command, mode pipeline.StackMode) {
	f := cmd.Flags()
	f.StringVar(&s.mode, "stacks", string(mode), "off; on: where sockets are opened, first used, told EOF, and where a stuck wait is closed; all: every close too")
	f.BoolVar(&s.lines, "lines", false, "source lines of C, C++ and Rust code, where there is debug information; takes time")
	f.StringArrayVar(&s.debuginfod, "debuginfod", nil, "server to ask for missing symbols (https://debuginfod.debian.net); repeatable, none by default")
	complete(cmd, "stacks", stackModes())
}

// check refuses what makes no sense. Nothing is asked of the network here.
func (s *stackFlags) check() error {
	if !slices.Contains(stackModes(), s.mode) {
		return usagef("invalid value %q for --stacks: want one of %s", s.mode, strings.Join(stackModes(), ", "))
	}
	for _, server := range s.debuginfod {
		u, err := url.Parse(server)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return usagef("invalid value %q for --debuginfod: want a URL such as https://debuginfod.debian.net", server)
		}
	}
	return nil
}
