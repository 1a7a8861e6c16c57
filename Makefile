# Every target makes what it needs; nothing has to be done first.
#   make test ARGS='-k noise'          more arguments for pytest or a benchmark
#   make test PYTHON=python3.13        another interpreter (then `make clean` once before)

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
DEMO_STEPS ?= 500

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO_EXTRAS := mujoco,gym,cli,plots,video
DEV_EXTRAS := $(DEMO_EXTRAS),learning,dm-control,robotics,view,estimation,parquet,data,tracking,dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint bench bench-peers acceptance clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

# Without a screen MuJoCo can still draw in software, where the system has OSMesa (Debian: libosmesa6).
demo: $(VENV)/demo.stamp ## plan for HalfCheetah through its true physics on all cores, and show it (out/demo)
	@if [ -z "$$MUJOCO_GL$$DISPLAY$$WAYLAND_DISPLAY" ] \
	    && PATH="$$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null | grep -q libOSMesa; \
	then export MUJOCO_GL=osmesa; fi; \
	set -x; $(BIN)/mpcrl run HalfCheetah-v5 --planner icem --budget 100 --steps $(DEMO_STEPS) --budget-ms 45 --seed 0 --video --out out/demo $(ARGS)

test: $(VENV)/dev.stamp ## the fast test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/dev.stamp ## ruff and mypy over the package and the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev.stamp ## our own speed
	$(BIN)/python benchmarks/bench.py $(ARGS)

bench-peers: $(VENV)/dev.stamp ## speed beside the peers, each in an environment of its own (downloads several GB)
	$(BIN)/python benchmarks/bench_peers.py $(ARGS)

acceptance: $(VENV)/dev.stamp ## the slow checks of speed and control quality (hours)
	$(BIN)/python -m pytest -m acceptance $(ARGS)

clean: ## remove everything that make and the tools left here
	rm -rf $(VENV) build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis MUJOCO_LOG.TXT
	find mpcrl tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

# One environment; each stamp says which extras are in it.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit( \
	    "mpcrl needs Python 3.11, 3.12 or 3.13; $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv --clear $(VENV)

$(VENV)/demo.stamp: Makefile pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing mpcrl[$(DEMO_EXTRAS)] into $(VENV) (a minute or two)"
	$(PIP_INSTALL) -e '.[$(DEMO_EXTRAS)]'
	@touch $@

$(VENV)/dev.stamp: Makefile pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing mpcrl[$(DEV_EXTRAS)] into $(VENV) (a minute or two)"
	$(PIP_INSTALL) -e '.[$(DEV_EXTRAS)]'
	@touch $@
