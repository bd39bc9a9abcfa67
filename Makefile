# `make serve` runs TMI from a clean clone; `make test` tries everything; `make check` is quick (less than a minute).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: serve test check lock

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
INTEROP := tests/interop/node_modules/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV_VERSION := 0.13.9
ARGS ?=
# Where the machine forbids it, each process of a test would compile all of the source anew.
export PYTHONDONTWRITEBYTECODE :=

serve: $(RUNTIME)
	@exec $(BIN)/tmi serve --dev $(ARGS)

# TMI's answers to faults are timed where nothing else runs. What needs no quiet machine runs beside each other:
# two lanes that work, then one that mostly waits and two that often do, which together keep two cores as busy.
# Lanes of a stage take about as long.
LANE_A := tests/unit tests/contracts tests/api_contract tests/simulation
LANE_B := tests/security
LONG_A := tests/faults/test_chaos.py tests/soak
LONG_B := tests/integration
# Of the tests of faults those whose bounds are far from what they take.
LONG_C := $(addprefix tests/faults/test_,kill.py postgres_away.py snapshot_kill.py workers.py) \
	tests/deploy tests/browser tests/interop
IN_LANES := $(LANE_A) $(LANE_B) $(LONG_A) $(LONG_B) $(LONG_C)
PYTEST := $(BIN)/python -m pytest
# Those that wait now and then, and as much again that works.
WAITING_UNIT := tests/unit/rooms tests/unit/tmi
# $(call lanes,A,B,C): A is shown as it runs, B and C when all are done. There may be no C.
lanes = mkdir -p build; failed=0; \
	$(PYTEST) $(2) >build/lane-b.txt 2>&1 & lane_b=$$!; \
	$(if $(3),$(PYTEST) $(3) >build/lane-c.txt 2>&1 & lane_c=$$!;) \
	$(PYTEST) $(1) || failed=1; \
	wait $$lane_b || failed=1; cat build/lane-b.txt; \
	$(if $(3),wait $$lane_c || failed=1; cat build/lane-c.txt;) \
	exit $$failed

test: $(DEV) $(INTEROP)
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
ifeq ($(strip $(ARGS)),)
	$(call lanes,$(LANE_B),$(LANE_A))
	$(call lanes,$(LONG_B),$(LONG_A),$(LONG_C))
	$(PYTEST) $(addprefix --ignore=,$(IN_LANES))
else
	$(PYTEST) $(ARGS)
endif

check: $(DEV)
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
ifeq ($(strip $(ARGS)),)
	$(call lanes,tests/unit $(addprefix --ignore=,tests/unit/api $(WAITING_UNIT)),tests/unit/api,$(WAITING_UNIT))
else
	$(BIN)/python -m pytest tests/unit $(ARGS)
