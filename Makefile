# make demo       the whole path on real data: install, fine-tune, compare, report
# make test       what CI runs: format, lint, types, all tests
# make test-fast  the tests that take seconds each and no network: about two minutes
# Both install into .venv first, with the versions of constraints.txt. PYTHON=python3.12 chooses another Python.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
BIN := .venv/bin

# Two tests at a time; neighbours mostly run in one process, so that what they share is made once.
PYTEST = $(BIN)/pytest --numprocesses 2 --dist worksteal

.PHONY: demo test test-fast
.DELETE_ON_ERROR:

demo: .venv/.installed
	$(BIN)/tunesmith run examples/sarcasm.yaml

test: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

test-fast: .venv/.installed-dev
	$(PYTEST) -m "not slow and not gpu"

.venv/.python:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(None if sys.version_info >= (3, 11) else f"Tunesmith needs Python 3.11 or newer; $(PYTHON) is {v}. Name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@touch $@

# Of pip's many lines the large downloads are shown, since those are what one waits for.
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable
SHOWN = awk '/MB\)/ || /^Successfully/ {print substr($$0, 1, 110); fflush()}'

.venv/.installed: .venv/.python pyproject.toml constraints.txt
	@echo "installing into .venv; some minutes the first time"
	@$(INSTALL) . | $(SHOWN)
	@touch $@

.venv/.installed-dev: .venv/.python pyproject.toml constraints.txt
	@echo "installing into .venv, with what the tests need; some minutes the first time"
	@$(INSTALL) '.[dev]' | $(SHOWN)
	@touch $@ .venv/.installed
