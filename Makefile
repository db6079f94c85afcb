# Everything starts here: each target makes the virtual environment it needs.
PYTHON ?= python3
BIN := .venv/bin
FILMS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint dist types serve up bench evaluation-example phantom-sheet clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

.venv/.node: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[worker]'
	@touch $@

.venv/.dev: .venv/.node
	$(BIN)/pip install --quiet --editable '.[worker,dev]'
	@touch $@

demo: .venv/.node  ## from nothing to results on screen (FILMS=DIR sends your own DICOM films as well)
	$(BIN)/hipnode demo --out demo-out $(if $(FILMS),--films '$(FILMS)')

test: .venv/.dev  ## install what the tests need, run them all
	sh tests/install_peers.sh
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

lint: .venv/.dev dist  ## ruff, the import rules, images and compose files, and what sdist and wheel hold
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile
	sh docker/check-compose.sh

dist: .venv/.dev  ## build sdist and wheel into dist/, and check what they hold
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python -m tests.check_dist dist

types: .venv/.dev  ## mypy, strict
	$(BIN)/mypy

serve up: .venv/.node  ## run the node with its workers on this machine
	$(BIN)/hipnode up

bench: .venv/.dev  ## measure: ingest beside Orthanc and DCMTK, stages, latency, backlog
	sh tests/install_peers.sh
	$(BIN)/python -m tests.bench

EXAMPLE := build/evaluation-example

evaluation-example: .venv/.dev  ## make the report of docs/evaluation-example from phantoms (half an hour on two cores)
	$(BIN)/hipnode phantom --out $(EXAMPLE)/data --count 200 --seed 31 --split validation --dicom
	$(BIN)/hipnode phantom --out $(EXAMPLE)/data --count 400 --seed 32 --split test --dicom
	$(BIN)/hipnode evaluate --package hip-damoyolo-t-phantom --data $(EXAMPLE)/data --prevalence 0.1 --stress \
		--out $(EXAMPLE)/report
	rm -rf docs/evaluation-example
	mkdir docs/evaluation-example
	cd $(EXAMPLE)/report && cp -r report.md figures tables files $(CURDIR)/docs/evaluation-example

phantom-sheet: .venv/.node  ## contact sheet of phantoms, and how they measure (HIPNODE_FILMS=DIR: films beside)
	$(BIN)/python -m workers.phantom.sheet --out docs/phantom-sheet.jpg

clean:  ## remove what the other targets made
	rm -rf .venv demo-out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
