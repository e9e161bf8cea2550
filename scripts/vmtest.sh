#!/usr/bin/env bash
# Boots Debian's cloud kernels under QEMU (software emulation, no KVM) and runs
# the tests that need a kernel in each of them.
#
#   scripts/vmtest.sh                    every kernel of the matrix
#   scripts/vmtest.sh 6.1 arm64-6.1      some of them
#   scripts/vmtest.sh --list             shows the matrix
#   scripts/vmtest.sh --run REGEXP ...   only matching tests (-test.run)
#   scripts/vmtest.sh --write            all; if all pass, docs/kernels.md anew
#   scripts/vmtest.sh --refresh ...      looks for newer kernels now, not once a day
#
# Environment: TCPWAITD_CACHE (default .cache/vm), TCPWAITD_VM_JOBS (guests at a
# time, default 2), TCPWAITD_VM_TIMEOUT (seconds for one guest, default 1800),
# TCPWAITD_MIRROR (default: the mirror apt is configured for).
#
# Exit: 0 all passed; 1 something failed, did not finish or ran no test; 2 usage.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${TCPWAITD_CACHE:-$repo/.cache/vm}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
out=$cache/run
jobs=${TCPWAITD_VM_JOBS:-2}
vm_timeout=${TCPWAITD_VM_TIMEOUT:-1800}

# What is built for the guests: test binaries of these packages, and the
# programs those tests start (into the guest's /bin).
test_packages=(internal/tracer internal/stack internal/owner e2e)
helpers=(internal/testenv/leaker e2e/testdata/timewait)

# mode test: doctor and the tests must pass. mode refuse: below the floor, the
# tool must exit 5 and say what is missing.
#
# 6.12 without cx16: QEMU 7.2 sometimes kills that guest with a double fault in
# cmpxchg16b. The others keep it; from 7.0 a kernel without cmpxchg16b cannot
# allocate socket storage from a hook.
matrix='
5.10       amd64  5.10  bullseye          refuse  max
6.1        amd64  6.1   bookworm          test    max
6.12       amd64  6.12  trixie            test    max,-cx16
6.18       amd64  6.18  trixie-backports  test    max
7.x        amd64  7     trixie-backports  test    max
arm64-6.1  arm64  6.1   bookworm          test    cortex-a72
'

say() { echo "vmtest: $*" >&2; }
die() {
	say "$@"
	exit 1
}

# shellcheck source-path=SCRIPTDIR source=vm/apt.sh disable=SC1091
source "$repo/scripts/vm/apt.sh"
# shellcheck source-path=SCRIPTDIR source=vm/report.sh disable=SC1091
source "$repo/scripts/vm/report.sh"

