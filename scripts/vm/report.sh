# shellcheck shell=bash disable=SC2154
# From console logs to verdicts and docs/kernels.md. Sourced by vmtest.sh, whose
# functions and variables it uses.

# The guest runs its tests with -test.v=test2json, where a ^V stands before each
# line that the test framework wrote, even where the test's own output did not
# end its line.
mark=$'\x16'

# split_log DIR: one file a section, NAME.section, and NAME.exit with its exit code.
split_log() {
	rm -f "$1"/*.section "$1"/*.exit
	tr -d '\r' <"$1/console.log" | awk -v dir="$1" '
		/^@@ begin / { file = dir "/" $3 ".section"; printf "" >file; next }
		/^@@ end / { close(file); file = ""; sub("exit=", "", $4)
			print $4 >(dir "/" $3 ".exit"); close(dir "/" $3 ".exit"); next }
		/^@@ boot / { print $3, $4 >(dir "/boot.section") }
		/^@@ done/ { print "done" >(dir "/done.section") }
		file { print >file }'
}

exit_of() { cat "$1.exit" 2>/dev/null || echo none; }

# results STATUS FILE...: names of the tests and subtests that ended so.
results() {
	local status=$1
	shift
	sed -nE "s/^.*$mark *--- ($status): ([^ ]+) .*/\2/p" "$@"
}

# unfinished FILE: tests that began and have no result: the binary died in them.
unfinished() {
	comm -23 <(sed -nE "s/^.*$mark=== RUN +([^ ]+).*/\1/p" "$1" | sort -u) \
		<(results 'PASS|FAIL|SKIP' "$1" | sort -u)
}

count() { grep -c . || true; }

# judge NAME: writes passed, failed, skipped (lists of names), problems and
# verdict into $out/NAME. A problem is anything that must not be, as a sentence.
judge() {
	local dir=$out/$1
	row "$1"
	split_log "$dir"
	: >"$dir/passed" && : >"$dir/failed" && : >"$dir/skipped"
	{
		[[ -e $dir/done.section ]] || echo "the guest did not finish"
		"judge_$mode" "$dir"
		case $(exit_of "$dir/kernel") in
		0 | none) ;;
		*) echo "the guest's kernel complained (see kernel.section)" ;;
		esac
	} >"$dir/problems"
	if [[ -s $dir/problems ]]; then echo FAIL; else echo PASS; fi >"$dir/verdict"
}

