# Triptych: everything a developer types. `make` alone lists it.
# Works from anywhere with `make -C <folder>`; needs Python 3.11 to 3.13 and nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

SYSTEM ?= fraud
SCALE ?= moderate
DAYS ?= 60
UV_VERSION := 0.13.9
# The first one of these that runs and is new enough; `make PYTHON=/opt/python3.12/bin/python3 install` overrides it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1 && { echo $$p; break; }; done)

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Each flow run is a new process: without bytecode on disk every one of them would compile its imports again (3-17 s).
unexport PYTHONDONTWRITEBYTECODE
# An activated environment must not decide where packages go.
unexport VIRTUAL_ENV

.PHONY: help install demo up simulate test bench lint lock clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Put the locked packages into .venv (once; again when the lock changes)

demo: $(INSTALLED)  ## Run the three pipelines on a real Prefect server and worker, print what came out, stop (SYSTEM=fraud, or all)
	@$(BIN)/python -m deployments.demo --system $(SYSTEM)

up: $(INSTALLED)  ## Keep Prefect server, worker, MLflow pages and inference server running until Ctrl-C
	@$(BIN)/python -m deployments.up

# SYSTEM stands for the demo's one system unless it was told here: then a simulation is of it alone.
simulate: $(INSTALLED)  ## Replay months of all flows in minutes, in an unquiet world, and check what must hold (DAYS=60 SYSTEM=fraud)
	@$(BIN)/python -m tests.simulation --days $(DAYS) $(if $(filter command line environment,$(origin SYSTEM)),--system $(SYSTEM)) $(ARGS)

test: $(INSTALLED)  ## Run all tests (ARGS="-m 'not e2e' -k name" for fewer)
	@$(BIN)/python -m pytest --numprocesses=2 --dist=loadgroup $(ARGS)

bench: $(INSTALLED)  ## Measure the store beside bare libraries and Feast (SCALE=small|moderate|full|large, ARGS="--only join")
	@$(BIN)/python -m tests.benchmarks --scale $(SCALE) $(ARGS)

lint: $(INSTALLED)  ## Check style, types and import directions
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "Not formatted as ruff would: run $(BIN)/ruff format ." >&2; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache >$(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }

lock: $(INSTALLED)  ## Write requirements.lock again from pyproject.toml (keeps pins that still fit)
	@$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	@$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 \
		--no-header --no-annotate --output-file requirements.lock

clean:  ## Remove .venv, caches and everything `make demo` wrote
	@rm -rf $(VENV) .triptych build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv installs the lock in about 20 s where pip needs two minutes. pip remains for whoever told pip about an index of
# their own (uv would not know it) and wherever uv cannot be had.
$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Triptych needs Python 3.11, 3.12 or 3.13, and found none on the PATH." \
		"Install one (Debian: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment. Debian and Ubuntu keep that apart: apt install python3-venv" >&2; exit 1; }
	@echo "Installing the locked packages into $(VENV) ..."
	@if [[ "$$($(BIN)/pip config list)" != *".index-url="* ]] \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) 2>/dev/null \
		&& $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --requirement requirements.lock 2>$(VENV)/uv.log; \
	then :; else echo "... with pip, which takes two minutes ..."; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock; fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
	@echo "Installed."
