package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/tcpwaitd/tcpwaitd/internal/report"
)

// complete offers the words of a flag to the shell.
func complete(cmd *cobra.Command, flag string, words []string) {
	// The only error is a flag that does not exist, and the tests complete each.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// completeOutput offers the formats that a command has.
func completeOutput(root *cobra.Command) {
	_ = root.RegisterFlagCompletionFunc("output", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		formats := report.Formats()
		switch cmd.Name() {
		case "list", "diagnose", "explain":
			formats = append(formats, report.ProfileFormats()...)
		}
		return formats, cobra.ShellCompDirectiveNoFileComp
	})
}

// completeFields offers the names of the fields of a command's rows.
func completeFields(root *cobra.Command) {
	_ = root.RegisterFlagCompletionFunc("fields", func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		done := typed[:strings.LastIndexByte(typed, ',')+1]
		return completions(done, fieldNames(cmd)), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
	_ = root.RegisterFlagCompletionFunc("sort", func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		if cmd.Name() == "tail" || cmd.Name() == "kill" {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		descending := typed[:len(typed)-len(strings.TrimPrefix(typed, "-"))]
		return completions(descending, fieldNames(cmd)), cobra.ShellCompDirectiveNoFileComp
	})
}

func completions(before string, names []string) []string {
	all := make([]string, 0, len(names))
	for _, n := range names {
		all = append(all, before+n)
	}
	return all
}

func fieldNames(cmd *cobra.Command) []string {
	switch cmd.Name() {
	case "list":
		if by, _ := cmd.Flags().GetString("by"); by != "" {
			return report.GroupedFields()
		}
		return report.SocketFields()
	case "explain":
		return report.ExplainFields()
	case "tail":
		return report.TransitionFields()
	case "diagnose":
		return report.SuspectFields()
	case "kill":
		return report.KillFields()
	case "doctor":
		return report.CheckFields()
	case "timewait":
		return report.BudgetFields()
	case "states":
		by, _ := cmd.Flags().GetString("by")
		return report.GroupFields(by)
	}
	return nil
}
