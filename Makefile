# The two commands of the README are `make demo` and `make test`; the others are their parts.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --silent
export UV_LINK_MODE ?= copy
export UV_NO_PROGRESS ?= 1
export PYTHONDONTWRITEBYTECODE ?=

PYTHON ?= python3
UV = $(shell command -v uv || echo build/uv/bin/uv)
BIN = .venv/bin
WORKERS ?= 3

export BASE_IMAGE GO_IMAGE REGISTRY VERSION SOURCE ENGINE BUILD_ARGUMENTS

.PHONY: help setup setup-tests viewer demo up test cluster images bundle lint types unit system conformance bench locks clean requirements-of-this-machine

help: ## Show the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

requirements-of-this-machine:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Insitu needs Python 3.11 or newer; this is %s. Install it or name it: make demo PYTHON=python3.11" % sys.version.split()[0])'
	@command -v npm > /dev/null || { echo "Insitu needs npm (Node.js 20 or newer) for the image viewer: it is not on this machine." >&2; exit 1; }

build/uv/bin/uv: requirements/uv.txt
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install --quiet --require-hashes -r requirements/uv.txt

.venv/.platform: requirements/platform.txt pyproject.toml | $(UV)
	@echo "Installing the platform"
	test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/platform.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --build-constraints requirements/build.txt -e .
	touch $@

.venv/.dev: requirements/dev.txt .venv/.platform | $(UV)
	@echo "Installing what the tests need"
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	touch $@

.venv-airflow/.done: requirements/airflow.txt | $(UV)
	@echo "Installing Apache Airflow"
	test -x .venv-airflow/bin/python || $(UV) venv --quiet --python $(PYTHON) .venv-airflow
	$(UV) pip install --quiet --python .venv-airflow/bin/python --require-hashes -r requirements/airflow.txt
	touch $@

build/demo-data/.done: requirements/demo-data.txt | $(UV)
	@echo "Fetching the image of the demo"
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --target build/demo-data --require-hashes -r requirements/demo-data.txt
	touch $@

build/viewer/index.html: services/viewer/build.py $(wildcard services/viewer/*.json services/viewer/*.js)
	@echo "Fetching the image viewer"
	$(PYTHON) services/viewer/build.py

viewer: build/viewer/index.html ## Fetch and prepare the image viewer (OHIF)

setup: requirements-of-this-machine .venv/.platform .venv-airflow/.done build/viewer/index.html build/demo-data/.done ## Install everything the platform needs

setup-tests: setup .venv/.dev
	bash tests/install_programs.sh
	bash tests/install_object_store.sh
	PYTHON=$(PYTHON) bash tests/install_helm.sh

demo: setup ## Start the platform, send a real image, show what comes back
	@if [ "$$(id -u)" = 0 ]; then bash tests/install_programs.sh --demo; fi
	$(BIN)/insitu demo --keep

up: setup ## Start the platform
	$(BIN)/insitu up

lint: .venv/.dev ## Check style, types, the direction of imports and the scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if command -v shellcheck > /dev/null; then shellcheck tests/*.sh tests/cluster/*.sh docker/*.sh .ci/run; else echo "shellcheck is not installed: scripts are not checked"; fi

unit: setup-tests ## Tests without the whole platform
	$(BIN)/pytest tests/unit tests/contract tests/conformance

system: setup-tests ## Tests of the whole platform with a real Airflow
	$(BIN)/pytest tests/system tests/web

test: setup-tests lint ## All tests but those on a cluster, by WORKERS= processes
	$(BIN)/pytest tests --ignore=tests/cluster --numprocesses=$(WORKERS) --dist=loadscope --no-loadscope-reorder --durations=30

cluster: setup-tests ## Tests on a Kubernetes cluster (docs/images.md says which)
	$(BIN)/pytest tests/cluster

images: viewer ## Build the images with docker, podman or buildah; BASE_IMAGE=, REGISTRY=, NAMES=, ARGUMENTS=--json
	$(PYTHON) docker/build.py $(ARGUMENTS) $(NAMES)

build/bundle/.done: requirements/bundle.txt | $(UV)
	test -x build/bundle/bin/python || $(UV) venv --quiet --python $(PYTHON) build/bundle
	$(UV) pip install --quiet --python build/bundle/bin/python --require-hashes -r requirements/bundle.txt
	touch $@

bundle: viewer build/bundle/.done ## One archive for a site without internet (docs/offline.md); the variables of `make images`
	PYTHON=$(PYTHON) bash tests/install_helm.sh
	HELM=$${HELM:-$$(command -v helm || ls "$${XDG_CACHE_HOME:-$$HOME/.cache}"/insitu-tests/helm-*/helm | tail -n 1)} \
	  build/bundle/bin/python docker/bundle.py $(ARGUMENTS) $(NAMES)

conformance: setup-tests ## Run the DICOMweb suite against ours and Orthanc, write docs/conformance-dicomweb.md
	$(BIN)/python -m tests.conformance

bench: setup-tests ## Measure, beside peers where there are some
	$(BIN)/python -m tests.bench

soak: setup-tests ## Break the platform thousands of times and check that nothing acknowledged is lost
	$(BIN)/python -m tests.crash --write

locks: | $(UV) ## Make the hashed locks anew
	cd requirements && compile() { $(abspath $(UV)) pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make locks" "$$@"; }; \
	  for name in uv build platform bundle dev airflow; do compile $$name.in -o $$name.txt; done; \
	  compile --no-deps demo-data.in -o demo-data.txt; \
	  for package in ../extensions/*/; do (cd $$package && compile requirements.in -o requirements.txt); done

clean: ## Remove what was built and installed here, not the platform's home
	rm -rf .venv .venv-airflow build
