# `make demo` and `make test` set up what they need: python3.11 or newer, pip and make suffice.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# two workers of one thread each: small networks gain nothing from more threads
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
WORKERS ?= 2

.PHONY: help demo test slow check fix docs soak bench zoo release clean

help:  ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.all  ## learn, export, run without PyTorch and score a small task: minutes on two cores
	$(BIN)/agentzoo quickstart $(ARGS)

test: $(VENV)/.dev  ## the fast tests
	$(PYTEST) -n $(WORKERS) -m "not slow and not gpu" $(ARGS)

slow: $(VENV)/.dev  ## the tests that take minutes
	$(PYTEST) -n $(WORKERS) --dist loadgroup -m "slow and not gpu" $(ARGS) || test $$? -eq 5  # 5: there is none

check: $(VENV)/.dev  ## format, lint and types, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

fix: $(VENV)/.dev  ## format, and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs  ## the documentation's site into site/, its links checked
	$(BIN)/zensical build --clean --strict

release: $(VENV)/.dev  ## build and check what is uploaded: make release URL=https://...
	$(BIN)/python .ci/release.py "$(URL)"

soak: $(VENV)/.dev  ## what has to be survived: 200 kills, 100,000 malformed messages, 1,000,000 requests
	OMP_NUM_THREADS=1 $(BIN)/python soak/kills.py $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python soak/malformed.py --requests $${MALFORMED:-100000}
	OMP_NUM_THREADS=1 $(BIN)/python soak/memory.py --requests $${REQUESTS:-1000000}
	OMP_NUM_THREADS=1 $(BIN)/python soak/bombs.py

bench: $(VENV)/.dev  ## the measurements of benchmarks/, each printing one table
	@shopt -s nullglob; scripts=(benchmarks/*.py); \
	if (( $${#scripts[@]} == 0 )); then echo "benchmarks/ holds no script yet" >&2; exit 1; fi; \
	for script in "$${scripts[@]}"; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

zoo: $(VENV)/.all  ## train, score and package the zoo's agents that are missing: hours on two cores
	$(BIN)/python zoo/build.py $(ARGS)

clean:  ## remove the virtual environment and what building left
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache

# a stamp per set of extras; newer metadata or constraints install again
$(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e ".[$*]"
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then \
	  echo '$(PIP) --no-deps dm_control'; $(PIP) --no-deps dm_control; fi  # without labmaze: pyproject.toml
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  f"agentzoo needs Python 3.11 or newer, $(PYTHON) is {sys.version.split()[0]}; say: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
