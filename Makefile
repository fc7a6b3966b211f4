# `make` is the whole truth: what CI runs is `make check`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
TESTED := $(VENV)/.ready-to-test
# Extras with a lock of their own: too large for everybody's environment.
EXTRAS = $(shell $(PYTHON) -c 'import tomllib; print(*(f"--extra {x}" for x in tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"] if x not in ("dask", "oxen")))' 2>/dev/null)
COMPILE = $(BIN)/uv pip compile --quiet --generate-hashes --universal --no-header --no-annotate --python-version 3.11 pyproject.toml
OXEN   := .venv-oxen
# The machine's own certificates: who sits behind a company's proxy has them there, and nowhere else.
export UV_SYSTEM_CERTS ?= true

.DEFAULT_GOAL := help
.PHONY: help setup check lint types test test-oxen fuzz audit demo chaos bench scale docs clean lock

help: ## what can be made here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("oxenbatch needs Python 3.11 or newer; this is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.lock
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $(VENV)/uv.lock
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --no-build requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(READY) ## a working .venv/bin/oxenbatch, everything pinned by hash

check: lint types docs audit test ## all of it: lint, types, docs, audit, tests

lint: $(READY) ## style, spelling, dependencies, and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell
	@$(BIN)/deptry .
	@$(BIN)/lint-imports --no-cache

types: $(READY) ## strict static types
	@$(BIN)/mypy

$(TESTED): $(READY) requirements-dask.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --only-binary :all: --requirements requirements-dask.lock
	@touch $@

test: $(TESTED) ## the tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal

$(OXEN)/.ready: $(READY) requirements-oxen.lock
	@test -x $(OXEN)/bin/python || $(PYTHON) -m venv --without-pip $(OXEN)
	@$(BIN)/uv pip sync --quiet --python $(OXEN)/bin/python --require-hashes --only-binary :all: requirements-oxen.lock
	@touch $@

test-oxen: $(OXEN)/.ready ## the tests that need oxenai, in an environment of their own (600 MB)
	@PYTHONPATH=. $(OXEN)/bin/python -m pytest tests_oxen -o addopts=

docs: $(READY) ## fail where a page and the program disagree
	@$(BIN)/python docs/generate.py --check

fuzz: $(READY) ## every parser fed with anything, for FUZZ_SECONDS (60); by coverage where atheris is installed
	@$(BIN)/python tests/security/fuzz.py

audit: $(READY) ## known vulnerabilities of what is locked, as far as they can be looked up
	@$(BIN)/python .ci/audit.py

demo: $(READY) ## the main job, on the stand-in hub, in a minute
	@$(BIN)/oxenbatch run manifests/demo.yaml --sandbox

chaos: $(READY) ## a thousand SIGKILLs aimed at progress, with faults on, and the hub as the judge: 10 to 30 minutes
	@$(BIN)/python benchmarks/chaos.py

bench: $(READY) ## speed against a reckless yardstick, growth to a million rows: benchmarks/RESULTS.md, in 17 minutes
	@$(BIN)/python benchmarks/report.py

scale: $(TESTED) ## a batch over a cluster: its speed by workers, and 20 worker kills with the hub as the judge; in 5 minutes
	@$(BIN)/python benchmarks/scale.py --rows 240 $(WRITE)
	@$(BIN)/python benchmarks/scale.py --kills 20 $(WRITE)

lock: $(READY) ## choose versions anew and write requirements.lock
	@$(COMPILE) --upgrade $(EXTRAS) --group dev --output-file requirements.lock
	@$(COMPILE) --upgrade --extra dask --constraints requirements.lock --output-file requirements-dask.lock
	@$(COMPILE) --upgrade --extra oxen --extra sandbox --constraints requirements.lock --output-file requirements-oxen.lock

clean: ## remove everything that can be made again
	@rm -rf $(VENV) $(OXEN) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build out
