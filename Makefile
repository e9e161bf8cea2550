# Targets say what they do; `make` alone lists them. Longer work lives in scripts/.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

.PHONY: help build run demo generate generate-check fmt lint test test-scenarios test-race test-vm bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build ./tcpwaitd: static, needs only Go
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o tcpwaitd ./cmd/tcpwaitd

run: build ## build, then watch this host for 10 s and say who does not close (root)
	@scripts/run.sh

demo: build ## start a small leaking server of our own and catch it (root)
	@scripts/demo.sh

generate: ## compile bpf/ and write the Go side of it (clang-14, libbpf-dev)
	go generate ./internal/tracer ./internal/bench/floor

generate-check: ## fail if the committed objects differ from what bpf/ compiles to
	scripts/generate-check.sh

fmt: ## format Go and C
	scripts/fmt.sh

lint: ## formatting, vet, golangci-lint, shellcheck
	scripts/lint.sh

test: ## all tests this machine allows; as root the real kernel is used
	scripts/test.sh $(ARGS)

test-scenarios: ## the incidents of docs/scenarios.md with real servers (root)
	PACKAGES=./e2e scripts/test.sh -run '^TestScenario' -parallel 4 $(ARGS)

test-race: ## the same under the race detector (needs gcc)
	scripts/test.sh -race

test-vm: ## the kernel tests on Debian's kernels in QEMU (root, installs QEMU)
	scripts/vmtest.sh

bench: ## measure the cost beside PEERS=... and write docs/performance.md (root)
	scripts/bench.sh $(ARGS)

clean: ## remove what the other targets made
	rm -rf tcpwaitd bin .cache
