#!/bin/bash
# Makes the store's images without a builder: the database from Debian's packages
# in a container of the base image, which is then committed; api and web from
# static Go programs, imported. The Dockerfiles beside it say the same.
#
#   examples/store/build.sh [db] [api] [web]
#
# $DOCKER_HOST says which engine gets them, $HOLDFAST which client is used, $BASE
# which image the database stands on. Behind a proxy set $http_proxy; where
# containers need another one, $BUILD_HTTP_PROXY.
set -euo pipefail
here=$(cd -- "$(dirname -- "$0")" && pwd)
top=$(cd -- "$here/../.." && pwd)
# shellcheck source=examples/base/lib.sh
. "$top/examples/base/lib.sh"

prefix=${STORE_PREFIX:-psodstorage}
base=${BASE:-debian:bookworm-slim}
work=$(mktemp -d)
container=
tidy() {
	rm -rf -- "$work"
	if [ -n "$container" ]; then
		engine rm --force --volumes "$container" >/dev/null 2>&1 || say "left behind: container $container"
	fi
}
trap tidy EXIT
trap 'exit 130' INT TERM

# source_of IMAGE prints what the image was made of, or nothing.
source_of() { engine image inspect --format '{{index .Config.Labels "dev.holdfast.source"}}' "$1" 2>/dev/null || true; }

need_base() {
	if [ "$base" = debian:bookworm-slim ] && [ -z "${BASE-}" ]; then
		"$top/examples/base/build.sh" debian
	elif ! engine image inspect "$base" >/dev/null 2>&1; then
		engine pull "$base"
	fi
}

make_db() {
	local name=$prefix/store-db:latest from source saved proxy
	need_base
	from=$(source_of "$base")
	[ -n "$from" ] || from=$(engine image inspect --format '{{.Id}}' "$base")
	source=store-db-$(printf '%s\n' "$from" | cat - "$0" "$here"/database/* | sha256sum | cut -c1-16)
	if [ "$(source_of "$name")" = "$source" ]; then
		say "$name: present"
		return
	fi
	saved=$cache_dir/$source.tar
	if [ -s "$saved" ] && [ "$prefix" = psodstorage ]; then
		say "$name: loading $(basename -- "$saved")"
		use "$saved"
		engine image load --quiet --input "$saved" >/dev/null
		[ "$(source_of "$name")" = "$source" ] || die "$saved does not hold $name: remove that file"
		return
	fi
	say "$name: installing PostgreSQL 15 from Debian's packages (about a minute, once)"
	: >"$work/build.env"
	proxy=${BUILD_HTTP_PROXY:-${http_proxy-}}
	if [ -n "$proxy" ]; then
		printf 'export http_proxy=%q\n' "$proxy" >"$work/build.env"
	fi
	container=$(engine create "$base" sh -c '. /tmp/build.env && sh /tmp/install.sh && rm /tmp/build.env /tmp/install.sh')
	engine cp --quiet "$work/build.env" "$container:/tmp/build.env"
	engine cp --quiet "$here/database/install.sh" "$container:/tmp/install.sh"
	if ! engine start --attach "$container" >"$work/install.log" 2>&1; then
		tail -n 30 -- "$work/install.log" >&2
		die "installing PostgreSQL did not work"
	fi
	mkdir -p "$work/image/usr/local/bin" "$work/image/etc/store-db"
	install -m 755 "$here"/database/{entrypoint.sh,healthy.sh} "$work/image/usr/local/bin/"
	install -m 644 "$here"/database/{postgresql.conf,pg_hba.conf,store.sql} "$work/image/etc/store-db/"
	tar --create --directory "$work/image" --owner=0 --group=0 --mtime=@0 --sort=name usr etc |
		engine cp - "$container:/"
	engine commit --message 'PostgreSQL 15 for the store' \
		--change "ENV PATH=/usr/lib/postgresql/15/bin:$default_path LANG=C.UTF-8 PGDATA=/var/lib/postgresql/data/pgdata" \
		--change 'VOLUME /var/lib/postgresql/data' \
		--change 'EXPOSE 5432' \
		--change 'STOPSIGNAL SIGINT' \
		--change 'HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["healthy.sh"]' \
		--change "LABEL dev.holdfast.source=$source" \
		--change 'ENTRYPOINT ["entrypoint.sh"]' \
		--change 'CMD ["postgres"]' \
		"$container" "$name" >/dev/null
	if [ "$prefix" = psodstorage ]; then
		# For the next engine on this machine. Only a complete file gets its name.
		mkdir -p "$cache_dir"
		if engine image save --output "$work/db.tar" "$name" && cp -- "$work/db.tar" "$saved.$$"; then
			mv -- "$saved.$$" "$saved"
		else
			rm -f -- "$saved.$$"
			say "warning: $name was not put into $cache_dir"
		fi
	fi
	engine rm --volumes "$container" >/dev/null
	container=
	say "$name: made"
}

# make_go NAME imports an image that holds one static program and nothing else.
make_go() {
	local name=$1 tar
	command -v go >/dev/null || die "go is missing: it makes $prefix/store-$name"
	(cd -- "$top" && CGO_ENABLED=0 nice go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$work/$name.dir/$name" "./examples/store/$name")
	tar --create --file "$work/$name.tar" --directory "$work/$name.dir" --owner=0 --group=0 --mtime=@0 "$name"
	tar=$work/store-$name-$(key "$work/$name.tar").tar
	mv -- "$work/$name.tar" "$tar"
	import_once "$tar" "$prefix/store-$name:latest" 'USER 65534:65534' 'EXPOSE 80' \
		"HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD [\"/$name\", \"-check\"]" \
		"ENTRYPOINT [\"/$name\"]"
}

[ $# -gt 0 ] || set -- db api web
for image in "$@"; do
	case $image in
	db) make_db ;;
	api | web) make_go "$image" ;;
	*) die "unknown image $image: want db, api or web" ;;
	esac
done
