# Shared by the scripts that make images without a registry. Sourced, not run.
# shellcheck shell=bash

# Where finished root file systems are kept, outside of the repository.
cache_dir=${HOLDFAST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}
ca_bundle=/etc/ssl/certs/ca-certificates.crt
default_path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

say() { printf '%s\n' "$*" >&2; }

die() {
	say "error: $*"
	exit 1
}

need() {
	local p
	for p in "$@"; do
		command -v "$p" >/dev/null || die "$p is missing: run 'make deps' first"
	done
}

# key FILE... prints a hash of the contents of the files.
key() { cat -- "$@" | sha256sum | cut -c1-16; }

# use FILE says that a file of the cache is still of use. What nothing has used for
# a month was made by older scripts, and goes.
use() {
	touch -a -- "$1"
	find "$cache_dir" -maxdepth 1 -type f -name '*.tar' -atime +30 -delete
}

# engine ARG... talks to the engine: bin/holdfast, or what $HOLDFAST says.
engine() {
	local top
	top=$(dirname -- "${BASH_SOURCE[0]}")/../..
	"${HOLDFAST:-$top/bin/holdfast}" "$@"
}

# import_once TAR NAME CHANGE... makes the image NAME of TAR, unless it is there
# already, made of the same file with the same changes.
import_once() {
	local tar=$1 name=$2 label args=() c
	shift 2
	label=$(basename -- "$tar" .tar)-$(printf '%s\n' "$@" | sha256sum | cut -c1-8)
	if [ "$(engine image inspect --format '{{index .Config.Labels "dev.holdfast.source"}}' "$name" 2>/dev/null)" = "$label" ]; then
		say "$name: present"
		return
	fi
	for c in "$@" "LABEL dev.holdfast.source=$label"; do
		args+=(--change "$c")
	done
	case $tar in "$cache_dir"/*) use "$tar" ;; esac
	say "$name: importing $(basename -- "$tar")"
	engine image import "${args[@]}" "$tar" "$name" >/dev/null
}

# debian_sources prints the host's own Debian sources file, so that images take
# their packages from wherever this machine does.
debian_sources() {
	local f
	for f in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
		if [ -s "$f" ]; then
			printf '%s\n' "$f"
			return
		fi
	done
	die "no Debian sources file in /etc/apt"
}
