# Everything runs in .venv, made on first use. `make demo` is the first thing to try, `make test` what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Two test processes with one thread each: more threads in each would only wait for one another.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov --cov-fail-under=90 --cov-report=term:skip-covered

.PHONY: demo test test-all lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/physflow run darcy-small --out runs/darcy-small
	@echo "Open $(CURDIR)/runs/darcy-small/report.html"

test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	$(PYTEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

# The stamps: an installation is repeated only when what it depends on has changed.
$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt $(VENV)/.python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "physflow needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1)." \
	    "Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