endif

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("TMI needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

# A newer lock or a changed pyproject installs again; otherwise these are up to date at once.
$(RUNTIME): requirements/runtime.txt pyproject.toml | $(VENV)/bin/python
	$(PIP) install --require-hashes -r requirements/runtime.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@

$(DEV): requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	$(PIP) install --require-hashes -r requirements/dev.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $(RUNTIME) $@

$(INTEROP): tests/interop/package-lock.json
	npm ci --prefix tests/interop --no-audit --no-fund --ignore-scripts
	touch $@

LOCK_OF := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command 'make lock' --quiet
LOCK_PROGRAM := $(LOCK_OF) pyproject.toml --group build
LOCK := $(LOCK_PROGRAM) --extra standalone

lock: | $(VENV)/bin/python
	$(PIP) install 'uv==$(UV_VERSION)'
	$(BIN)/$(LOCK) -o requirements/runtime.txt
	$(BIN)/$(LOCK) --group dev --extra bench -c requirements/runtime.txt -o requirements/dev.txt
	$(BIN)/$(LOCK_PROGRAM) -c requirements/runtime.txt -o requirements/image.txt
	$(BIN)/$(LOCK_OF) .ci/node.in -o .ci/node.txt
	$(BIN)/$(LOCK_OF) bench/peers/requirements.in -o requirements/bench-peers.txt

# The load tester: `make bench-peers` once, then `make bench` (see bench/README.md).
# `make bench-results` measures all that bench/RESULTS.md reports, in half an hour, and writes it.
.PHONY: bench bench-peers bench-results
PEERS := bench/peers/node_modules/.installed bench/peers/.venv/.installed

bench: $(DEV) $(PEERS)
	$(BIN)/python -m bench short --json build/bench.json --html build/bench.html $(ARGS)

bench-results: $(DEV) $(PEERS)
	$(BIN)/python -m bench.results $(ARGS)

bench-peers: $(PEERS)

bench/peers/node_modules/.installed: bench/peers/package.json bench/peers/package-lock.json
	npm ci --prefix bench/peers --no-audit --no-fund --ignore-scripts
	touch $@

bench/peers/.venv/.installed: requirements/bench-peers.txt
	$(PYTHON) -m venv --clear bench/peers/.venv
	bench/peers/.venv/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r $<
	touch $@

# The long runs of what the tests try briefly.
.PHONY: api-differences
api-differences: $(DEV)
	$(BIN)/python -m tests.api_contract.differences

.PHONY: schemathesis interop-1000 kill-100 hands-500 pause-100 revoke-100 fuzz simulate-10000 soak failover chaos emptied-100

fuzz: $(DEV)
	TMI_FUZZ_FRAMES=1000000 $(BIN)/python -m pytest tests/security/test_frames_fuzz.py tests/security/test_forged_updates.py tests/security/test_live_fuzz.py $(ARGS)

schemathesis: $(DEV)
	TMI_SCHEMATHESIS_S=600 TMI_SCHEMATHESIS_PHASES=examples,coverage,fuzzing TMI_SCHEMATHESIS_EXAMPLES=200 \
		TMI_SCHEMATHESIS_WALKS=1000 \
		TMI_SCHEMATHESIS_SEED=$${TMI_SCHEMATHESIS_SEED:-$$RANDOM} \
		$(BIN)/python -m pytest tests/security/test_schemathesis.py --timeout 1800 $(ARGS)

simulate-10000: $(DEV)
	TMI_SIMULATION_SEEDS=10000 $(BIN)/python -m pytest tests/simulation/test_room.py tests/simulation/test_cluster.py --timeout 1200 $(ARGS)

interop-1000: $(DEV) $(INTEROP)
	TMI_INTEROP_SEEDS=1000 $(BIN)/python -m pytest tests/interop/test_convergence.py $(ARGS)

kill-100: $(DEV) $(INTEROP)
	TMI_KILL_ROUNDS=100 $(BIN)/python -m pytest tests/faults/test_kill.py $(ARGS)

hands-500: $(DEV)
	TMI_HANDS_SEEDS=500 $(BIN)/python -m pytest tests/integration/test_nodes.py -k change_hands $(ARGS)

failover: $(DEV) $(INTEROP)
	TMI_FAILOVER=all $(BIN)/python -m pytest tests/faults/test_failover.py tests/faults/test_namespaces.py $(ARGS)

chaos: $(DEV) $(INTEROP)
	TMI_CHAOS_SEEDS=25 $(BIN)/python -m pytest tests/faults/test_chaos.py $(ARGS)

emptied-100: $(DEV) $(INTEROP)
	TMI_EMPTIED_ROUNDS=100 $(BIN)/python -m pytest tests/faults/test_redis_emptied.py --timeout 600 $(ARGS)

pause-100: $(DEV) $(INTEROP)
	TMI_PAUSE_ROUNDS=100 $(BIN)/python -m pytest tests/faults/test_pause.py --timeout 3600 $(ARGS)

revoke-100: $(DEV)
	TMI_REVOCATION_ROUNDS=100 $(BIN)/python -m pytest -s tests/faults/test_revocation.py --timeout 1200 $(ARGS)

soak: $(DEV)
	TMI_SOAK_S=7200 $(BIN)/python -m pytest -s tests/soak $(ARGS)
