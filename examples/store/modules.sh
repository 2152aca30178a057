#!/bin/bash
# Puts the modules that the store needs into modules/, arranged as a proxy of
# modules: builds then need no network. They come from where the host's go has
# them, its cache or whatever proxy it is set to.
set -euo pipefail
here=$(cd -- "$(dirname -- "$0")" && pwd)
cd -- "$here"

if [ modules -nt go.sum ]; then
	exit
fi
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
GOMODCACHE=$work GOFLAGS=-modcacherw \
	GOPROXY=file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY) go mod download
rm -rf -- modules "$work/cache/download/sumdb"
mv -- "$work/cache/download" modules
touch modules
