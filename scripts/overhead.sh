#!/usr/bin/env bash
# Measures what tcpwaitd costs while a healthy server sees many short connections.
#
#   scripts/overhead.sh [-n CONNECTIONS] [-r ROUNDS] [-w WORKERS]
#
# It prints three tables: connections per second with nothing, tail and diagnose
# attached (interleaved, medians of the rounds); time per run of each of our programs
# (kernel.bpf_stats_enabled, on for that part only: it costs something itself); and CPU
# and memory of the agent. Both ends of each connection are on this host, in a
# network namespace of their own, so a connection is ten transitions. More workers are
# more pairs of server and client at a time, sharing the connections.
#
# Needs root, Go and iproute2. Ends after about 40 s; no new run begins after 75 s.
# Ratios hold from run to run, absolute figures drift by tens of percent.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

connections=20011
rounds=4
workers=1
last_start=75
run_limit=12
stats=/proc/sys/kernel/bpf_stats_enabled

die() {
	echo "overhead: $*" >&2
	exit 1
}

while getopts n:r:w: flag; do
	case $flag in
	n) connections=$OPTARG ;;
	r) rounds=$OPTARG ;;
	w) workers=$OPTARG ;;
	*) exit 2 ;;
	esac
done
[[ $connections$rounds$workers =~ ^[0-9]+$ && $connections -ge $workers && $rounds -ge 1 && $workers -ge 1 ]] ||
	die "-n, -r and -w want a number above 0"
[[ $(id -u) == 0 ]] || die "not root: run it with sudo"
command -v ip >/dev/null || die "no ip command: install iproute2"
[[ -r $stats ]] || die "this kernel does not count the run time of programs ($stats)"

work=$(mktemp -d)
namespace=tcpwaitd-overhead-$$
stats_before=$(<"$stats")
agent='' churners=()
connections=$((connections / workers * workers))

# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
	trap '' INT TERM
	local pid
	for pid in $agent "${churners[@]}"; do
		kill -TERM "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	ip netns del "$namespace" 2>/dev/null || true
	echo "$stats_before" >"$stats"
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# churn: sets rate to the connections per second of one run.
churn() {
	local from to worker pid
	ip netns add "$namespace"
	ip -n "$namespace" link set lo up
	from=$(date +%s%N)
	for ((worker = 0; worker < workers; worker++)); do
		timeout -k 1 "$run_limit" "$work/leaker" -netns "/run/netns/$namespace" \
			-cause healthy -n $((connections / workers)) </dev/null >"$work/churn.$worker" 2>&1 &
		churners+=($!)
	done
	for pid in "${churners[@]}"; do
		wait "$pid" || die "the workload failed: $(cat "$work"/churn.*)"
	done
	to=$(date +%s%N)
	churners=()
	ip netns del "$namespace"
	# Whatever ended with the namespace is not the next run's business.
	sleep 0.2
	rate=$((connections * 1000000000 / (to - from)))
}

# start OUT COMMAND...: runs tcpwaitd and returns when all its hooks are attached.
start() {
	local out=$1 i
	shift
	"$work/tcpwaitd" "$@" -v >"$out" 2>"$work/agent.err" &
	agent=$!
	for ((i = 0; i < 500; i++)); do
		# Hooks are told when everything is open; transitions is the last of them.
		! grep -q 'fact=transitions.*attached=true' "$work/agent.err" || return 0
		kill -0 "$agent" 2>/dev/null || break
		sleep 0.02
	done
	die "tcpwaitd $1 did not start: $(tail -n 1 "$work/agent.err")"
}

# stop: findings (3, 4) are no failure, this host may have leaks of its own.
stop() {
	local code=0
	kill -INT "$agent"
	wait "$agent" || code=$?
	agent=''
	case $code in 0 | 3 | 4) ;; *) die "tcpwaitd ended with $code: $(tail -n 1 "$work/agent.err")" ;; esac
}

# ticks: user and system time of the agent so far.
ticks() { sed 's/.*) //' "/proc/$agent/stat" | awk '{ print $12, $13 }'; }

memory() { awk -v key="$1:" '$1 == key { print $2 }' "/proc/$agent/status"; }

# programs: "name runs ns" of each program the agent holds. The kernel tells the name by
# the tag in its symbol table, the hook by the link. A descriptor may close meanwhile.
programs() {
	{
		awk '$3 ~ /^bpf_prog_[0-9a-f]+_/ { print "symbol", $3 }' /proc/kallsyms
		cat "/proc/$agent/fdinfo/"* 2>/dev/null || true
	} | awk '
		$1 == "symbol" { name[substr($2, 10, 16)] = substr($2, 27) }
		$1 == "prog_tag:" { tag = $2 }
		$1 == "prog_id:" { id = $2; tags[id] = tag }
		$1 == "tp_name:" || $1 == "target_name:" { hook[id] = $2 }
		$1 == "run_time_ns:" { time[id] = $2 }
		$1 == "run_cnt:" { runs[id] = $2 }
		END {
			for (id in runs) {
				label = tags[id] in name ? name[tags[id]] : tags[id]
				if (id in hook)
					label = label "/" hook[id]
				print label, runs[id], time[id]
			}
		}' | sort
}

modes=(nothing 'tail, file' 'tail, /dev/null' 'diagnose, no stacks' diagnose)

