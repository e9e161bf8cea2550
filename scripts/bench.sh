#!/usr/bin/env bash
# Measures what tcpwaitd costs beside the tools people use now, and writes it into
# docs/performance.md; with arguments it does what internal/bench does with them (-h).
# $PEERS names the tcpstates and tcplife of libbpf-tools, or directories with them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "$(id -u)" != 0 ]; then
	echo "measuring needs root: sudo make bench" >&2
	exit 5
fi
if [ $# = 0 ]; then
	set -- -write
fi
mkdir -p bin
go build -o bin/bench ./internal/bench
exec bin/bench "$@"
