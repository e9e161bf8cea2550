// Package lifecycle is the state machine of waits: transitions and snapshots in,
// open and finished waits out. A wait is one stay of one socket in CLOSE_WAIT.
// It is pure: time is what the records say, and nothing here does I/O.
package lifecycle