# attach MODE: starts what the mode says.
attach() {
	case $1 in
	nothing) ;;
	'tail, file') start "$work/out" tail -o json ;;
	'tail, /dev/null') start /dev/null tail -o json ;;
	'diagnose, no stacks') start /dev/null diagnose --stacks off --for 10m -o json ;;
	diagnose) start /dev/null diagnose --for 10m -o json ;;
	esac
}

# account MODE: notes what the agent used, and what it wrote.
account() {
	local user system lines=0 lost=- rss anon
	read -r user system < <(ticks)
	rss=$(memory VmRSS) anon=$(memory RssAnon)
	stop
	if [[ $1 == 'tail, file' ]]; then
		lines=$(grep -c '"kind":"transition"' "$work/out" || true)
		lost=$(sed -n 's/.*"kind":"loss".*"lost":\([0-9]*\).*/\1/p' "$work/out" | tail -n 1)
		: >"$work/out"
	fi
	echo "$1;$((user - user0));$((user + system - user0 - system0));$lines;${lost:-0};$rss;$anon" >>"$work/usage"
}

# measure MODE: one run.
measure() {
	local user0=0 system0=0
	attach "$1"
	[[ -z $agent ]] || read -r user0 system0 < <(ticks)
	churn
	echo "$1;$rate" >>"$work/rates"
	[[ -z $agent ]] || account "$1"
}

# cost MODE: one run with the kernel counting; adds up by program.
cost() {
	echo 1 >"$stats"
	attach "$1"
	programs >"$work/before"
	churn
	programs >"$work/after"
	stop
	echo "$stats_before" >"$stats"
	join "$work/before" "$work/after" | awk -v mode="$1" '
		$4 > $2 { printf "%s;%s;%d;%d\n", mode, $1, $4 - $2, $5 - $3 }' >>"$work/costs"
}

# before SECONDS: may another run begin?
before() {
	((SECONDS >= $1)) || return 0
	[[ -e $work/late ]] || echo "overhead: out of time, some runs are left out" >&2
	: >"$work/late"
	return 1
}

print_rates() {
	local mode base=0
	printf '%-20s %14s %14s %6s\n' attached connections/s 'ratio (median)' runs
	for mode in "${modes[@]}"; do
		awk -F ';' -v mode="$mode" '$1 == mode { print $2 }' "$work/rates" | sort -n | awk -v mode="$mode" -v base="$base" '
			{ r[NR] = $1 }
			END {
				if (NR == 0) exit
				m = NR % 2 ? r[(NR + 1) / 2] : (r[NR / 2] + r[NR / 2 + 1]) / 2
				printf "%-20s %14d %14.2f %6d\n", mode, m, base ? m / base : 1, NR
			}' | tee "$work/row"
		[[ $mode != nothing ]] || base=$(awk '{ print $2 }' "$work/row")
	done
}

print_costs() {
	printf '\n%-42s %10s %10s %14s\n' 'program/hook (with)' runs ns/run ns/connection
	awk -F ';' -v n="$connections" '
		{ printf "%-42s %10d %10d %14d\n", $2 " (" $1 ")", $3, $4 / $3, $4 / n; all[$1] += $4 }
		END { for (m in all) printf "%-42s %10s %10s %14d\n", "together (" m ")", "", "", all[m] / n }' \
		"$work/costs"
}

# User time is sampled by the kernel's tick, the total is exact: trust that one more.
print_usage() {
	local mode
	printf '\n%-20s %6s %12s %12s %9s %9s\n' agent lost 'user us/tr.' 'CPU us/tr.' 'RSS MiB' 'anon MiB'
	for mode in "${modes[@]}"; do
		# tail to a file counts what it wrote; the others saw as much.
		awk -F ';' -v mode="$mode" -v hz="$(getconf CLK_TCK)" -v n="$connections" '
			$1 == mode {
				seen += $4 ? $4 : 10 * n
				user += $2; cpu += $3; lost = $5 == "-" ? "-" : lost + $5
				if ($6 > rss) rss = $6
				if ($7 > anon) anon = $7
			}
			END {
				if (seen) printf "%-20s %6s %12.2f %12.2f %9.1f %9.1f\n", mode, lost,
					user / hz / seen * 1e6, cpu / hz / seen * 1e6, rss / 1024, anon / 1024
			}' "$work/usage"
	done
	echo "RSS counts the 8 MiB ring twice: it is mapped twice in a row."
}

CGO_ENABLED=0 go build -o "$work/tcpwaitd" ./cmd/tcpwaitd
CGO_ENABLED=0 go build -o "$work/leaker" ./internal/testenv/leaker
SECONDS=0
: >"$work/rates" && : >"$work/usage" && : >"$work/costs"

# Each round begins with another one: what a run leaves behind falls on all alike.
for ((round = 0; round < rounds; round++)); do
	for ((i = 0; i < ${#modes[@]}; i++)); do
		before $((last_start - 15)) || break 2
		measure "${modes[(round + i) % ${#modes[@]}]}"
	done
done
for mode in 'tail, file' diagnose; do
	! before $last_start || cost "$mode"
done

echo "Linux $(uname -r), $(nproc) CPUs, $connections connections a run, $workers at a time, $SECONDS s"
print_rates
print_costs
print_usage
