package main

import (
	"context"
	"log/slog"

	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
)

var _ backend = (*pipeline.Engine)(nil)

// openBackend makes the real backend.
func openBackend(_ context.Context, c backendConfig) (backend, error) {
	cfg := pipeline.Config{Now: c.Now, SyscallAccept: c.SyscallAccept}
	if c.Verbose {
		cfg.Log = slog.New(slog.NewTextHandler(c.Messages, nil))
	}
	e, err := pipeline.New(cfg)
	if err != nil {
		// Not returned as it is: a nil engine is no nil backend.
		return nil, err
	}
	return e, nil
}
