# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
# `make help` lists the targets. Each one makes .venv first when it is missing.

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.dito-installed
SOURCES := projects tools tests configs docs setup.py
CONSTRAINTS := requirements/constraints.txt
# Test processes at a time; each needs about 1 GB.
JOBS ?= auto

define CHECK_PYTHON
import sys
found = sys.version_info[:2]
if not (3, 10) <= found <= (3, 13):
    sys.exit('DITO needs Python 3.10 to 3.13, and $(PYTHON) is %d.%d; '
             'name another one: make env PYTHON=python3.11' % found)
endef
export CHECK_PYTHON

.DEFAULT_GOAL := help
.PHONY: help env quickstart test lint format docs clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | \
	    sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

env: $(STAMP)  ## Make .venv with the tested versions and this package in it

$(STAMP): setup.cfg setup.py pyproject.toml $(wildcard requirements/*.txt)
	@test -x $(BIN)/python || { \
	    echo '==> Making $(VENV) with $(PYTHON)' && \
	    $(PYTHON) -c "$$CHECK_PYTHON" && $(PYTHON) -m venv $(VENV); }
	@echo '==> Installing into $(VENV) (downloads PyTorch: minutes)'
	$(BIN)/python -m pip install $(PIP_FLAGS) -c $(CONSTRAINTS) \
	    -e '.[tests]'
	@# opencv-python needs libGL, which bare machines lack; the headless build
	@# of the same version does not.
	@$(BIN)/python -c 'import cv2' 2>/dev/null || \
	    $(BIN)/python -m pip install $(PIP_FLAGS) -c $(CONSTRAINTS) \
	    --no-deps --force-reinstall opencv-python-headless
	$(BIN)/dito check-env
	@touch $@

quickstart: env  ## Train on the built-in data set and detect, on a CPU
	@echo '==> Running the three stages on the symbols data set'
	$(BIN)/python tools/quickstart.py

test: env  ## Run the tests
	@echo '==> Running the tests'
	@# Files stay whole: their tests share what takes long to make. One thread
	@# each: the processes fill the processor.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --maxprocesses=8 \
	    --dist loadfile

lint: env  ## Check style (ruff) and that every file compiles
	@echo '==> Checking style (make format mends most of it)'
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/python -m compileall -q $(SOURCES)

format: env  ## Bring every file into the one format
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: env  ## Build the site of the documentation in work_dirs/site
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -c $(CONSTRAINTS) \
	    -r requirements/docs.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:  ## Remove build output and caches (keeps .venv, data, work_dirs)
	@echo '==> Removing build output and caches'
	rm -rf build dist projects/*.egg-info .pytest_cache .ruff_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
