#!/bin/sh
# Installs PostgreSQL 15 from Debian's packages, in a container of the base image.
# It runs as one step, so that what it deletes is in no layer.
set -eu
export DEBIAN_FRONTEND=noninteractive

# Before apt: the ids must not depend on the packages, or a volume made by one
# version of this image belongs to somebody else in the next.
groupadd --system --gid 999 postgres
useradd --system --uid 999 --gid postgres --home-dir /var/lib/postgresql --shell /bin/bash postgres

# Without this the package makes a cluster of its own that nobody uses.
mkdir -p /etc/postgresql-common
echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf

apt-get update -q
apt-get install -q -y --no-install-recommends -o Dpkg::Use-Pty=0 postgresql-15

# Compiling queries costs 130 MB and does nothing for a small store.
lib=/usr/lib/postgresql/15/lib
rm -rf "$lib"/llvmjit* "$lib"/bitcode /usr/lib/x86_64-linux-gnu/libLLVM* /usr/lib/x86_64-linux-gnu/libz3* \
	/usr/lib/aarch64-linux-gnu/libLLVM* /usr/lib/aarch64-linux-gnu/libz3*
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log /var/log/alternatives.log

mkdir -p /var/lib/postgresql/data
chown postgres:postgres /var/lib/postgresql /var/lib/postgresql/data
