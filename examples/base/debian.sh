#!/bin/bash
# Writes a minimal Debian root file system to a tar file: the same, byte for
# byte, for the same package versions. The cache is keyed by this file's hash.
#
#   examples/base/debian.sh TAR [MMDEBSTRAP-OPTION...]
set -euo pipefail
here=$(cd -- "$(dirname -- "$0")" && pwd)
# shellcheck source=examples/base/lib.sh
. "$here/lib.sh"

tar=$1
shift
proxy=''
options=()
need mmdebstrap
[ "$(id -u)" = 0 ] || die "making a root file system needs root"
sources=$(debian_sources)
# mmdebstrap does not read the host's apt.conf.d.
eval "$(apt-config shell proxy Acquire::http::Proxy)"
if [ -n "$proxy" ]; then
	options+=(--aptopt="Acquire::http::Proxy \"$proxy\"")
fi
mkdir -p "$cache_dir"
dir=$(mktemp -d "$cache_dir/making.XXXXXX")
# Only a complete file gets its name.
if ! SOURCE_DATE_EPOCH=0 nice mmdebstrap --mode=root --variant=minbase --format=tar --quiet \
	--dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-include=/usr/share/doc/*/copyright' \
	--dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/info/*' \
	--dpkgopt='path-exclude=/usr/share/lintian/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--dpkgopt='force-unsafe-io' \
	--aptopt='APT::Install-Recommends "false"' \
	--aptopt='Acquire::Languages "none"' \
	--essential-hook='printf "#!/bin/sh\nexit 101\n" > "$1/usr/sbin/policy-rc.d"; chmod 755 "$1/usr/sbin/policy-rc.d"' \
	--customize-hook='mkdir -p "$1/etc/ssl/certs"; install -m 644 '"$ca_bundle"' "$1/etc/ssl/certs/"' \
	"${options[@]}" "$@" bookworm "$dir/rootfs.tar" "$sources"; then
	rm -rf -- "$dir"
	die "making $(basename -- "$tar") did not work"
fi
mv -- "$dir/rootfs.tar" "$tar"
rm -rf -- "$dir"
