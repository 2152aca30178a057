#!/bin/bash
# A primary, or a standby of the server that REPLICATED_FROM names.
#
#   POSTGRES_USER         superuser (postgres)
#   POSTGRES_PASSWORD     its password; must be set
#   POSTGRES_DB           database with the store's tables (store)
#   REPLICATED_FROM       host name of the primary; unset: this is the primary
#   REPLICATION_PASSWORD  of the role replicator (POSTGRES_PASSWORD)
#   PGDATA                folder of the data, below the volume
set -euo pipefail

say() { printf 'store-db: %s\n' "$*" >&2; }

die() {
	say "error: $*"
	exit 1
}

if [ "${1-}" != postgres ]; then
	exec "$@"
fi

PGDATA=${PGDATA:-/var/lib/postgresql/data/pgdata}
POSTGRES_USER=${POSTGRES_USER:-postgres}
POSTGRES_DB=${POSTGRES_DB:-store}
export PGDATA HOME=/var/lib/postgresql
volume=$(dirname -- "$PGDATA")
run=/run/postgresql

if [ "$(id -u)" = 0 ]; then
	# /run may be an empty tmpfs.
	mkdir -p "$run" "$volume"
	chown postgres:postgres "$run" "$volume"
	chmod 2775 "$run"
	# What a volume was filled with elsewhere belongs to whoever filled it.
	if [ -d "$PGDATA" ] && [ "$(stat -c %u "$PGDATA")" != 999 ]; then
		chown -R postgres:postgres "$PGDATA"
	fi
	# It keeps the process, so that signals reach postgres.
	exec setpriv --reuid=postgres --regid=postgres --init-groups --inh-caps=-all -- "$0" "$@"
fi

[ -n "${POSTGRES_PASSWORD-}" ] || die "POSTGRES_PASSWORD is not set: there is no default password"
! mountpoint -q -- "$PGDATA" || die "PGDATA ($PGDATA) is a mount point: name a folder below it"
replication_password=${REPLICATION_PASSWORD:-$POSTGRES_PASSWORD}

# PID 1 ignores signals it does not ask for; set-up must be stoppable too.
trap 'exit 130' INT
trap 'exit 143' TERM

# One container at a time. The lock goes with the last process of the container,
# however it ended; postgres and its children keep the descriptor.
exec 9>>"$volume/.lock"
flock --nonblock 9 || die "another container uses this volume"
# So this is nobody's: it is from a server that was killed. Its process number is
# 1, and so is ours, which would look alive.
rm -f -- "$PGDATA/postmaster.pid"

cd /
making=$PGDATA.making
rm -rf -- "$making"

# quote TEXT prints it as an SQL string.
quote() { printf "'%s'" "${1//\'/\'\'}"; }

make_primary() {
	say "making a new database"
	initdb --pgdata "$making" --username "$POSTGRES_USER" --pwfile <(printf '%s\n' "$POSTGRES_PASSWORD") \
		--encoding UTF8 --locale C.UTF-8 --data-checksums --auth scram-sha-256 >/dev/null
	# On the socket only: nobody shall see half of it.
	pg_ctl --pgdata "$making" --silent --wait --options "-c config_file=/etc/store-db/postgresql.conf \
		-c hba_file=/etc/store-db/pg_hba.conf -c listen_addresses=''" start >&2
	if [ "$POSTGRES_DB" != postgres ]; then
		createdb --username "$POSTGRES_USER" --host "$run" --maintenance-db postgres -- "$POSTGRES_DB"
	fi
	psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --host "$run" --dbname "$POSTGRES_DB" \
		--single-transaction --file - --file /etc/store-db/store.sql <<-END
		CREATE ROLE replicator LOGIN REPLICATION PASSWORD $(quote "$replication_password");
	END
	pg_ctl --pgdata "$making" --silent --wait --mode fast stop >&2
	sync
	mv -- "$making" "$PGDATA"
}

clone_primary() {
	local slot
	# One slot per volume: the name comes with the data, not with the container.
	slot=standby_$(od -An -N4 -tx4 /dev/urandom | tr -d ' ')
	say "cloning $REPLICATED_FROM, slot $slot"
	if ! pg_basebackup --dbname "$conninfo" --pgdata "$making" --wal-method stream --checkpoint fast \
		--create-slot --slot "$slot" --no-password; then
		psql --no-psqlrc --quiet --dbname "$conninfo replication=true" \
			--command "DROP_REPLICATION_SLOT $slot" >/dev/null 2>&1 || true # it may never have been made
		rm -rf -- "$making"
		return 1
	fi
	printf '%s\n' "$slot" >"$making/standby.slot"
	touch "$making/standby.signal"
	sync
	mv -- "$making" "$PGDATA"
}

args=(-c config_file=/etc/store-db/postgresql.conf -c hba_file=/etc/store-db/pg_hba.conf -c "cluster_name=$(hostname)")

if [ -z "${REPLICATED_FROM-}" ]; then
	[ -s "$PGDATA/PG_VERSION" ] || make_primary
	[ ! -e "$PGDATA/standby.signal" ] ||
		say "this volume holds a standby, and it stays one; to promote it: psql -c 'SELECT pg_promote()'"
else
	passfile=$HOME/.pgpass
	(umask 077 && printf '*:*:*:replicator:%s\n' "$(sed 's/[\\:]/\\&/g' <<<"$replication_password")" >"$passfile")
	conninfo="host=$REPLICATED_FROM user=replicator passfile=$passfile connect_timeout=5 application_name=$(hostname)"
	waited=
	while [ ! -s "$PGDATA/PG_VERSION" ]; do
		if ! pg_isready --quiet --host "$REPLICATED_FROM" --timeout 2; then
			[ -n "$waited" ] || say "waiting for $REPLICATED_FROM"
			waited=yes
			sleep 0.5
			continue
		fi
		clone_primary || sleep 2
	done
	# Never overwrite a primary: it may hold rows that no other server has.
	[ -e "$PGDATA/standby.signal" ] ||
		die "this volume holds a primary's data: give the standby of $REPLICATED_FROM a new volume"
	args+=(-c "primary_conninfo=$conninfo" -c "primary_slot_name=$(cat -- "$PGDATA/standby.slot")")
fi

shift
exec postgres -D "$PGDATA" "${args[@]}" "$@"
