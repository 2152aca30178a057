# Tests, checks and measurements. Included by the Makefile, whose `deps` and
# `build` targets it uses.

GO ?= go
GOLANGCI := bin/golangci-lint
CLASSES ?= unit api cluster e2e
FOCUS ?=
DURATION ?= 10m

$(GOLANGCI): tools/lint/go.mod tools/lint/go.sum
	cd tools/lint && $(GO) build -o ../../$(GOLANGCI) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: check fix test test-unit test-api test-race bin/race test-cluster test-e2e test-chaos test-set-chaos fuzz fuzz-short compat golden-update bench

check: $(GOLANGCI) ## lint, import rules, package comments
	$(GOLANGCI) run ./...
	cd examples/store && ../../$(GOLANGCI) run ./...
	$(GO) test -count=1 ./internal/deptest

fix: $(GOLANGCI) ## lay out the code and fix what the linters can
	$(GOLANGCI) fmt
	$(GOLANGCI) run --fix ./...

# `deps` and `build` come first so that the README's one command does it all. test/api
# runs against a daemon and shims with the race detector: RACE= without.
RACE ?= bin/race
test: deps build $(RACE) ## everything CI runs (root); CLASSES=, FOCUS= narrow it
	$(GO) run ./cmd/hfdev test -run '$(FOCUS)' -race '$(RACE)' $(CLASSES)

test-unit: ## tests beside the code; without root those that need it are skipped
	$(GO) run ./cmd/hfdev test -run '$(FOCUS)' unit

test-api: build ## tests against one daemon (root)
	$(GO) run ./cmd/hfdev test -run '$(FOCUS)' api

test-cluster: build ## swarms of several daemons on this machine (root)
	$(GO) run ./cmd/hfdev test -run '$(FOCUS)' cluster

test-race: build bin/race ## tests against one daemon, built with the race detector; races fail it but for a reviewed list (root, gcc)
	$(GO) run ./cmd/hfdev test -run '$(FOCUS)' -race bin/race api race

# The programs that have concurrency of ours, with the race detector; the others as
# they are. Their packages are the ones that the class unit compiles with -race too.
RACED := holdfastd containerd-shim-runc-v2
bin/race: build
	@rm -rf bin/race && mkdir -p bin/race && ln -s $(addprefix ../,$(filter-out $(RACED) race compat,$(notdir $(wildcard bin/*)))) bin/race/
	CGO_ENABLED=1 $(GO) build -race -o bin/race/ $(RACED:%=./cmd/%)

test-e2e: build ## the store in a browser (root)
	$(GO) run ./cmd/hfdev test -run '$(FOCUS)' e2e

test-chaos: build ## kill -9 loops for DURATION (root)
	HF_CHAOS_DURATION=$(DURATION) $(GO) run ./cmd/hfdev test chaos

test-set-chaos: build ## faults of all kinds under a stateful set for DURATION (root)
	HF_CHAOS_DURATION=$(DURATION) $(GO) run ./cmd/hfdev test -run 'TestSetChaos$$' cluster

compat: build ## other people's clients on this engine and on dockerd; writes docs/compat-twin.md (root)
	@rm -rf bin/compat && mkdir -p bin/compat
	HF_COMPAT_OUT=$(CURDIR)/bin/compat $(GO) test -count=1 -timeout 20m ./test/compat
	HF_ENGINE=dockerd HF_COMPAT_OUT=$(CURDIR)/bin/compat $(GO) test -count=1 -timeout 20m ./test/compat
	$(GO) run ./cmd/hfdev twin -in bin/compat -write docs/compat-twin.md

fuzz: ## every decoder of outside bytes, DURATION each; FOCUS= narrows it (root)
	$(GO) run ./cmd/hfdev fuzz -time $(if $(filter file,$(origin DURATION)),10s,$(DURATION)) -run '$(FOCUS)'

fuzz-short: ## a second for each decoder that compiles quickly (root): CI's form
	$(GO) run ./cmd/hfdev fuzz -short -time 1s

golden-update: ## write the golden files anew
	$(GO) test ./internal/deptest ./internal/container ./internal/daemon ./internal/daemon/config ./test/api/parity -run "Review|Spec|Reference|EverySchema" -update

bench: build ## measure against docker.io and podman where installed (root)
	$(GO) run ./cmd/hfdev bench -write docs/bench.md
