# Everything runs in one virtual environment, made on first use. 'make help' lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Several processes side by side, one thread each: two threads on a busy machine are slower than one.
export OMP_NUM_THREADS = 1

.PHONY: help demo test test-all lint format bench docs wheel clean setup
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

setup: $(READY) ## make the virtual environment

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

demo: $(READY) ## the main job on embedded data, about 11 minutes on 2 cores
	$(BIN)/vibronic demo

test: $(READY) ## all tests but the slow ones
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(READY) ## every test, the wheel included
	$(BIN)/python -m pytest -n 2

lint: $(READY) ## style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(READY) ## repair style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# gpaw_check takes a file and minutes of DFT, fresh_clone runs make itself, srtio3 and peers take half an hour and more, band_gaps, gap_transfer,
# thermal_choice and labelling_scale a quarter of one: by hand. sampling_peers compares with hiphive where the extra 'peers' is installed.
bench: $(READY) ## run the benchmarks; results in benchmarks/results
	@set -e; for script in benchmarks/sampling.py benchmarks/sampling_peers.py benchmarks/graph_construction.py benchmarks/labelling.py benchmarks/learning.py; do \
	  echo "$$script"; $(BIN)/python $$script; done

docs: $(READY) ## build the pages into site/
	$(BIN)/mkdocs build --strict

wheel: $(READY) ## build dist/vibronic-*.whl
	$(BIN)/python -m build --wheel

clean: ## remove what the other targets made, the virtual environment included
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
