#!/bin/bash
# Builds golang:1 from the Go that the host has.
set -euo pipefail
here=$(cd -- "$(dirname -- "$0")" && pwd)
# shellcheck source=examples/base/lib.sh
. "$here/../lib.sh"

command -v go >/dev/null || die "go is missing: it is what golang:1 is made of"
source=golang-$({
	go version
	engine image inspect --format '{{index .Config.Labels "dev.holdfast.source"}}' debian:bookworm-slim
	cat -- "$here"/Dockerfile*
} | sha256sum | cut -c1-16)
if [ "$(engine image inspect --format '{{index .Config.Labels "dev.holdfast.source"}}' golang:1 2>/dev/null)" = "$source" ]; then
	say "golang:1: present"
	exit
fi
say "golang:1: $(go version)"
# Compressing what stays on this machine would be most of the work.
BUILDX_NO_DEFAULT_ATTESTATIONS=1 engine build --quiet --label "dev.holdfast.source=$source" \
	--output type=image,name=golang:1,compression=uncompressed \
	--file "$here/Dockerfile" "$(go env GOROOT)" >/dev/null
