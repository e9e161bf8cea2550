#!/usr/bin/env bash
# The committed objects must be what bpf/ compiles to with the pinned compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
packages=(internal/tracer internal/bench/floor)
sums() { sha256sum "${packages[@]/%//bpf_bpfel.go}" "${packages[@]/%//bpf_bpfel.o}"; }
before=$(sums)
go generate "${packages[@]/#/./}"
if [ "$before" != "$(sums)" ]; then
	echo "bpf_bpfel.* is not what bpf/ compiles to: run 'make generate' with clang-14 and commit the result"
	git --no-pager diff --stat -- "${packages[@]}" || true
	exit 1
fi
echo "generated files are up to date"
