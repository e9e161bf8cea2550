package report

import "github.com/tcpwaitd/tcpwaitd/internal/record"

// The names that --fields and --sort take, for completion: those of the records, and those
// that only tables and CSV know.

// SocketFields are those of List.
func SocketFields() []string {
	l, err := NewList(Options{Format: Table})
	if err != nil {
		return nil
	}
	return columnNames(l.all)
}

// TransitionFields are those of Tail.
func TransitionFields() []string {
	var all []column[*transitionRow]
	for _, f := range leavesOf[record.Transition]() {
		all = append(all, column[*transitionRow]{name: f.path})
	}
	return columnNames(override(all, transitionColumns(nil)))
}

// SuspectFields are those of Diagnosis.
func SuspectFields() []string { return allNames(leavesOf[record.Suspect]()) }

// ExplainFields are those of Explain.
func ExplainFields() []string { return allNames(leavesOf[record.Socket]()) }

// CheckFields are those of Doctor.
func CheckFields() []string { return allNames(leavesOf[record.Check]()) }

// GroupFields are those of States, by pid, container or netns.
func GroupFields(by string) []string {
	if by == "" {
		return nil
	}
	return columnNames((&States{by: by}).groupColumns(nil))
}
