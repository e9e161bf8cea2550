# shellcheck shell=bash disable=SC2154
# Debian kernels for vmtest.sh, by way of apt: it knows the mirror and verifies
# the signatures. Sourced by vmtest.sh, whose die, say, pack and variables it uses.
#
# apt gets a state directory of its own, because other suites in the machine's
# own lists would offer themselves at the next upgrade.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The mirror the machine is configured for, or the one in TCPWAITD_MIRROR.
mirror() {
	local uri=${TCPWAITD_MIRROR:-}
	if [[ -z $uri ]]; then
		# shellcheck disable=SC2016 # $(...) is apt's own format
		uri=$(apt-get indextargets --format '$(REPO_URI)' \
			'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
			sed -n 1p)
	fi
	[[ -n $uri ]] || die "no Debian mirror in apt's configuration" \
		"(apt-get update, or set TCPWAITD_MIRROR)"
	echo "${uri%/}"
}

# apt_in ARCH TOOL ARG...: an apt tool on that architecture's private state.
apt_in() {
	local arch=$1 tool=$2 root=$cache/apt/$1
	shift 2
	"$tool" -qq \
		-o APT::Architecture="$arch" -o APT::Architectures="$arch" \
		-o APT::Sandbox::User=root \
		-o Acquire::Languages=none \
		-o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
		-o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false \
		-o Dir::Etc::sourcelist="$root/sources.list" \
		-o Dir::Etc::sourceparts="$root/none" \
		-o Dir::Etc::preferencesparts="$root/none" \
		-o Dir::State="$root" \
		-o Dir::State::lists="$root/lists" \
		-o Dir::State::status="$root/status" \
		-o Dir::Cache="$root" \
		"$@"
}

# refresh_index ARCH SUITE...: package lists, at most once a day. An unreachable
# mirror is no reason to stop while an earlier list can still name the kernels.
refresh_index() {
	local arch=$1 root=$cache/apt/$1 suite
	shift
	mkdir -p "$root"/{lists/partial,archives/partial,none}
	: >"$root/status"
	for suite in "$@"; do
		echo "deb [signed-by=$keyring] $mirror_uri $suite main"
	done >"$root/sources.new"
	if cmp -s "$root/sources.new" "$root/sources.list" &&
		[[ -n $(find "$root/updated" -mmin -1440 2>/dev/null) ]] &&
		((!refresh)); then
		return
	fi
	mv "$root/sources.new" "$root/sources.list"
	say "reading the package lists of $arch: $*"
	if apt_in "$arch" apt-get -o APT::Update::Error-Mode=any update; then
		touch "$root/updated"
	elif [[ -e $root/updated ]]; then
		say "warning: cannot refresh them, using those of" \
			"$(date -r "$root/updated" +%F)"
	else
		die "cannot read the package lists of $arch"
	fi
}

# newest_kernel ARCH VERSION: the release (what uname -r says) of the newest
# cloud kernel of that series. Point releases come and go in the archive, so no
# exact name is written down anywhere.
newest_kernel() {
	apt_in "$1" apt-cache pkgnames linux- |
		sed -nE "s/^linux-(image|binary)-(${2//./\\.}[.-].*-cloud-$1)\$/\2/p" |
		sort -uV | tail -n 1
}

# fetch_packages ARCH DIR PACKAGE...: downloads into DIR. It can fail on a list
# that is hours old, when the archive has moved on since.
fetch_packages() {
	local arch=$1 dir=$2
	shift 2
	(cd "$dir" && apt_in "$arch" apt-get download "$@") ||
		die "cannot download $* (scripts/vmtest.sh --refresh looks anew)"
}

# fetch_kernel ARCH RELEASE: image and modules as $cache/kernel/ARCH/RELEASE/.
# Up to 6.18 all is in linux-image-*; later the image is in linux-binary-* and,
# from 7.1, the modules are in linux-modules-*.
fetch_kernel() {
	local arch=$1 release=$2 dir=$cache/kernel/$1/$2 debs deb names
	[[ $(cat "$dir/complete" 2>/dev/null) != "${guest_modules[*]}" ]] || return 0
	say "fetching $release"
	rm -rf "$dir" && mkdir -p "$dir"
	debs=$(mktemp -d "$tmp/kernel.XXXXXX")
	mapfile -t names < <(apt_in "$arch" apt-cache pkgnames linux- |
		grep -xF -e "linux-image-$release" -e "linux-binary-$release" \
			-e "linux-modules-$release")
	fetch_packages "$arch" "$debs" "${names[@]}"
	for deb in "$debs"/*.deb; do
		extract "$deb" "$debs"
	done
	find "$debs" -name 'vmlinuz*' -type f -exec cp {} "$dir/vmlinuz" \;
	[[ -s $dir/vmlinuz ]] || die "no kernel image in ${names[*]}"
	pack_modules "$debs" "$dir/modules.cpio"
	dpkg-deb -f "$(find "$debs" -name "linux-image-*.deb")" Version >"$dir/version"
	echo "${guest_modules[*]}" >"$dir/complete"
}

# What tests may need and the cloud configuration has as modules: socket
# diagnosis (sock_diag; SOCK_DESTROY), veth, and kernel TLS with its AES-GCM, which
# it asks for when keys are set. Order is the order of loading.
guest_modules=(inet_diag tcp_diag unix_diag mptcp_diag veth
	crypto_null gf128mul ghash-generic ctr gcm tls)

# extract DEB DIR: only the files we use; whole packages are 100 MB of drivers.
extract() {
	local m wanted=('./boot/vmlinuz*' './usr/lib/modules/*/vmlinuz')
	for m in "${guest_modules[@]}"; do
		wanted+=("*/kernel/*/$m.ko*")
	done
	# tar complains of patterns that match nothing, which is most of them.
	dpkg-deb --fsys-tarfile "$1" |
		tar -x -C "$2" --wildcards "${wanted[@]}" 2>/dev/null || true
}

# pack_modules DIR CPIO: unpacked, since busybox cannot unpack all formats, and
# numbered, since insmod knows no dependencies.
pack_modules() {
	local root i file to
	root=$(mktemp -d "$1/pack.XXXXXX")
	mkdir -p "$root/lib/modules"
	for i in "${!guest_modules[@]}"; do
		file=$(find "$1" -path "$root" -prune -o \
			-name "${guest_modules[i]}.ko*" -print | sed -n 1p)
		printf -v to '%s/lib/modules/%02d-%s.ko' "$root" "$i" "${guest_modules[i]}"
		case $file in
		'') ;; # built in, or not made for this kernel
		*.xz) xz -dc "$file" >"$to" ;;
		*) cp "$file" "$to" ;;
		esac
	done
	pack "$root" "$2"
}

# fetch_busybox ARCH: a static busybox as $cache/busybox/ARCH.
fetch_busybox() {
	local arch=$1 dir
	[[ ! -e $cache/busybox/$arch ]] || return 0
	mkdir -p "$cache/busybox"
	dir=$(mktemp -d "$tmp/busybox.XXXXXX")
	fetch_packages "$arch" "$dir" busybox-static
	dpkg -x "$dir"/busybox-static_*.deb "$dir/root"
	find "$dir/root" -name busybox -type f -path '*bin/*' \
		-exec cp {} "$cache/busybox/$arch" \;
}
