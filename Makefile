# The doors of this repository; `make help` lists them. Two of them are all a
# newcomer needs, and each does its own set-up: `make demo` and `make test`.
SHELL := /bin/bash
GO ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
COMPOSE := github.com/docker/compose/v5
PREFIX ?= /usr/local

.DEFAULT_GOAL := help

include build/binaries.mk
include build/deps.mk
include build/test.mk
include build/dev.mk

PROGRAMS := bin/holdfast bin/holdfastd bin/cli-plugins/docker-buildx bin/containerd-shim-runc-v2 bin/runc bin/holdfast-init bin/holdfast-backup bin/holdfast-member

.PHONY: help build bin/holdfast bin/holdfastd clean demo demo-down install

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | sort | column -t -s "$$(printf '\t')"

build: $(PROGRAMS) ## bin/: the client, the daemon and the programs beside it

bin/holdfast:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS) -X $(COMPOSE)/internal.Version=$$($(GO) list -m -f '{{.Version}}' $(COMPOSE))" -o $@ ./cmd/holdfast
	@mkdir -p bin/cli-plugins && ln -sf holdfast bin/docker-compose && ln -sf ../holdfast bin/cli-plugins/docker-holdfast

bin/holdfastd:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o $@ ./cmd/holdfastd

demo: deps-demo build ## the store, from nothing to a page in your browser (root)
	examples/store/demo.sh up

demo-down: ## take the demo away again, its data too
	examples/store/demo.sh down

install: build ## into PREFIX (/usr/local), with systemd units
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin bin/holdfast bin/holdfastd
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/libexec/holdfast bin/containerd-shim-runc-v2 bin/runc bin/holdfast-init bin/holdfast-backup bin/holdfast-member
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/libexec/holdfast/cli-plugins bin/cli-plugins/docker-buildx
	mkdir -p $(DESTDIR)$(PREFIX)/libexec/docker/cli-plugins
	ln -sf ../../../bin/holdfast $(DESTDIR)$(PREFIX)/libexec/docker/cli-plugins/docker-holdfast
	install -D -m 644 -t $(DESTDIR)/usr/lib/systemd/system packaging/systemd/holdfast.service packaging/systemd/holdfast.socket

clean: ## remove what was built
	rm -rf bin
