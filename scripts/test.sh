#!/usr/bin/env bash
# Runs every test this machine allows. Arguments go to go test; $PACKAGES are the packages
# to test, all of them where it is not set.
set -euo pipefail
cd "$(dirname "$0")/.."

# The syscall-exit hooks are looked up there; everything else does without.
if [ "$(id -u)" = 0 ] && [ ! -d /sys/kernel/tracing/events ]; then
	mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null ||
		echo "tracefs cannot be mounted: tests that need it will say so"
fi
if [ "$(id -u)" != 0 ]; then
	echo "not root: tests against the kernel are skipped; run 'sudo make test' for all of them"
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
# -count=1: the kernel is an input that the test cache does not know.
go test -count=1 -timeout 20m -v "$@" "${PACKAGES:-./...}" >"$log" 2>&1 || status=$?

grep -aE '^(ok|FAIL|---? FAIL|panic:)|\[no test files\]' "$log" | grep -v 'no test files' || true
if [ "$status" != 0 ]; then
	echo "--- output of what failed"
	# Tests run beside each other: each line belongs to the test that was named last.
	awk '/^panic:/ {rest = 1} rest {print; next}
		/^=== / {name = $3; next}
		/^ *--- FAIL/ {printf "%s\n%s", $0, said[$3]}
		/^ *--- / {delete said[$3]; next}
		{said[name] = said[name] $0 "\n"}' "$log" | tail -n 300
	grep -naE 'cannot|undefined|build failed|setup failed' "$log" | head -n 20 || true
fi
skipped=$(grep -acE '^ *--- SKIP' "$log" || true)
if [ "$skipped" != 0 ]; then
	echo "--- skipped, with the reason"
	grep -a -A1 -E '^ *--- SKIP' "$log" | grep -v '^--$' || true
fi
echo "$(grep -acE '^ *--- PASS' "$log" || true) passed, $(grep -acE '^ *--- FAIL' "$log" || true) failed, $skipped skipped"
exit "$status"
