package tracer

import (
	"errors"
	"fmt"
)

// ErrClosed is returned by calls after Close.
var ErrClosed = errors.New("tracer is closed")

// CannotRunError says why this host cannot be traced, and the one thing that cures it.
type CannotRunError struct {
	Cause, Cure string
	Err         error
}

// Error gives cause and cure in one line.
func (e *CannotRunError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %v; %s", e.Cause, e.Err, e.Cure)
	}
	return fmt.Sprintf("%s; %s", e.Cause, e.Cure)
}

// Unwrap returns the underlying error, nil if there is none.
func (e *CannotRunError) Unwrap() error { return e.Err }
