#!/usr/bin/env bash
# Formats Go (gofumpt, through golangci-lint) and C. --check only reports.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1-}" = --check ]; then
	clang-format-14 --dry-run -Werror bpf/*.h bpf/*.c bpf/bench/*.c
	go tool -modfile=tools/go.mod golangci-lint fmt --diff
else
	clang-format-14 -i bpf/*.h bpf/*.c bpf/bench/*.c
	go tool -modfile=tools/go.mod golangci-lint fmt
fi
