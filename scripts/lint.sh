#!/usr/bin/env bash
# Everything that judges sources without running them.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/fmt.sh --check
go vet ./...
go tool -modfile=tools/go.mod golangci-lint run
shellcheck scripts/*.sh scripts/vm/*.sh scripts/vm/init .ci/run
echo "lint is clean"