judge_test() {
	local dir=$1 pkg section code
	jq -e '.ok == true' "$dir/doctor.section" >/dev/null 2>&1 ||
		echo "doctor -o json: not ok"
	[[ $(exit_of "$dir/doctor") == 0 ]] ||
		echo "doctor: exit $(exit_of "$dir/doctor"), not 0"
	for pkg in "${test_packages[@]}"; do
		section=$dir/test.${pkg//\//.}
		code=$(exit_of "$section")
		if [[ ! -e $section.section ]]; then
			echo "$pkg: never started"
			continue
		fi
		results PASS "$section.section" >>"$dir/passed"
		results SKIP "$section.section" >>"$dir/skipped"
		{
			results FAIL "$section.section"
			unfinished "$section.section"
		} >"$section.failed"
		cat "$section.failed" >>"$dir/failed"
		[[ ! -s $section.failed ]] ||
			echo "$pkg: failed: $(paste -sd ' ' "$section.failed")"
		[[ $code == 0 || -s $section.failed ]] || echo "$pkg: exit $code"
		# With --run a package may well have nothing that matches.
		[[ -n $run_pattern || -s $section.failed ||
			-n $(results 'PASS|SKIP' "$section.section") ]] ||
			echo "$pkg: ran no test"
	done
	[[ -s $dir/passed ]] || echo "no test passed"
}

# What a refusal must name: the floor, or the feature that is not there.
refusal='5\.15|BTF|socket storage|ring buffer'

judge_refuse() {
	local dir=$1 section
	for section in refuse.list refuse.doctor; do
		if [[ $(exit_of "$dir/$section") == 5 ]] &&
			grep -qiE "$refusal" "$dir/$section.section"; then
			echo "$section" >>"$dir/passed"
			continue
		fi
		echo "$section" >>"$dir/failed"
		echo "$section: exit $(exit_of "$dir/$section"), not 5 with a reason"
	done
}

# failing_output FILE: what the tests printed that failed, subtests included.
failing_output() {
	awk -v mark="$mark" '
		function top(name) { sub("/.*", "", name); return name }
		FILENAME == ARGV[1] { failed[top($1)] = 1; next }
		$1 ~ mark "===$" { current = top($3) }
		$2 == "NAME" { next }
		current in failed || current == "" && !/^ *$/' \
		"${1%.section}.failed" "$1"
}

# evidence DIR: the part of a failed guest's log worth showing.
evidence() {
	local dir=$1 file
	for file in "$dir"/test.*.section; do
		[[ ! -s ${file%.section}.failed ]] ||
			failing_output "$file" | tail -n 60
	done
	[[ ! -s $dir/doctor.err.section || $(exit_of "$dir/doctor") == 0 ]] ||
		tail -n 20 "$dir/doctor.err.section"
	[[ -e $dir/done.section && -s $dir/failed && $mode == test ]] ||
		tail -n 40 "$dir/console.log"
}

# summary NAME...: judges and prints, what failed last; fails if any guest did.
summary() {
	local name dir failed=()
	for name in "$@"; do
		dir=$out/$name
		judge "$name"
		printf '%-4s  %-10s %-28s passed %3d  failed %3d  skipped %3d\n' \
			"$(<"$dir/verdict")" "$name" "$(<"$dir/release")" \
			"$(count <"$dir/passed")" "$(count <"$dir/failed")" \
			"$(count <"$dir/skipped")"
		sed 's/^/      skipped: /' "$dir/skipped"
		[[ $(<"$dir/verdict") == PASS ]] || failed+=("$name")
	done
	for name in "${failed[@]}"; do
		dir=$out/$name
		row "$name"
		echo "$name:"
		evidence "$dir" | tr -d "\r$mark" | sed 's/^/      | /'
		sed 's/^/      qemu: /' "$dir/qemu.log"
		echo "      all of it: $dir/console.log"
	done
	for name in "${failed[@]}"; do
		sed "s/^/$name: /" "$out/$name/problems"
	done
	((${#failed[@]} == 0))
}

# facts NAME: "fact<TAB>kind hook" of the hooks in use, in doctor's order.
facts() {
	[[ -s $out/$1/doctor.section ]] || return 0
	jq -r '.hooks[]? | select(.attached) | "\(.fact)\t\(.kind) `\(.hook)`"' \
		"$out/$1/doctor.section" 2>/dev/null || true
}

# fact_cell NAME FACT: a fact can have more than one hook.
fact_cell() {
	facts "$1" | awk -F '\t' -v f="$2" '$1 == f { print $2 }' |
		paste -sd ';' | sed 's/;/, /g'
}

kernel_rows() {
	local name dir
	for name in "$@"; do
		dir=$out/$name
		row "$name"
		echo "| $name | \`$(<"$dir/release")\` | $(<"$dir/version") | $arch" \
			"| $(facts "$name" | cut -f 2 | cut -d ' ' -f 1 |
				awk '!seen[$0]++' | paste -sd ' ' | grep . || echo -)" \
			"| $(count <"$dir/passed") | $(count <"$dir/failed")" \
			"| $(count <"$dir/skipped")" \
			"| $(result_word "$name") |"
	done
}

result_word() {
	local verdict
	verdict=$(<"$out/$1/verdict")
	row "$1"
	case $mode/$verdict in
	refuse/PASS) echo 'refuses with exit 5, as it must' ;;
	*/PASS) echo pass ;;
	*) echo fail ;;
	esac
}

hook_rows() {
	local name fact
	for name in "$@"; do facts "$name"; done | cut -f 1 | awk '!seen[$0]++' |
		while read -r fact; do
			printf '| %s |' "$fact"
			for name in "$@"; do
				printf ' %s |' "$(fact_cell "$name" "$fact" | grep . || echo -)"
			done
			echo
		done
}

# write_docs: docs/kernels.md. No dates and no durations, so that it changes
# only when a result or a kernel does.
write_docs() {
	local all tested=() name
	mapfile -t all < <(all_names)
	for name in "${all[@]}"; do
		row "$name"
		[[ $mode != test ]] || tested+=("$name")
	done
	cat <<-EOF
		# Kernels

		The tests that need a kernel ($(printf '%s, ' "${test_packages[@]}" | sed 's/, $//'))
		pass on these: cloud kernels of Debian, booted in QEMU without hardware
		virtualisation. Counts are tests and subtests. "Kinds" are the kinds of hooks
		that \`tcpwaitd doctor\` chose there.

		| name | kernel | package | arch | kinds | passed | failed | skipped | result |
		|---|---|---|---|---|---|---|---|---|
	EOF
	kernel_rows "${all[@]}"
	cat <<-EOF

		## Hooks chosen

		For each fact, the hook that supplies it (\`tcpwaitd doctor\` shows the same
		for your machine, with the reasons for what was not chosen).

		| fact |$(printf ' %s |' "${tested[@]}")
		|---|$(printf -- '---|%.0s' "${tested[@]}")
	EOF
	hook_rows "${tested[@]}"
	cat <<-EOF

		## Not tried

		Linux 5.15 is the floor the tool asks for, but Debian has no 5.15 to test on:
		it is expected to work, and 6.1 is the oldest kernel on which it was seen to.

		Generated by \`scripts/vmtest.sh --write\`.
	EOF
}
