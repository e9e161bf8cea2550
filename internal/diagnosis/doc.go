// Package diagnosis turns kernel facts into causes, verdicts and advice. It is
// pure: no clock, no I/O; the same input gives the same words.
package diagnosis