usage() {
	sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

# row NAME: sets arch, series, suite, mode, cpu of that line of the matrix.
row() {
	read -r _ arch series suite mode cpu \
		< <(awk -v n="$1" '$1 == n' <<<"$matrix") ||
		{
			say "no kernel $1 in the matrix (--list shows it)"
			exit 2
		}
}

all_names() { awk 'NF { print $1 }' <<<"$matrix"; }

# shellcheck disable=SC2034 # vm/apt.sh and vm/report.sh read some of these
parse_args() {
	write=0 refresh=0 run_pattern='' names=()
	while (($#)); do
		case $1 in
		-h | --help) usage && exit 0 ;;
		--list)
			{ echo 'NAME ARCH SERIES SUITE MODE CPU' && echo "$matrix"; } |
				awk 'NF { printf "%-10s %-6s %-7s %-17s %-7s %s\n", $1, $2, $3, $4, $5, $6 }'
			exit 0
			;;
		--write) write=1 ;;
		--refresh) refresh=1 ;;
		--run)
			(($# > 1)) || { usage >&2 && exit 2; }
			run_pattern=$2 && shift
			;;
		-*) usage >&2 && exit 2 ;;
		*) row "$1" && names+=("$1") ;;
		esac
		shift
	done
	if ((write)) && [[ ${#names[@]} -gt 0 || -n $run_pattern ]]; then
		say "--write describes the whole matrix: no names, no --run"
		exit 2
	fi
	((${#names[@]})) || mapfile -t names < <(all_names)
	# The pattern travels on the kernel command line.
	[[ $run_pattern != *[[:space:]\"]* ]] || die "--run: no spaces or quotes"
}

install_tools() {
	local pair missing=()
	for pair in qemu-system-x86_64:qemu-system-x86 \
		qemu-system-aarch64:qemu-system-arm \
		cpio:cpio jq:jq xz:xz-utils flock:util-linux; do
		command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
	done
	((${#missing[@]})) || return 0
	((EUID == 0)) || die "please install: ${missing[*]}"
	say "installing ${missing[*]}"
	apt-get -qq update
	DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
		--no-install-recommends "${missing[@]}" >/dev/null
}

# pack DIR CPIO: one piece of an initramfs. Pieces can be laid end to end, and
# stay uncompressed because the emulated guest would be slow to unpack them.
# mktemp made the directory private; as the guest's root all users must get in.
pack() {
	chmod 755 "$1"
	(cd "$1" && find . -print0 | LC_ALL=C sort -z |
		cpio --quiet -0 -o -H newc -R 0:0) >"$2"
}

# build_payload ARCH: init, busybox, the tool and the tests as one cpio.
build_payload() {
	local arch=$1 root pkg dir
	say "building for $arch"
	root=$(mktemp -d "$tmp/payload.XXXXXX")
	mkdir -p "$root/bin" "$root/etc" "$root/tests"
	cp "$repo/scripts/vm/init" "$root/init"
	cp "$cache/busybox/$arch" "$root/bin/busybox"
	chmod 755 "$root/init" "$root/bin/busybox"
	printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n' \
		>"$root/etc/passwd"
	printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
	printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"

	go_for "$arch" build -o "$root/bin/tcpwaitd" ./cmd/tcpwaitd
	for pkg in "${helpers[@]}"; do
		go_for "$arch" build -o "$root/bin/${pkg##*/}" "./$pkg"
	done
	for pkg in "${test_packages[@]}"; do
		dir=$root/tests/${pkg//\//.}
		mkdir "$dir"
		go_for "$arch" test -c -o "$dir/test" "./$pkg"
		[[ -x $dir/test ]] || die "$pkg has no tests"
		[[ ! -d $repo/$pkg/testdata ]] || cp -R "$repo/$pkg/testdata" "$dir/"
	done
	pack "$root" "$cache/payload-$arch.cpio"
}

go_for() {
	(cd "$repo" && CGO_ENABLED=0 GOOS=linux GOARCH="$1" go "$2" \
		-trimpath -ldflags=-s "${@:3}") || die "go ${*:2} fails for $1"
}

# prepare NAME: leaves $out/NAME/{initrd,kernel,release,version}.
prepare() {
	local dir=$out/$1 release kernel
	row "$1"
	release=$(newest_kernel "$arch" "$series")
	[[ -n $release ]] || die "$1: no $series cloud kernel for $arch in $suite"
	fetch_kernel "$arch" "$release"
	kernel=$cache/kernel/$arch/$release
	rm -rf "$dir" && mkdir -p "$dir"
	ln -s "$kernel/vmlinuz" "$dir/kernel"
	cp "$kernel/version" "$dir/version"
	echo "$release" >"$dir/release"
	cat "$cache/payload-$arch.cpio" "$kernel/modules.cpio" >"$dir/initrd"
}

# boot NAME: runs the guest to its end, and once more where the emulation broke down: QEMU 7.2
# sometimes calls address 0, with flags that no processor can have, or runs into a breakpoint that
# the kernel has taken out again. A kernel that crashes in any other way, or twice, has failed.
boot() {
	guest "$1"
	broken_emulation "$out/$1/console.log" || return 0
	say "$1: the emulated processor broke down (see console.broken.log): once more"
	mv "$out/$1/console.log" "$out/$1/console.broken.log"
	guest "$1"
}

# broken_emulation LOG: it has a crash with flags beyond bit 21, which are always 0, or one by a
# breakpoint where the code, printed with the crash, has none (cc): it was changed while it ran,
# and the processor did not notice.
broken_emulation() {
	local flags code
	flags=$(grep -aom1 'EFLAGS: [0-9a-f]*' "$1" | cut -d ' ' -f 2) || return 1
	[[ -n $flags ]] && ((16#$flags >> 22)) && return 0
	grep -aq 'Oops: int3' "$1" || return 1
	code=$(grep -aom1 'Code: .*' "$1") || return 1
	[[ $code =~ ([0-9a-f]{2})\ \<[0-9a-f]{2}\> && ${BASH_REMATCH[1]} != cc ]]
}

# guest NAME: console.log is all it leaves behind. The watchdogs are off because an emulated CPU
# may stand still for seconds.
guest() {
	local dir=$out/$1 console=ttyS0 qemu=(qemu-system-x86_64) start=$SECONDS
	row "$1"
	if [[ $arch == arm64 ]]; then
		console=ttyAMA0
		qemu=(qemu-system-aarch64 -M virt)
	fi
	timeout --kill-after=10 "$vm_timeout" "${qemu[@]}" \
		-accel tcg -cpu "$cpu" -m 1024 -smp 2 \
		-display none -serial stdio -monitor none -net none -no-reboot \
		-kernel "$dir/kernel" -initrd "$dir/initrd" \
		-append "console=$console no_timer_check panic=-1 oops=panic quiet nowatchdog \
rcupdate.rcu_cpu_stall_suppress=1 vm_mode=$mode vm_run=$run_pattern" \
		</dev/null >"$dir/console.log" 2>"$dir/qemu.log" &
	# A shell in the background does not see Ctrl-C: main passes it on.
	# shellcheck disable=SC2064 # this guest's pid, now
	trap "kill $!" TERM
	wait $! || echo "qemu ended with $?" >>"$dir/qemu.log"
	say "$1: ended after $((SECONDS - start)) s"
}

# suites_of ARCH: those of the whole matrix, so that running a part of it does
# not invalidate the package lists.
suites_of() { awk -v a="$1" '$2 == a { print $4 }' <<<"$matrix" | sort -u; }

# shellcheck disable=SC2317 # called by the trap
cleanup() {
	local guests
	mapfile -t guests < <(jobs -pr)
	((${#guests[@]} == 0)) || kill "${guests[@]}"
	rm -rf "$tmp"
}

main() {
	local name a archs suites
	parse_args "$@"
	install_tools
	exec 9>"$cache/lock"
	flock -n 9 || die "another run is using $cache"
	tmp=$(mktemp -d "$cache/tmp.XXXXXX")
	trap cleanup EXIT

	# shellcheck disable=SC2034 # vm/apt.sh reads it
	mirror_uri=$(mirror)
	mapfile -t archs < <(for name in "${names[@]}"; do
		row "$name" && echo "$arch"
	done | sort -u)
	for a in "${archs[@]}"; do
		mapfile -t suites < <(suites_of "$a")
		refresh_index "$a" "${suites[@]}"
		fetch_busybox "$a"
		build_payload "$a"
	done
	for name in "${names[@]}"; do
		prepare "$name"
	done

	for name in "${names[@]}"; do
		# wait -n would also return for a guest that ended before.
		while (($(jobs -rp | wc -l) >= jobs)); do wait -n || true; done
		boot "$name" 9>&- &
	done
	wait

	summary "${names[@]}" || die "not every kernel passed"
	((write)) || return 0
	write_docs >"$tmp/kernels.md"
	cp "$tmp/kernels.md" "$repo/docs/kernels.md"
	say "wrote docs/kernels.md"
}

main "$@"
