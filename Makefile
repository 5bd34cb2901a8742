# Everything a developer or a machine runs. `make` alone lists the targets.

PYTHON ?= python3
BIN := .venv/bin
# Named after the path: an editable install points at one checkout, a copied one needs its own.
STAMP := .venv/.ready-$(shell pwd | cksum | cut -d' ' -f1)
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
SUITABLE := import pip, sys; sys.exit(sys.version_info < (3, 11))

# make sim SEEDS=500 FIRST=1 runs many, SEED=42 replays one; KIND=circling or keeping: other stories.
SEEDS ?= 10000
FIRST ?= 1
JOBS ?= 2

.PHONY: help setup check test sim demo bench soak docs lock

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

$(STAMP): requirements.lock pyproject.toml
	@PYTHON=$(PYTHON) scripts/system-packages setup
	@$(BIN)/python -c '$(SUITABLE)' 2>/dev/null \
		|| $(PYTHON) -m venv --clear .venv
	$(PIP) install --quiet --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

setup: $(STAMP)  ## .venv with isochrone in it, from the lock file
	@echo "ready: $(BIN)/isochrone"

check: $(STAMP)  ## lint, format, types
	$(BIN)/python -m ruff check && $(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy --strict

test: check  ## all that a merge needs: check, then every test
	@scripts/system-packages test && $(BIN)/python -m pytest -n 3

sim: $(STAMP)  ## the simulation: SEEDS=n FIRST=k, or SEED=n to replay one; KIND=circling
	$(BIN)/python -m isochrone.sim $(KIND:%=--%) \
		$(or $(SEED),--seeds $(SEEDS) --first $(FIRST) --jobs $(JOBS))

demo: $(STAMP)  ## two sites, a disaster and a failover, on this machine
	@scripts/system-packages demo && $(BIN)/python demo/demo.py

bench: $(STAMP)  ## measure the front door against its neighbours, the store, the mirror
	@scripts/system-packages bench && $(BIN)/python bench/run.py && $(BIN)/python bench/pool.py
	$(BIN)/python bench/mirror.py

soak: $(STAMP)  ## hostile clients, flipped bits, power cuts: FRAMES=n LIVE=n FLIPS=n CUTS=n
	$(BIN)/python bench/hostile.py $(FRAMES:%=--frames %) $(LIVE:%=--live %) --jobs $(JOBS)
	$(BIN)/python bench/rot.py $(FLIPS:%=--flips %) $(CUTS:%=--cuts %) --jobs $(JOBS)

docs: $(STAMP)  ## draw the pictures of docs/states from the state tables
	$(BIN)/python scripts/draw_states.py

lock: $(STAMP)  ## take the newest versions into requirements.lock
	$(PIP) install --quiet 'uv>=0.9'
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--extra speed --group dev --group build pyproject.toml -o requirements.lock
