#!/bin/bash
# Builds the store's images from their Dockerfiles, by compose, as anybody would:
# what this script adds is for machines that reach no registry. It makes the base
# images, lays out the Go modules that the host has, and keeps what was built for
# the next engine on this machine.
#
#   examples/store/build.sh [db] [api] [web]
#
# $DOCKER_HOST says which engine gets them, $HOLDFAST which client is used, $BASE
# which image the database stands on, $GOLANG which one has Go. Behind a proxy set
# $http_proxy; where containers need another one, $BUILD_HTTP_PROXY.
set -euo pipefail
here=$(cd -- "$(dirname -- "$0")" && pwd)
top=$(cd -- "$here/../.." && pwd)
# shellcheck source=examples/base/lib.sh
. "$top/examples/base/lib.sh"

prefix=psodstorage
base=${BASE:-debian:bookworm-slim}
golang=${GOLANG:-golang:1}
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
trap 'exit 130' INT TERM

id_of() { engine image inspect --format '{{.Id}}' "$1" 2>/dev/null | sed 's/^sha256://' | cut -c1-12; }

# have IMAGE VARIABLE: what no variable names is made here, the other is asked for.
have() {
	local image=$1 named=$2
	if [ -z "$named" ]; then
		"$top/examples/base/build.sh" "${image%%:*}"
	elif ! engine image inspect "$image" >/dev/null 2>&1; then
		engine pull "$image"
	fi
}

# source_of IMAGE says what an image was made of.
source_of() {
	local label
	label=$(engine image inspect --format '{{index .Config.Labels "dev.holdfast.source"}}' "$1")
	printf '%s\n' "${label:-$(id_of "$1")}"
}

# name_of IMAGE is the image in the engine.
name_of() { printf '%s/store-%s:latest\n' "$prefix" "$1"; }

# kept IMAGE KEY prints the file in which an earlier run has left the image.
kept() {
	local f
	for f in "$cache_dir/store-$1-$2"-*.tar; do
		[ -s "$f" ] && printf '%s\n' "$f" && return
	done
	return 0
}

# restore IMAGE KEY gets the image without building, if it can.
restore() {
	local name file
	name=$(name_of "$1")
	file=$(kept "$1" "$2")
	[ -n "$file" ] || return 1
	use "$file"
	if [[ $file = *-"$(id_of "$name")".tar ]]; then
		say "$name: present"
		return
	fi
	say "$name: loading $(basename -- "$file")"
	engine image load --quiet --input "$file" >/dev/null
}

# keep IMAGE KEY. Only a complete file gets its name. A disk too full for it is no
# reason to fail.
keep() {
	local name file
	name=$(name_of "$1")
	file=$cache_dir/store-$1-$2-$(id_of "$name").tar
	mkdir -p "$cache_dir"
	if engine image save --output "$work/image.tar" "$name" && cp -- "$work/image.tar" "$file.$$"; then
		mv -- "$file.$$" "$file"
	else
		rm -f -- "$file.$$"
		say "warning: $name was not put into $cache_dir"
	fi
	rm -f -- "$work/image.tar"
}

[ $# -gt 0 ] || set -- db api web
declare -A keys
build=()
for image in "$@"; do
	case $image in
	db)
		have "$base" "${BASE-}"
		keys[db]=$({
			source_of "$base"
			cat -- "$here"/database/*
		} | sha256sum | cut -c1-16)
		;;
	api | web)
		have "$golang" "${GOLANG-}"
		[ -n "${GOLANG-}" ] || "$here/modules.sh"
		keys[$image]=$({
			source_of "$golang"
			cat -- "$here/docker/$image/Dockerfile" "$here/.dockerignore" "$here"/go.{mod,sum}
			find "$here"/{api,catalog,serve,web} -type f ! -name '*_test.go' -print0 | sort -z | xargs -0 cat --
		} | sha256sum | cut -c1-16)
		;;
	*) die "unknown image $image: want db, api or web" ;;
	esac
	restore "$image" "${keys[$image]}" || build+=("$image")
done
[ ${#build[@]} -gt 0 ] || exit 0

say "building ${build[*]} (the first time takes a minute or two)"
# Without the attestations, which tell the time, the same sources make the same image.
export BUILDX_NO_DEFAULT_ATTESTATIONS=1
args=(--build-arg "BASE=$base" --build-arg "GOLANG=$golang")
proxy=${BUILD_HTTP_PROXY:-${http_proxy-}}
[ -z "$proxy" ] || args+=(--build-arg "http_proxy=$proxy")
[ -z "${GOPROXY-}" ] || args+=(--build-arg "GOPROXY=$GOPROXY")
if ! engine compose -f "$here/docker-compose.yml" -f "$here/docker-compose-build.yml" \
	--progress plain build "${args[@]}" "${build[@]/#db/db-master}" >"$work/build.log" 2>&1; then
	tail -n 40 -- "$work/build.log" >&2
	die "building ${build[*]} did not work"
fi
for image in "${build[@]}"; do
	keep "$image" "${keys[$image]}"
	say "$(name_of "$image"): built"
done
