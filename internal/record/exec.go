package record

import "github.com/tcpwaitd/tcpwaitd/internal/event"

// Exec is the diagnosis of a command that was run, and how that ended.
type Exec struct {
	Diagnosis
	// Command are the words of the command, escaped.
	Command []string `json:"command"`
	// ExitCode is that of the command, 128+N if it died of signal N.
	ExitCode int   `json:"exit_code"`
	GraceNS  int64 `json:"grace_ns"`
	// Unclosed counts the sockets that were never closed, flagged or not.
	Unclosed          int   `json:"unclosed"`
	UnclosedLongestNS int64 `json:"unclosed_longest_ns,omitzero"`
	// ClosedAtExit are those of Unclosed that were closed only when their process ended.
	ClosedAtExit int `json:"closed_at_exit"`
	// StillRunning are the processes of the command that outlived it.
	StillRunning []Task `json:"still_running"`
}

// TaskOf escapes the name.
func TaskOf(t *event.Task) Task { return taskOf(t) }
