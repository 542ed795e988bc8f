# Every target sets up what it needs: its own virtual environment in .venv, from the hashes in lock/.
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-doors test-long lint docs lock clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(READY)  ## make .venv with everything in it; the entry point is then .venv/bin/cxrlines

$(READY): lock/requirements.txt lock/uv.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing pinned dependencies into .venv (once; about 5 GB, most of it PyTorch) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r lock/uv.txt
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes lock/requirements.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)  ## the whole job on phantom films, laptop-sized: make, check, train, evaluate, read (12 to 21 minutes on 2 cores)
	@$(BIN)/cxrlines demo --out runs/demo

test: $(READY)  ## the fast tests, two processes (under 10 minutes on 2 cores)
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-doors: $(READY)  ## what meets the outside: Ray, torchrun, clients of trackers
	@$(BIN)/python -m pytest -m 'doors and not long'

test-long: $(READY)  ## all tests, the slow ones as well: kill and resume, speeds
	@$(BIN)/python -m pytest -m 'long or not long' --timeout 3600

lint: $(READY)  ## ruff and mypy
	@$(BIN)/ruff check src tests && $(BIN)/ruff format --check src tests && $(BIN)/mypy

docs: $(READY)  ## the documentation as a site, in site/
	@$(BIN)/zensical build --strict --clean

lock: $(READY)  ## resolve the dependencies of pyproject.toml anew into lock/
	@$(BIN)/uv pip compile pyproject.toml --quiet --upgrade --extra train --extra dev --extra docs --extra demo --extra mlflow --extra neptune --extra wandb --extra ray --extra faiss --extra pacs --extra serve --universal --python-version 3.11 \
		--fork-strategy fewest --generate-hashes --no-emit-index-url --no-annotate --no-header -o lock/requirements.txt
	@$(BIN)/uv pip compile lock/uv.in --quiet --upgrade --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --no-header -o lock/uv.txt

clean:  ## remove .venv and all caches, keep runs/
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
