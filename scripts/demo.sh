#!/usr/bin/env bash
# make demo: a server of our own that is told EOF and forgets to close, ten times a
# second, and what tcpwaitd says of it.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
	echo "the demo needs root: sudo make demo" >&2
	exit 5
fi
mkdir -p bin
CGO_ENABLED=0 go build -o bin/leaker ./internal/testenv/leaker

out=$(mktemp)
# The leaker ends when its standard input does, and tells in JSON what it does.
# shellcheck disable=SC2034 # the coprocess is for its standard input and its pid
coproc LEAKER { exec bin/leaker -cause grow -n 997 -every 100ms >"$out"; }
leaker=$LEAKER_PID
trap 'kill "$leaker" 2>/dev/null || true; rm -f "$out"' EXIT
until grep -q '"ready"' "$out"; do
	kill -0 "$leaker" || exit 1
	sleep 0.1
done
echo "pid $leaker accepts ten connections a second, is told EOF on each, and never calls close():"
for command in "./tcpwaitd diagnose --for 4s --threshold 2s" "./tcpwaitd list -p $leaker"; do
	printf '\n$ sudo %s\n' "${command#./}"
	# 3 is the verdict "leaking", which is what the demo is about.
	$command >"$out.screen" || [ $? = 3 ]
	head -n 24 "$out.screen"
done
rm -f "$out.screen"
