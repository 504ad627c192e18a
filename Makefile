# make demo, make serve, make bench-serve, make bench-shapes, make bench-summarize, make loadtest, make test, make lint: each makes its own
# environment first, and is safe to repeat. make stop ends the service that the demo leaves running.
#
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu   install torch from this index: a small build, for CPU only
#   DATA=my.jsonl                                      make demo: evaluate on this file (columns: sentence, label 0 or 1)
#   ARGS='-k qa'                                       make test: arguments for pytest; make serve, bench-…, loadtest: for their command
#   PYTHON, VENV                                       the interpreter (3.11 or newer), and where the environment goes

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
TORCH_INDEX ?=
DATA ?=
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
INSTALL := $(PIP) install --disable-pip-version-check -c constraints.txt

.PHONY: help demo stop serve bench-serve bench-shapes bench-summarize loadtest test lint clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \?//p' Makefile

demo: $(VENV)/.bench
	$(BIN)/secateur-prune run demo $(if $(DATA),--set 'data.validation=[{path: "$(DATA)"}]' --set 'notes=[]') --output runs/demo
	@echo
	$(BIN)/secateur-serve answer models/qa/compact-int8 \
	  --question "What does a gardener use a secateur for?" \
	  --context "In late winter the gardener takes a secateur and uses it to cut dead wood out of the roses, close above a bud."
	$(BIN)/secateur-serve answer models/sentiment/compact-int8 --text "It cuts cleanly and has never once jammed."
	$(BIN)/secateur-serve answer models/sentiment/compact-int8 --text "The spring broke in a week and the blade is blunt."
	@echo
	$(BIN)/python -m loadtests.demo start runs/demo

stop:
	$(BIN)/python -m loadtests.demo stop runs/demo

serve: $(VENV)/.service
	$(BIN)/secateur-serve $(ARGS)

bench-serve: $(VENV)/.bench
	$(BIN)/secateur-serve bench $(ARGS)

bench-shapes: $(VENV)/.bench
	$(BIN)/secateur-prune bench-shapes $(ARGS)

bench-summarize: $(VENV)/.peers
	$(BIN)/secateur-prune bench-summarize $(ARGS)

loadtest: $(VENV)/.bench
	$(BIN)/secateur-loadtest compare $(ARGS)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --hypothesis-profile=ci $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy docker/*.py docker/grafana/*.py
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# What is installed is written down in an empty file; a second call finds it and has nothing to do.
$(VENV)/.made: constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make ... PYTHON=/path/to/python" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip setuptools
	@touch $@

$(VENV)/.service: pyproject.toml $(VENV)/.made
	$(INSTALL) -e '.[service]'
	@touch $@

$(VENV)/.pruning: pyproject.toml $(VENV)/.made
	$(INSTALL) $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) torch
	$(INSTALL) -e '.[pruning]'
	@touch $@

$(VENV)/.bench: $(VENV)/.pruning
	$(INSTALL) -e '.[openvino,loadtests]'
	@touch $@

$(VENV)/.peers: $(VENV)/.pruning
	$(INSTALL) -e '.[bench]'
	@touch $@

$(VENV)/.dev: $(VENV)/.pruning
	$(INSTALL) -e '.[loadtests]' --group dev
	@touch $@
