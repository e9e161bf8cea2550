package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/tcpwaitd/tcpwaitd/internal/pipeline"
)

var _ backend = (*pipeline.Engine)(nil)

// openBackend makes the real backend.
func openBackend(_ context.Context, c backendConfig) (backend, error) {
	cfg := pipeline.Config{
		Now: c.Now, SyscallAccept: c.SyscallAccept, Stacks: c.Stacks, Lines: c.Lines, Debuginfod: c.Debuginfod,
		CRIEndpoint: os.Getenv(pipeline.CRIEndpointEnv),
	}
	cfg.Log = slog.New(slog.NewTextHandler(c.Messages, &slog.HandlerOptions{
		Level: level(c.Verbose), ReplaceAttr: dropTime,
	}))
	e, err := pipeline.New(cfg)
	if err != nil {
		// Not returned as it is: a nil engine is no nil backend.
		return nil, err
	}
	return e, nil
}

func level(verbose bool) slog.Level {
	if verbose {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// dropTime: messages are read as they come, and a journal has its own time.
func dropTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
