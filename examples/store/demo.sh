#!/bin/bash
# The store, from nothing to a page: `demo.sh up`, and away again: `demo.sh down`.
#
#   up           start the engine if none answers, make the images, bring the store
#                up, add a product by the page's form and read it from the standby
#   down         remove the store and its data, and the engine if `up` started it
#   down --all   also whatever else is in that engine, or the images in another one
#
# It runs on the engine's defaults. For a second one beside it:
#   HOLDFAST_DEMO_DIR              keeps everything in that folder
#   STORE_WEB_PORT, STORE_API_PORT publish elsewhere than on 8081 and 8085
set -euo pipefail
here=$(cd -- "$(dirname -- "$0")" && pwd)
top=$(cd -- "$here/../.." && pwd)
# shellcheck source=examples/base/lib.sh
. "$top/examples/base/lib.sh"

if [ -n "${HOLDFAST_DEMO_DIR-}" ]; then
	root=$HOLDFAST_DEMO_DIR/root
	run=$HOLDFAST_DEMO_DIR/run
	sock=$HOLDFAST_DEMO_DIR/sock
	state=$HOLDFAST_DEMO_DIR/demo
	daemon_args=(--root "$root" --exec-root "$run" -H "unix://$sock" --pidfile "$HOLDFAST_DEMO_DIR/pid")
else
	root=/var/lib/holdfast
	run=/run/holdfast
	sock=/run/holdfast.sock
	state=/var/lib/holdfast-demo
	daemon_args=()
fi
log=$state/holdfastd.log
web_port=${STORE_WEB_PORT:-8081}
api_port=${STORE_API_PORT:-8085}
page=http://localhost:$web_port
export HOLDFAST=$top/bin/holdfast DOCKER_HOST=unix://$sock
unset DOCKER_CONTEXT

step() { say "== $*"; }

