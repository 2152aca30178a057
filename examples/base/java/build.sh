#!/bin/bash
# Builds holdfast/jre:17, holdfast/jdk:17 and holdfast/maven:3 on the base of all
# examples. The first time takes minutes: apt brings 200 MB.
set -euo pipefail
here=$(cd -- "$(dirname -- "$0")" && pwd)
# shellcheck source=examples/base/lib.sh
. "$here/../lib.sh"

"$here/../build.sh" debian
for image in jre:17 jdk:17 maven:3; do
	say "holdfast/$image"
	engine build --quiet --tag "holdfast/$image" --target "${image%%:*}" "$here" >/dev/null
done
