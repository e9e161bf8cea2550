#!/usr/bin/env bash
# Everything that judges sources without running them.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/fmt.sh --check
go vet ./...
go tool -modfile=tools/go.mod golangci-lint run
shellcheck scripts/*.sh .ci/run
echo "lint is clean"
