# `make` is the whole truth: what CI runs is `make check`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup check lint types test demo chaos bench docs clean lock

help: ## what can be made here
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("oxenbatch needs Python 3.11 or newer; this is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -nE 's/^(uv==[^ ]+).*/\1/p' requirements.lock)"
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(READY) ## a working .venv/bin/oxenbatch, everything pinned by hash

check: lint types docs test ## all of it: lint, types, docs, tests

lint: $(READY) ## style, spelling, dependencies, and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell
	@$(BIN)/deptry .
	@$(BIN)/lint-imports --no-cache

types: $(READY) ## strict static types
	@$(BIN)/mypy

test: $(READY) ## the tests
	@$(BIN)/python -m pytest -n 2

docs: $(READY) ## fail where a page and the program disagree
	@$(BIN)/python docs/generate.py --check

demo: $(READY) ## the main job, on the stand-in hub, in a minute
	@$(BIN)/oxenbatch run manifests/demo.yaml --sandbox

chaos: $(READY) ## a thousand SIGKILLs aimed at progress, with faults on, and the hub as the judge: 10 to 30 minutes
	@$(BIN)/python benchmarks/chaos.py

bench: $(READY) ## speed against a reckless yardstick, growth to a million rows: benchmarks/RESULTS.md, in 15 minutes
	@$(BIN)/python benchmarks/report.py

lock: ## choose versions anew and write requirements.lock
	@test -x $(BIN)/uv || ($(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv)
	@$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --universal --no-header --no-annotate --python-version 3.11 --all-extras --group dev pyproject.toml --output-file requirements.lock

clean: ## remove everything that can be made again
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build out
