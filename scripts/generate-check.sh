#!/usr/bin/env bash
# The committed objects must be what bpf/ compiles to with the pinned compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
before=$(sha256sum internal/tracer/bpf_bpfel.*)
go generate ./internal/tracer
after=$(sha256sum internal/tracer/bpf_bpfel.*)
if [ "$before" != "$after" ]; then
	echo "internal/tracer/bpf_bpfel.* is not what bpf/ compiles to: run 'make generate' with clang-14 and commit the result"
	git --no-pager diff --stat -- internal/tracer || true
	exit 1
fi
echo "generated files are up to date"
