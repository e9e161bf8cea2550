package tracer

import (
	"errors"
	"fmt"
)

// ErrClosed is returned by calls after Close.
var ErrClosed = errors.New("tracer is closed")

// CannotRunError says that this host cannot be traced: the one thing that is missing and
// its cure. Commands exit with 5.
type CannotRunError struct {
	Cause, Cure string
	Err         error
}

// Reason is the cause with what the kernel said of it.
func (e *CannotRunError) Reason() string {
	if e.Err == nil {
		return e.Cause
	}
	return fmt.Sprintf("%s: %v", e.Cause, e.Err)
}

// Error gives cause and cure in one line.
func (e *CannotRunError) Error() string { return "cause: " + e.Reason() + "; cure: " + e.Cure }

// Unwrap returns the underlying error, nil if there is none.
func (e *CannotRunError) Unwrap() error { return e.Err }
