#!/usr/bin/env bash
# Measures what stacks cost: memory of the agent and of its unwind tables on a host with
# six typical servers, each of which is used.
#
#   scripts/stackcost.sh
#
# Starts nginx, redis, and servers in Python, Node, Java and Go, as many of them as this
# machine has, in a network namespace of their own. Needs root, Go, gcc and iproute2.
# What a frame costs in the kernel is measured by the benchmark Walk in internal/tracer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
	echo "stackcost: $*" >&2
	exit 1
}

[[ $(id -u) == 0 ]] || die "not root: run it with sudo"
command -v ip >/dev/null || die "no ip command: install iproute2"

connections=23
work=$(mktemp -d)
namespace=tcpwaitd-stackcost-$$
pids=()

# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
	local pid
	for pid in "${pids[@]}"; do
		kill -TERM "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	ip netns del "$namespace" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

inside() { ip netns exec "$namespace" "$@"; }

# request PORT: one connection, closed by whoever wants to.
request() {
	inside bash -c "exec 3<>/dev/tcp/127.0.0.1/$1 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && read -r -t 0.2 -u 3" || [[ $? -gt 1 ]]
}

# serve NAME PORT COMMAND...: starts a server where its program is there.
serve() {
	local name=$1 port=$2 i
	shift 2
	if ! command -v "$1" >/dev/null; then
		echo "no $1: measured without $name"
		return
	fi
	ip netns exec "$namespace" "$@" >"$work/$name.log" 2>&1 &
	pids+=($!)
	for ((i = 0; i < 500; i++)); do
		if request "$port" 2>/dev/null; then
			servers+=("$name") ports+=("$port")
			return
		fi
		sleep 0.02
	done
	die "$name does not listen: $(tail -n 3 "$work/$name.log")"
}

go build -o "$work/tcpwaitd" ./cmd/tcpwaitd
go build -o "$work/goserver" ./e2e/testdata/targets/goserver
ip netns add "$namespace"
ip -n "$namespace" link set lo up

servers=() ports=()
cat >"$work/nginx.conf" <<-CONF
	daemon off; pid $work/nginx.pid; error_log stderr;
	events {}
	http { access_log off; server { listen 127.0.0.1:9001; location / { return 200; } } }
CONF
serve nginx 9001 nginx -c "$work/nginx.conf"
serve redis 9002 redis-server --port 9002 --bind 127.0.0.1 --save ''
serve python 9003 python3 -m http.server 9003 --bind 127.0.0.1
serve node 9004 node -e "require('net').createServer(s => s.on('data', d => s.end(d)).on('error', () => {})).listen(9004, '127.0.0.1')"
if command -v javac >/dev/null; then
	javac -d "$work" e2e/testdata/targets/JSrv.java
	serve java 9005 java -cp "$work" JSrv 9005
fi
serve go 9006 "$work/goserver" 127.0.0.1:9006

ip netns exec "$namespace" "$work/tcpwaitd" tail --stacks on -o json -v >"$work/out" 2>"$work/err" &
agent=$!
pids+=("$agent")
for ((i = 0; i < 1500; i++)); do
	! grep -q 'msg="unwind tables"' "$work/err" || break
	kill -0 "$agent" 2>/dev/null || die "tcpwaitd ended: $(tail -n 1 "$work/err")"
	sleep 0.02
done
for ((i = 0; i < connections; i++)); do
	for port in "${ports[@]}"; do
		request "$port" 2>/dev/null || true
	done
done
sleep 1
stacks=$(grep -c '"stacks"' "$work/out" || true)
complete=$(grep -v '"comm":"bash"' "$work/out" | grep -o '"quality":"[a-z-]*"' | sort | uniq -c | tr '\n' ' ' || true)
memory() { awk -v key="$1:" '$1 == key { printf "%.1f", $2 / 1024 }' "/proc/$agent/status"; }
tables=$(sed -n 's/.*msg="unwind tables".* bytes=\([0-9]*\).*/\1/p' "$work/err")

echo "Linux $(uname -r), servers: ${servers[*]}"
printf '%-28s %8s %8s\n' what measured target
awk -v b="$tables" 'BEGIN { printf "%-28s %8.1f %8s\n", "unwind tables, MiB", b / 1048576, "10" }'
printf '%-28s %8s %8s\n' 'RSS of the agent, MiB' "$(memory VmRSS)" 60
printf '%-28s %8s\n' 'of it anonymous' "$(memory RssAnon)"
printf '%-28s %8s\n' 'transitions with stacks' "$stacks"
reasons=$(grep -v '"comm":"bash"' "$work/out" | grep -o '"reason":"[a-z A-Z-]*"' | sort | uniq -c | tr '\n' ' ' || true)
echo "qualities of the servers' stacks: $complete $reasons"
echo "RSS counts the 8 MiB ring twice: it is mapped twice in a row."
