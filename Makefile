# Every command there is; bare `make` explains itself. What was done is remembered in .state/, so nothing runs twice.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh

PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
PROTOS := $(shell find proto -name '*.proto')
LOCKS := requirements.lock requirements-dev.lock requirements-node.lock
NPM_LOCKS := admin_ui/package-lock.json bundle/ip_data/package-lock.json

# Installs a lock file and counts on the terminal what has come; a failure of pip is one of make.
define install
rm -f .state/failed; if [ -t 1 ]; then shown=1; else shown=0; fi; { $(PIP) install --require-hashes -r $(1) || touch .state/failed; } | \
	awk -v shown=$$shown '/^(Collecting|Requirement already)/ && shown {printf "\r  %d packages", ++n; fflush()} \
	/^Installing/ && shown {printf ", unpacking"; fflush()} END {if (n) print ""}'; \
	[ ! -e .state/failed ]
endef

# What is remembered about an environment that was removed is not true any more.
ifeq ($(wildcard $(PY)),)
$(shell rm -rf .state)
endif

.PHONY: help
help: ## Show this list
	@echo "OpenNotice tells a court agency whether, when and how a person opened the notice they were sent."
	@echo
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

# --- use it

.PHONY: run
run: .state/installed .state/stubs ## Run everything on this machine, until Ctrl-C
	@exec .venv/bin/opennotice run

.PHONY: demo
demo: .state/installed .state/stubs ## Load sample data into what `make run` runs
	@exec .venv/bin/opennotice demo

# --- run it for real, in containers

.PHONY: up
up: ## Start it in containers, or bring what runs up to date
	@deploy/opennotice up

.PHONY: down
down: ## Stop the containers; all data stay
	@deploy/opennotice down

.PHONY: cli
cli: ## Use the command inside the containers: make cli ARGS="user list"
	@deploy/opennotice $(ARGS)

.PHONY: bundle
bundle: ## Write one file that installs the containers where no registry answers
	@deploy/bundle

.PHONY: images
images: ## Build the container images; needs no registry
	@deploy/images

# --- work on it

.PHONY: test
test: .state/dev .state/stubs-dev ## Run the tests
	@$(PY) -m pytest -n 3 --dist loadgroup --durations=40 --durations-min=3

.PHONY: check
check: .state/dev .state/stubs-dev ## Check style, types, layers and lock files, as CI does
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/contract
	@! grep -nE 'https?://|index-url' $(LOCKS) || { echo "a lock file names a registry"; exit 1; }
	@! grep -nE '"resolved"' $(NPM_LOCKS) || { echo "a lock file names a registry"; exit 1; }

.PHONY: format
format: .state/dev ## Put the code into the house's form
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

.PHONY: chaos
chaos: .state/dev .state/stubs-dev ## Kill, freeze and damage it under load and compare the report (35 minutes; FULL=1: hours)
	@$(PY) -m tests.chaos $(if $(FULL),--full --report docs/faults.md) $(if $(ONLY),--only "$(ONLY)")

.PHONY: bench
bench: .state/dev .state/stubs-dev ## Measure what it costs on this machine, in about seven minutes
	@$(PY) -m tests.bench

.PHONY: proto
proto: .state/dev ## Generate the stubs beside their .proto files
	@$(PY) -m bundle.stubs
	@touch .state/stubs .state/stubs-dev

.PHONY: lock
lock: ## Choose versions of dependencies anew and pin them with hashes
	@$(PYTHON) -m venv .state/uv && .state/uv/bin/pip install --quiet uv
	@# Not "uv lock": it writes the addresses of the registry into the lock.
	@.state/uv/bin/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-emit-index-url \
		pyproject.toml -o requirements.lock
	@.state/uv/bin/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-emit-index-url \
		pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock

.PHONY: schema
schema: .state/dev .state/stubs-dev ## Write each service's schema.sql from its migrations
	@$(PY) -m bundle.schema

.PHONY: clean
clean: ## Remove what was built here; data in var/ stay
	rm -rf .state .venv .pytest_cache .mypy_cache .ruff_cache test-results build dist *.egg-info
	rm -rf admin_ui/node_modules admin_ui/static/vendor
	find proto -name '*_pb2*.py*' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what has been done already

.state/venv:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; OpenNotice needs Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) -V 2>&1); OpenNotice needs Python 3.11 or newer (set PYTHON=…)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) has no venv module; on Debian: apt install python3-venv"; exit 1; }
	@echo "making .venv"
	@$(PYTHON) -m venv .venv
	@mkdir -p .state && touch $@

.state/runtime: requirements.lock .state/venv
	@echo "installing locked dependencies (about 200 MB once)"
	@$(call install,requirements.lock)
	@touch $@

.state/dev: requirements-dev.lock .state/installed
	@echo "installing locked tools for tests and checks"
	@$(call install,requirements-dev.lock)
	@touch $@

.state/installed: pyproject.toml .state/runtime
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.state/stubs: $(PROTOS) bundle/stubs.py .state/runtime
	@echo "generating stubs"
	@$(PY) -m bundle.stubs
	@touch $@

.state/stubs-dev: $(PROTOS) bundle/stubs.py .state/dev
	@echo "generating stubs with types"
	@$(PY) -m bundle.stubs
	@touch $@ .state/stubs
