# Two commands: `make demo` and `make test`. Each does all of its own set-up on a fresh Debian
# machine with Python 3.11: the virtual environment and, for the tests, the real peers.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PEERS := iproute2 systemd rsyslog rsyslog-gnutls dcmtk orthanc orthanc-dicomweb nginx postgresql strace
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# The tests start Python hundreds of times: only the first compiles our modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test install lint types imports dockerfile unit coverage peers constraints clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { \
	  echo "installing Python's venv module from Debian"; \
	  $(SUDO) apt-get update -qq; \
	  $(SUDO) apt-get install -y -qq --no-install-recommends python3.11 python3.11-venv; \
	  $(PYTHON) -m venv --clear $(VENV); }

# torch first and pinned: its CPU wheel then satisfies every other package's range.
$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) torch
	$(PIP) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) -e '.[test]'
	@touch $@

install: $(VENV)/.run  ## the virtual environment, ready to run

demo: $(VENV)/.run  ## the whole journey on a phantom; CT=folder for a CT of your own
	$(BIN)/pseudomri demo $(if $(CT),"$(CT)",)

# Python first: it may need Debian's packages too, and dpkg serves one at a time.
peers: $(BIN)/python
	@missing=""; for package in $(PEERS); do \
	  dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	  echo "installing the peers from Debian:$$missing"; \
	  $(SUDO) apt-get update -qq; \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

# Two at a time where one alone would leave a core idle: both installations, and the types, which
# take a minute of one core, beside the tests.
test:  ## everything CI checks
	@$(MAKE) --no-print-directory -j2 $(VENV)/.test peers
	@$(MAKE) --no-print-directory lint imports dockerfile
	@$(MAKE) --no-print-directory -j2 types unit

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

imports: $(VENV)/.test
	$(BIN)/lint-imports

dockerfile: $(VENV)/.test
	$(BIN)/hadolint Dockerfile

# Three files at a time, one thread each, for the two cores of CI: most tests wait for servers, or
# for processes to end. In order: files of few tests, which xdist would leave to the end, are long.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

unit: $(VENV)/.test peers
	$(PYTEST) tests

# Tracing takes a quarter of the time, so CI goes without.
coverage: $(VENV)/.test peers  ## the tests, and which lines none of them reaches
	$(BIN)/python -m coverage erase
	$(PYTEST) --cov --cov-report=term:skip-covered tests

constraints: $(VENV)/.test  ## write constraints.txt from this environment
	@{ head -n 2 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//'; } > constraints.new
	@mv constraints.new constraints.txt

clean:  ## remove what the commands above made
	rm -rf $(VENV) demo-result build htmlcov .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
