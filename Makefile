# Every target sets up what it needs: its own virtual environment in .venv, from the hashes in lock/.
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
SMALL := .venv/.ready-for-demo
KEPT := .venv/.pytorch-kept

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-full test test-doors test-long lint docs lock clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(READY)  ## make .venv with everything in it; the entry point is then .venv/bin/cxrlines

# Installs what a lock names: $(call install,LOCK,SIZE). A PyTorch that .venv had before is kept (docs/install.md): it and its
# CUDA libraries are left out of the lock, and the hashes of all else are checked.
NEWER := import sys, torch, torchvision; sys.exit([int(n) for n in torch.__version__.split(".")[:2]] < [2, 13])
define install
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -e $(READY) -o -e $(SMALL) || ! $(BIN)/python -c '$(NEWER)' 2>/dev/null || touch $(KEPT)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r lock/uv.txt
	@if test -e $(KEPT); then \
		echo "Installing the packages of $(1) into .venv (once), but for PyTorch, which is there already ..."; \
		awk '/^[a-z]/ {out = /^(torch|torchvision|triton|(nvidia|cuda)-[a-z0-9-]*)==/} !out' $(1) > .venv/lock.txt; \
	else \
		echo "Installing the packages of $(1) into .venv (once; $(2)) ..."; cp $(1) .venv/lock.txt; \
	fi
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps --require-hashes -r .venv/lock.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@
endef

$(READY): lock/requirements.txt lock/uv.txt pyproject.toml
	$(call install,lock/requirements.txt,7.6 GB on disk on Linux: PyTorch with CUDA is 5.4 of them)

$(SMALL): lock/demo.txt lock/uv.txt pyproject.toml
	$(call install,lock/demo.txt,6.2 GB on disk on Linux: PyTorch with CUDA is 5.4 of them; without CUDA: docs/install.md)

demo: $(SMALL)  ## a film read, then the whole job on phantom films: make, check, train, evaluate, read (12 minutes of a core)
	@$(BIN)/cxrlines demo --out runs/demo

demo-full: $(SMALL)  ## the same with more and larger films (12 to 21 minutes on 2 cores)
	@$(BIN)/cxrlines demo --full --out runs/demo-full

test: $(READY)  ## the fast tests, two processes (under 10 minutes on 2 cores)
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-doors: $(READY)  ## what meets the outside: Ray, torchrun, clients of trackers
	@$(BIN)/python -m pytest -m 'doors and not long'

test-long: $(READY)  ## all tests, the slow ones as well: kill and resume, speeds
	@$(BIN)/python -m pytest -m 'long or not long' --timeout 3600 --hypothesis-profile new-examples

lint: $(READY)  ## ruff and mypy
	@$(BIN)/ruff check src tests && $(BIN)/ruff format --check src tests && $(BIN)/mypy

docs: $(READY)  ## the documentation as a site, in site/
	@$(BIN)/zensical build --strict --clean

lock: $(READY)  ## resolve the dependencies of pyproject.toml anew into lock/
	@$(BIN)/uv pip compile pyproject.toml --quiet --upgrade --extra evaluate --extra train --extra dev --extra docs --extra demo --extra mlflow --extra neptune --extra wandb --extra ray --extra faiss --extra pacs --extra serve --universal --python-version 3.11 \
		--fork-strategy fewest --generate-hashes --no-emit-index-url --no-annotate --no-header -o lock/requirements.txt
	@$(BIN)/uv pip compile pyproject.toml --quiet --upgrade -c lock/requirements.txt --extra evaluate --extra train --extra demo --universal --python-version 3.11 \
		--fork-strategy fewest --generate-hashes --no-emit-index-url --no-annotate --no-header -o lock/demo.txt
	@$(BIN)/uv pip compile lock/uv.in --quiet --upgrade -c lock/requirements.txt --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --no-header -o lock/uv.txt

clean:  ## remove .venv and all caches, keep runs/
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
