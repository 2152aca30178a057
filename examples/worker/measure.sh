#!/bin/bash
# Builds the worker both ways and measures: the size of the final image, a build
# with nothing cached, and one after a change of the source. Prints a Markdown
# table. --write puts it into README.md.
set -euo pipefail
here=$(cd -- "$(dirname -- "$0")" && pwd)
# shellcheck source=examples/base/lib.sh
. "$here/../base/lib.sh"

export HOLDFAST=${HOLDFAST:-$here/../../bin/holdfast}
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
cp -a "$here/." "$work/"

# timed COMMAND... prints the seconds it took.
timed() {
	local begin end
	begin=$(date +%s%N)
	"$@" >&2
	end=$(date +%s%N)
	awk -v ns=$((end - begin)) 'BEGIN { printf "%.1f", ns / 1e9 }'
}

# build FILE TAG ARG...
build() {
	local file=$1 tag=$2
	shift 2
	engine build --quiet --file "$work/$file" --tag "$tag" "$@" "$work"
}

# size IMAGE prints the MB of its unpacked layers.
size() {
	engine image history --human=false --format '{{.Size}}' "$1" | awk '{ n += $1 } END { printf "%.0f", n / 1e6 }'
}

"$here/../base/java/build.sh"
declare -A full again bytes
for kind in single multi; do
	file=Dockerfile
	[ $kind = multi ] || file=Dockerfile.single
	full[$kind]=$(timed build $file worker:$kind --no-cache)
	sed -i "s/GREETING = \".*\"/GREETING = \"jobs done ($kind)\"/" "$work/src/main/java/dev/holdfast/worker/Worker.java"
	again[$kind]=$(timed build $file worker:$kind)
	bytes[$kind]=$(size worker:$kind)
	id=$(engine run --detach worker:$kind)
	ok=$(timeout 60 "$HOLDFAST" logs --follow "$id" 2>&1 | grep -m 1 listening || true)
	engine rm --force "$id" >/dev/null
	[ -n "$ok" ] || die "worker:$kind does not come up"
done
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }
table=$(
	cat <<-END
		| | single stage | multi stage | ratio |
		|---|---|---|---|
		| final image | ${bytes[single]} MB | ${bytes[multi]} MB | $(ratio "${bytes[multi]}" "${bytes[single]}") |
		| build, nothing cached | ${full[single]} s | ${full[multi]} s | $(ratio "${full[multi]}" "${full[single]}") |
		| build after a change of the source | ${again[single]} s | ${again[multi]} s | $(ratio "${again[multi]}" "${again[single]}") |
		| … of the single stage's full build | $(ratio "${again[single]}" "${full[single]}") | $(ratio "${again[multi]}" "${full[single]}") | |
		| … of its own full build | $(ratio "${again[single]}" "${full[single]}") | $(ratio "${again[multi]}" "${full[multi]}") | |
	END
)
printf '%s\n' "$table"
if [ "${1-}" = --write ]; then
	awk -v table="$table" '/^<!-- measured -->/ { print; print table; skip = 1; next } /^<!-- end -->/ { skip = 0 } !skip' \
		"$here/README.md" >"$work/README.new"
	cat "$work/README.new" >"$here/README.md"
fi
