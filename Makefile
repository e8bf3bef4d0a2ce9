# Everything a developer needs, in one place. Works with GNU make 3.81. `make help` explains the targets.
# PYTHON=/path/to/python chooses the interpreter; otherwise the first Python from 3.11 to 3.14 that can make a
# virtual environment is taken. The environment lives in .venv and is made again when pyproject.toml changes.

.DEFAULT_GOAL := help
SHELL := /bin/sh
PY := .venv/bin/python
# What runs Elanus is soon installed; what tests it brings whole servers and takes longer.
READY := .venv/.ready-kernels
READY_DEV := .venv/.ready-dev
# Compiled modules are kept whatever the caller's habits: without them every start compiles everything again.
unexport PYTHONDONTWRITEBYTECODE
WORDS ?=
ARGS ?=
SEED ?= 1
SHAPE ?= cluster

.PHONY: help setup demo serve test test-cluster check ci bench sim sim-hunt clean lint types

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  Variables: PYTHON=... (interpreter)  WORDS=\"...\" (your own search, make demo)  ARGS=\"...\" (make serve, make bench)  PART=filters (make bench: filters beside DuckDB and pyarrow)"

setup: $(READY_DEV) ## Make .venv and install Elanus into it, once

.venv/.ready-%: pyproject.toml tools/setup.sh
	@PYTHON="$(PYTHON)" sh tools/setup.sh $*

demo: $(READY) ## Start a server, load real data, search it, show the answers
	@$(PY) -m elanus demo $(if $(WORDS),"$(WORDS)")

serve: $(READY) ## Run a server on 127.0.0.1:19530 with its data in ./elanus-data
	@$(PY) -m elanus serve $(ARGS)

lint: $(READY_DEV)
	@$(PY) -m ruff format --check src tests tools bench
	@$(PY) -m ruff check src tests tools bench

types: $(READY_DEV)
	@$(PY) -m mypy

check: lint types ## Format, lint, strict types, import order, fast tests: under a minute
	@$(PY) -m pytest -n auto --dist loadscope -m "not slow and not drill"

test: $(READY_DEV) ## All tests that need neither root nor installed packages: under ten minutes
	@$(PY) -m pytest -n auto --dist loadscope -m "not drill"

ci: lint types ## What `make test` leaves out: checks, drills, bare machine, wheel: under an hour
	@CI=1 $(PY) -m pytest -n auto --dist loadscope -m "drill and not alone"
	@CI=1 $(PY) -m pytest -m "drill and alone"
	@$(PY) tools/check_wheel.py
	@sh tools/check_bare_root.sh

test-cluster: $(READY_DEV) ## A real cluster on this machine, killed and cut in every way: under 25 minutes; part of `make ci`
	@sh tools/cluster_services.sh
	@CI=1 $(PY) -m pytest -s tests/cluster

bench: $(READY_DEV) ## Compare speed, recall and memory with Milvus, milvus-lite and faiss
	@$(PY) -m bench$(if $(PART),.$(PART)) $(ARGS)

sim: $(READY_DEV) ## Replay one simulated run with its timeline: make sim SEED=7 (SHAPE=standalone for one process)
	@$(PY) -m elanus.testing.sim --shape $(SHAPE) replay $(SEED) $(ARGS)

sim-hunt: $(READY_DEV) ## Look for a simulated run that loses something, until stopped; make it small; print a test
	@$(PY) -m elanus.testing.sim --shape $(SHAPE) hunt $(ARGS)

clean: ## Remove everything that make made
	rm -rf .venv .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
