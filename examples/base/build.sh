#!/bin/bash
# Makes the images debian:bookworm-slim and busybox from Debian packages, and
# golang:1 from the host's Go on top of the first, for machines that reach no image
# registry. Quick once the cache is filled.
#
#   examples/base/build.sh [debian] [busybox] [golang]
#
# $DOCKER_HOST says which engine gets them, $HOLDFAST which client is used.
set -euo pipefail
here=$(cd -- "$(dirname -- "$0")" && pwd)
# shellcheck source=examples/base/lib.sh
. "$here/lib.sh"

[ $# -gt 0 ] || set -- debian busybox # the others are built when somebody needs them
for name in "$@"; do
	case $name in
	debian)
		tar=$("$here/rootfs.sh" debian)
		import_once "$tar" debian:bookworm-slim "ENV PATH=$default_path" 'CMD ["bash"]'
		;;
	busybox)
		tar=$("$here/rootfs.sh" busybox)
		import_once "$tar" busybox:latest "ENV PATH=$default_path" 'CMD ["sh"]'
		;;
	golang)
		"$here/build.sh" debian
		"$here/golang/build.sh"
		;;
	*) die "unknown image $name: want debian, busybox or golang" ;;
	esac
done