answers() { curl -fs -m 5 -o /dev/null --unix-socket "$sock" http://engine/_ping; }

# until_true SECONDS WHAT COMMAND... asks again and again until COMMAND succeeds.
until_true() {
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || die "$what: not in time"
		sleep 0.2
	done
}

# ours tells whether the engine that `up` started still runs. A number alone may
# by now be another process's.
ours() {
	[ -s "$state/pid" ] && [ "$(readlink "/proc/$(cat "$state/pid")/exe" 2>/dev/null | sed 's/ (deleted)$//')" = "$(cat "$state/exe")" ]
}

compose() {
	local files=(-f "$here/docker-compose.yml")
	if [ -s "$state/ports.yml" ]; then
		files+=(-f "$state/ports.yml")
	fi
	engine compose --project-name store "${files[@]}" "$@"
}

start_engine() {
	if answers; then
		say "an engine answers at $sock"
		return
	fi
	if ours; then
		die "the engine with pid $(cat "$state/pid") runs but does not answer; see $log"
	fi
	step "starting the engine"
	if [ ! -e "$state/before" ]; then
		{
			if [ -d "$root" ] && [ -n "$(ls -A "$root")" ]; then echo root=kept; else echo root=made; fi
			echo "ip_forward=$(cat /proc/sys/net/ipv4/ip_forward)"
		} >"$state/before"
	fi
	printf '%s\n' "$top/bin/holdfastd" >"$state/exe"
	# In a session of its own, so that Ctrl-C here does not end it.
	setsid "$top/bin/holdfastd" "${daemon_args[@]}" >>"$log" 2>&1 </dev/null 8>&- &
	echo $! >"$state/pid"
	disown
	local end=$((SECONDS + 60))
	until answers; do
		# Not `ours`: for a moment its process is still setsid.
		if ! kill -0 "$(cat "$state/pid")" 2>/dev/null || [ "$SECONDS" -ge "$end" ]; then
			tail -n 20 -- "$log" >&2
			die "the engine did not start; its log is $log"
		fi
		sleep 0.1
	done
}

reads_from_standby() { curl -fs -m 10 "$page/" | grep -q '<span class="tag standby">'; }

up() {
	local p
	for p in holdfast holdfastd containerd-shim-runc-v2 runc cli-plugins/docker-buildx; do
		[ -x "$top/bin/$p" ] || die "bin/$p is missing: run 'make build' first"
	done
	start_engine
	step "images"
	"$top/examples/base/build.sh" debian busybox
	"$here/build.sh"
	step "the store"
	rm -f -- "$state/ports.yml"
	if [ "$web_port" != 8081 ] || [ "$api_port" != 8085 ]; then
		cat >"$state/ports.yml" <<-END
			services:
			  api: {ports: !override ['$api_port:80']}
			  web: {ports: !override ['$web_port:80']}
		END
	fi
	if ! compose up --detach --wait --wait-timeout 180; then
		compose ps --all >&2 || true
		compose logs --tail 15 >&2 || true
		die "the store did not come up (is another program using port $web_port or $api_port?)"
	fi
	until_true 60 "the page is read from the standby" reads_from_standby

	step "adding a product by the page's form"
	local name answer
	name="Demo kettle, $(date -u +%T)"
	answer=$(curl -fsSL -m 20 -H "Origin: $page" --data-urlencode "name=$name" --data-urlencode 'price=34.90' "$page/products")
	answer=$(grep -o 'id="added".*' <<<"$answer" | sed 's/^[^>]*>//; s/<[^>]*>//g') || die "the page did not say that the product was added"
	say "the page says: $answer"
	grep -q 'read back from the standby' <<<"$answer" || die "it was not read back from the standby"
	cat >&2 <<-END

		The store is at $page (for programs: http://localhost:$api_port/products)

		Try next, in this folder:
		  export DOCKER_HOST=unix://$sock      # then docker works too, where it is installed
		  bin/holdfast ps
		  bin/holdfast kill --signal KILL store-db-master-1 && bin/holdfast start store-db-master-1
		                                       # what was added is still there
		  bin/holdfast container inspect --format '{{json .GraphDriver}}' store-web-1
		  bin/holdfast system df --verbose
		  make demo-down                       # away with all of it
	END
}

# others lists containers and volumes that are not the store's.
others() {
	engine ps --all --format '{{.Label "com.docker.compose.project"}} container {{.Names}}' | sed -n '/^store /!p'
	engine volume ls --format '{{.Label "com.docker.compose.project"}} volume {{.Name}}' | sed -n '/^store /!p'
}

remove_images() {
	local image
	for image in psodstorage/store-{db,api,web}:latest golang:1 debian:bookworm-slim busybox:latest; do
		# Only what these scripts made: they leave one of two labels.
		if [ -n "$(engine image inspect --format '{{index .Config.Labels "dev.holdfast.source"}}{{index .Config.Labels "dev.holdfast.example"}}' "$image" 2>/dev/null || true)" ]; then
			engine image rm --force "$image" >/dev/null
			say "removed image $image"
		fi
	done
}

down() {
	local all=$1 other bridge
	if [ -e "$state/before" ] && ! ours && ! answers; then
		# It ended on its own, or with the machine: its data can only be removed by it.
		start_engine
	fi
	if ! answers; then
		say "no engine answers at $sock: nothing to remove"
		remove_state
		return
	fi
	step "removing the store"
	compose down --volumes --remove-orphans --timeout 10
	if ! ours; then
		[ -z "$all" ] || remove_images
		say "this engine was not started by the demo: it goes on"
		remove_state
		return
	fi
	other=$(others)
	if [ -n "$all" ]; then
		engine ps --all --quiet | xargs -r "$HOLDFAST" rm --force --volumes >/dev/null
		engine volume ls --quiet | xargs -r "$HOLDFAST" volume rm --force >/dev/null
		engine network ls --quiet --filter type=custom | xargs -r "$HOLDFAST" network rm >/dev/null
	elif [ -n "$other" ]; then
		say "the engine holds more than the store, so it stays:"
		say "$other"
		say "'$0 down --all' removes that too"
		return
	fi
	step "stopping the engine"
	bridge=$(engine network inspect --format '{{index .Options "com.docker.network.bridge.name"}}' bridge)
	remove_engine "$bridge"
}

ended() { ! ours; }

remove_engine() {
	local bridge=$1 table=holdfast mounts
	case $bridge in hf-*) table=holdfast-${bridge#hf-} ;; esac
	kill -TERM "$(cat "$state/pid")"
	until_true 60 "the engine ends" ended
	if [ -e "/sys/class/net/$bridge" ]; then
		ip link delete "$bridge"
	fi
	if nft list table inet "$table" >/dev/null 2>&1; then
		nft delete table inet "$table"
	fi
	# Another program may have come to need it in the meantime; one that had it off
	# before gets it back off only if nothing routes between interfaces now.
	if grep -q '^ip_forward=0' "$state/before" && [ -z "$(ip -o link show type bridge)" ]; then
		echo 0 >/proc/sys/net/ipv4/ip_forward
	fi
	if grep -q '^root=made' "$state/before"; then
		mounts=$(awk -v r="$root" -v x="$run" 'index($2, r "/") == 1 || index($2, x "/") == 1 {print $2}' /proc/self/mounts)
		[ -z "$mounts" ] || die "still mounted, so nothing was removed: $mounts"
		rm -rf --one-file-system -- "$root" "$run" "$sock"
		say "removed $root"
	else
		say "$root was there before the demo: it stays"
	fi
	# Parents of the containers' control groups; a group in use stays.
	find /sys/fs/cgroup -mindepth 1 -maxdepth 2 -type d -name holdfast -exec rmdir -- {} + 2>/dev/null || true
	remove_state
}

remove_state() {
	rm -rf -- "$state"
	if [ -n "${HOLDFAST_DEMO_DIR-}" ]; then
		rmdir --ignore-fail-on-non-empty -- "$HOLDFAST_DEMO_DIR"
	fi
}

[ "$(id -u)" = 0 ] || die "containers need root: run this as root"
need curl ip nft flock setsid
case "${1-} ${2-}" in
"up " | "down " | "down --all") ;;
*) die "usage: demo.sh up | down [--all]" ;;
esac
trap 'say "interrupted; run it again to go on, or \"make demo-down\" to remove what is there"; exit 130' INT TERM
mkdir -p "$state"
exec 8>>"/run/lock/holdfast-demo-$(sha256sum <<<"$state" | cut -c1-8)"
flock --nonblock 8 || die "another demo.sh is at work"
case $1 in
up) up ;;
down) down "${2-}" ;;
esac
