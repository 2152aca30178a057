#!/bin/bash
# Prints the path of the root file system of debian:bookworm-slim or of busybox,
# making it first where the cache lacks it. --refresh makes it anew, which is how
# newer Debian packages get in.
#
#   examples/base/rootfs.sh [--refresh] debian|busybox
set -euo pipefail
here=$(cd -- "$(dirname -- "$0")" && pwd)
# shellcheck source=examples/base/lib.sh
. "$here/lib.sh"

make_debian() {
	local tar
	tar=$cache_dir/debian-$(key "$here/debian.sh" "$(debian_sources)" "$ca_bundle").tar
	if [ -n "$refresh" ] || [ ! -e "$tar" ]; then
		say "debian: making a root file system from Debian packages (a minute or two, once)"
		"$here/debian.sh" "$tar"
	fi
	printf '%s\n' "$tar"
}

make_busybox() {
	local tar dir bin applet
	need busybox
	bin=$(command -v busybox)
	tar=$cache_dir/busybox-$(key "$here/rootfs.sh" "$bin" "$ca_bundle").tar
	if [ -z "$refresh" ] && [ -e "$tar" ]; then
		printf '%s\n' "$tar"
		return
	fi
	if ldd "$bin" >/dev/null 2>&1; then
		die "$bin is not static: install busybox-static"
	fi
	mkdir -p "$cache_dir"
	dir=$(mktemp -d "$cache_dir/making.XXXXXX")
	mkdir -p "$dir"/root/{bin,dev,etc/ssl/certs,home,proc,sys,usr/bin,usr/sbin,var/spool,var/www}
	mkdir -m 700 "$dir/root/root"
	mkdir -m 1777 "$dir/root/tmp" "$dir/root/var/tmp"
	install -m 755 "$bin" "$dir/root/bin/busybox"
	for applet in $("$bin" --list); do
		[ "$applet" = busybox ] || ln -s busybox "$dir/root/bin/$applet"
	done
	install -m 644 "$ca_bundle" "$dir/root/etc/ssl/certs/"
	cat >"$dir/root/etc/passwd" <<-'END'
		root:x:0:0:root:/root:/bin/sh
		daemon:x:1:1:daemon:/usr/sbin:/bin/false
		bin:x:2:2:bin:/bin:/bin/false
		sys:x:3:3:sys:/dev:/bin/false
		mail:x:8:8:mail:/var/spool/mail:/bin/false
		www-data:x:33:33:www-data:/var/www:/bin/false
		operator:x:37:37:Operator:/var:/bin/false
		nobody:x:65534:65534:nobody:/home:/bin/false
	END
	cat >"$dir/root/etc/group" <<-'END'
		root:x:0:
		daemon:x:1:
		bin:x:2:
		sys:x:3:
		adm:x:4:
		tty:x:5:
		disk:x:6:
		mail:x:8:
		www-data:x:33:
		operator:x:37:
		users:x:100:
		nogroup:x:65534:
	END
	chmod 644 "$dir/root/etc/passwd" "$dir/root/etc/group"
	tar --create --file "$dir/rootfs.tar" --directory "$dir/root" --sort=name --format=gnu \
		--numeric-owner --owner=0 --group=0 --mtime=@0 .
	mv -- "$dir/rootfs.tar" "$tar"
	rm -rf -- "$dir"
	printf '%s\n' "$tar"
}

refresh=
if [ "${1-}" = --refresh ]; then
	refresh=yes
	shift
fi
case ${1-} in
debian | busybox) "make_$1" ;;
*) die "usage: rootfs.sh [--refresh] debian|busybox" ;;
esac
