# make up       a three-region network on this machine, its first snapshots, each of them proven
# make down     ends it and leaves nothing running
# make test     everything that must hold before a change is taken
# make build    the lab's programs            make lint     linters and type checkers only
# make lock     requirements.lock anew        make clean    what was built, not the labs
#
# A second lab beside the first: make up LAB=two NETWORK=10.88 PORT_BASE=4400

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

LAB ?= lab
NETWORK ?=
PORT_BASE ?=
WORKERS ?= 2

VENV := .venv/bin
VEDR := $(VENV)/vedr
GO := $(shell command -v go 2>/dev/null || echo $(CURDIR)/build/go/go/bin/go)

# the same flags for building, vetting and testing: Go's cache keeps what other flags compiled apart, all of CometBFT again
export CGO_ENABLED := 0
export GOFLAGS := $(strip $(GOFLAGS) -trimpath -buildvcs=false)
# compiled once and kept: the tests and the lab start hundreds of processes, and each would compile the program anew
export PYTHONDONTWRITEBYTECODE :=
export VEDR_BIN := $(CURDIR)/build/bin

.PHONY: help up down status test lint build bootstrap lock clean pytest gotest

help:
	@sed -n '1,8s/^# \{0,1\}//p' Makefile

up: build
	@$(VEDR) lab up --name $(LAB) $(if $(NETWORK),--network $(NETWORK)) $(if $(PORT_BASE),--port-base $(PORT_BASE))
	@VEDR_SITE=$(LAB) $(VENV)/python deployments/first_backups.py

down:
	@if [ -x $(VEDR) ]; then $(VEDR) lab down --name $(LAB); else echo "nothing was started: there is no $(VEDR)"; fi

status:
	@$(VEDR) lab status --name $(LAB)

bootstrap:
	@deployments/bootstrap

build: bootstrap build/bin/.lab build/bin/.s3

build/bin/.lab: $(shell find deployments/lab -name '*.go' -not -name '*_test.go') deployments/lab/go.mod deployments/lab/go.sum
	@echo "· building the lab's programs"
	@mkdir -p build/bin
	@cd deployments/lab && $(GO) build -o $(VEDR_BIN)/ ./cmd/...
	@touch $@

build/bin/.s3: $(shell find deployments/s3 -name '*.go' -not -name '*_test.go') deployments/s3/go.mod deployments/s3/go.sum
	@echo "· building the S3 server"
	@mkdir -p build/bin
	@cd deployments/s3 && $(GO) build -o $(VEDR_BIN)/labs3 .
	@touch $@

test: build lint gotest pytest

lint: bootstrap
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/lint-imports

gotest: build
	cd deployments/lab && $(GO) vet ./... && $(GO) test ./...
	cd deployments/s3 && $(GO) vet ./... && $(GO) test ./...

# The files are shared out in this order among WORKERS processes; 0: one after the other in this one.  Those with Prefect
# come last: its server takes processor time for as long as it is up.  Networks that stay up for their tests run alone.
pytest: build
	@export PATH="$(CURDIR)/$(VENV):$$PATH" failed=0; \
	pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder \
	    tests/unit tests/properties tests/contract tests/faults tests/flows || failed=1; \
	pytest tests/chain tests/lab || failed=1; \
	exit $$failed

lock: bootstrap
	CUSTOM_COMPILE_COMMAND="make lock" $(VENV)/pip-compile --quiet --no-header --no-annotate --strip-extras --allow-unsafe \
	    --generate-hashes --all-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options \
	    --output-file requirements.lock pyproject.toml

clean:
	rm -rf build .venv
