# The programs that run beside the daemon (shim, runc, the init of --init) and
# the clients' plugin for builds. Included by the Makefile. Each depends on what its version is pinned by.

GO ?= go

# In the shim nothing but its start-up time and size counts: one runs for each
# container, and two start on the way to its first process. The newer garbage
# collector holds 130 KiB more for a heap as small as this.
bin/containerd-shim-runc-v2: go.mod $(wildcard cmd/containerd-shim-runc-v2/*.go) build/binaries.mk
	CGO_ENABLED=0 GOEXPERIMENT=nogreenteagc $(GO) build -trimpath -ldflags "-s -w" -o $@ ./cmd/containerd-shim-runc-v2
	@touch $@

# Static, so that no dynamic linker runs three times per container start, and
# with libseccomp's work shortened: build/seccomp/src/join.c says how. Needs
# libseccomp-dev.
SECCOMP_WRAPPED := init release reset merge arch_add arch_exist arch_remove attr_set syscall_priority \
	rule_add_array rule_add_exact_array load export_bpf export_pfc
SECCOMP_LDFLAGS := $(CURDIR)/bin/seccomp-join.o $(SECCOMP_WRAPPED:%=-Wl,--wrap=seccomp_%)

bin/seccomp-join.o: build/seccomp/src/join.c
	@mkdir -p bin
	$(CC) -O2 -Wall -Wextra -c -o $@ $<

bin/runc: tools/runc/go.mod tools/runc/go.sum bin/seccomp-join.o build/binaries.mk
	@rm -f $@ # go would keep it where only the object changed
	cd tools/runc && $(GO) build -trimpath \
		-tags "seccomp urfave_cli_no_docs netgo osusergo" \
		-ldflags "-s -w -linkmode external -extldflags '-static $(SECCOMP_LDFLAGS)'" \
		-o ../../$@ github.com/opencontainers/runc
	@touch $@

bin/holdfast-init: go.mod $(wildcard cmd/holdfast-init/*.go)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o $@ ./cmd/holdfast-init
	@touch $@

# What does the work of backups, with the libraries for it. Go finds out what it is
# made of.
.PHONY: bin/holdfast-backup
bin/holdfast-backup:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o $@ ./cmd/holdfast-backup

# In the containers of a stateful set: static, like the init.
bin/holdfast-member: go.mod $(wildcard cmd/holdfast-member/*.go internal/stateful/*.go internal/stateful/*/*.go)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o $@ ./cmd/holdfast-member
	@touch $@

# Docker's buildx, for our client and for docker's own.
bin/cli-plugins/docker-buildx: tools/buildx/go.mod tools/buildx/go.sum tools/buildx/main.go
	cd tools/buildx && CGO_ENABLED=0 $(GO) build -trimpath \
		-ldflags "-s -w -X github.com/docker/buildx/version.Version=$$($(GO) list -m -f '{{.Version}}' github.com/docker/buildx)" \
		-o ../../$@ .
	@touch $@
