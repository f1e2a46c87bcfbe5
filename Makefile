# tcplab: reproduce how TCP services fail, before and after one lever.
#
# `make experiment NAME=churn` is all that a reader of the report needs; the
# rest is for those who change tcplab.

SHELL   := /bin/bash
GO      ?= go
BIN     := bin/tcplab
PROFILE ?=
ARGS    ?=
export CGO_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help build experiment kernel list test soak bench clean deps

help: ## this text
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make experiment NAME=churn [PROFILE=quick|full] [ARGS='--seed 7']"

build: ## the one binary, bin/tcplab
	@mkdir -p bin
	@$(GO) build -trimpath -o $(BIN) ./cmd/tcplab

experiment: build ## run an experiment and write its report: NAME=churn [PROFILE=quick|full] [ARGS=…]
	@test -n "$(NAME)" || { echo "which experiment? make experiment NAME=churn; there are:"; $(BIN) list; exit 2; }
	@$(BIN) run $(NAME) $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)

kernel: build ## the guest kernel, into the user's cache: some 4 minutes, once [KERNEL_SRC=DIR or .tar.xz]
	@$(BIN) kernel build

list: build ## the experiments
	@$(BIN) list

test: deps ## everything that has to hold: vet, staticcheck, unit and end-to-end tests, as root and as a plain user
	@.ci/test

soak: build ## long and repeated checks: kills, interrupts, busy cores
	@.ci/soak

bench: ## speed of the load engine and the wire, each against a floor in the same run
	@$(GO) test -run '^$$' -bench . -benchtime 1s ./clients ./netns/wire ./netns/probe ./netns/capture

deps:
	@.ci/deps

clean: ## what was built, not what was measured
	@rm -rf bin
	@$(GO) clean -testcache
