# The programs that run beside the daemon (shim, runc, the init of --init) and
# the clients' plugin for builds. Included by the Makefile. Each depends on what its version is pinned by.

GO ?= go

# In the shim nothing but its start-up time and size counts: one runs for each
# container, and two start on the way to its first process.
bin/containerd-shim-runc-v2: go.mod $(wildcard cmd/containerd-shim-runc-v2/*.go)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o $@ ./cmd/containerd-shim-runc-v2
	@touch $@

# Static, so that no dynamic linker runs three times per container start.
# Needs libseccomp-dev.
bin/runc: tools/runc/go.mod tools/runc/go.sum
	cd tools/runc && $(GO) build -trimpath \
		-tags "seccomp urfave_cli_no_docs netgo osusergo" \
		-ldflags "-s -w -linkmode external -extldflags -static" \
		-o ../../$@ github.com/opencontainers/runc
	@touch $@

bin/holdfast-init: go.mod $(wildcard cmd/holdfast-init/*.go)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o $@ ./cmd/holdfast-init
	@touch $@

# Docker's buildx, for our client and for docker's own.
bin/cli-plugins/docker-buildx: tools/buildx/go.mod tools/buildx/go.sum tools/buildx/main.go
	cd tools/buildx && CGO_ENABLED=0 $(GO) build -trimpath \
		-ldflags "-s -w -X github.com/docker/buildx/version.Version=$$($(GO) list -m -f '{{.Version}}' github.com/docker/buildx)" \
		-o ../../$@ .
	@touch $@
