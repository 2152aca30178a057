# A cluster for developers: nodes of namespaces on this machine, each with a
# daemon. bin/hfdev has the rest: ls, exec, logs, kill, stop, start, partition, heal.

N ?= 4
MANAGERS ?= 1

.PHONY: bin/hfdev dev-up dev-down

bin/hfdev:
	$(GO) build -o $@ ./cmd/hfdev

dev-up: build bin/hfdev ## a swarm of N nodes on this machine (root)
	bin/hfdev up -n $(N) -managers $(MANAGERS)

dev-down: bin/hfdev ## take it down
	bin/hfdev down
