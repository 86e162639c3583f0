# `make` lists the targets. Needs only GNU make 3.81 and a POSIX shell.

STACK ?= default
PYTHON ?= python3
CONFIG ?= configs/gfl_ghostnet_ghostpan_lite.py
DATA ?= sample
# The config's schedule is COCO's; four epochs are enough for the generated sample.
ARGS ?= $(if $(filter train,$(MAKECMDGOALS)),$(if $(filter sample sample-4x3,$(DATA)),--epochs 4))
# pytest workers, with one thread each
JOBS ?= 2
# Set to anything to run the tests marked slow too.
ALL ?=
# The tests that depend most on the mm packages and torch, for the other sets of packages.
SMOKE := tests/commands tests/config tests/data/test_check_config.py tests/data/test_convert.py tests/engine tests/evaluation/test_metric.py \
  tests/export tests/models tests/ops/test_ops.py tests/swap tests/test_private_apis.py tests/test_register.py tests/test_security.py tests/weights
BACKBONE ?= GhostNet
KILLS ?= 100

ifeq ($(STACK),default)
VENV := .venv
EXTRAS := mm,runtime,export,ncnn,bulk,data,demo,docs,tensorboard,dev
else ifeq ($(STACK),official)
VENV := .venv-official
EXTRAS := official,runtime,export,ncnn,bulk,data,demo,docs,tensorboard,dev
else ifeq ($(STACK),legacy)
VENV := .venv-legacy
EXTRAS := official,runtime,data,tensorboard
ALSO := hypothesis onnx pytest pytest-timeout pytest-xdist timm
SMOKE := tests/weights tests/test_security.py tests/test_register.py tests/ops/test_ops.py tests/models/test_ghostnet.py \
  tests/engine/test_networks.py tests/swap/test_probe.py tests/commands/test_train.py tests/test_openmmlab.py
# mmsegmentation and others, whose own requirements include what does not build, or what their networks do not need.
PROJECTS = && $(PIP) --no-deps -r constraints/openmmlab.txt
else
$(error STACK is '$(STACK)': choose default, official or legacy)
endif

PY := $(VENV)/bin/python
# Python compiles the modules it imports when it first needs them: faster than compiling everything here.
PIP := $(PY) -m pip install -qq --no-input --disable-pip-version-check --no-compile -c $(VENV)/constraints.txt
# legacy.txt has only what differs from official.txt.
CONSTRAINTS := $(if $(filter legacy,$(STACK)),constraints/legacy.txt constraints/official.txt,constraints/$(STACK).txt)
NEWEST := $(if $(filter legacy,$(STACK)),11,13)
pins = awk -F== '$$1 in seen { next } { print } NF > 1 && FNR == NR && ARGC > 2 { seen[$$1] }' $(CONSTRAINTS)

# The stamp's name has a hash of everything the venv depends on (pins, Python, this folder's path), so a changed
# content, not a changed date, rebuilds the venv.
PINS := $(shell { sed '/^\[tool\.ruff/,$$d' pyproject.toml; cat $(CONSTRAINTS) constraints/openmmlab.txt; echo $(EXTRAS) $(ALSO); $(PYTHON) -V; pwd; } 2>&1 | cksum | cut -d' ' -f1)
STAMP := $(VENV)/.made-$(PINS)

# $(call timed,NAME,COMMAND) runs COMMAND and prints how long it took.
timed = @start=$$(date +%s); $(2); status=$$?; echo "== $(1): $$(( $$(date +%s) - start )) s"; exit $$status

.PHONY: help setup train test smoke lint soak sweep docs format clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile
	@echo 'Variables and their values: STACK=$(STACK) (or official, legacy) PYTHON=$(PYTHON) JOBS=$(JOBS)'
	@echo '  CONFIG=$(CONFIG) DATA=$(DATA) ARGS=$(ARGS)'

setup: $(STAMP) ## create .venv with the tested versions, unless it is up to date
	@echo '== setup: $(VENV) is ready'

train: $(STAMP) ## set up, then train CONFIG on DATA; ARGS are passed to tools/train.py
	$(call timed,train,$(PY) tools/train.py $(CONFIG) --data $(DATA) $(ARGS))

test: lint ## set up, lint and run the tests (ALL=1: also the slow ones); ARGS are passed to pytest
	$(call timed,pytest,OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --durations=20 $(if $(ALL),,-m 'not slow') $(ARGS))

smoke: $(STAMP) ## run the tests that depend on the mm packages and torch, as in make smoke STACK=official
	$(call timed,pytest,OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --durations=20 -m 'not slow' $(SMOKE) $(ARGS))

soak: $(STAMP) ## kill and resume a training KILLS times and compare it with an undisturbed one (half an hour)
	$(call timed,soak,OMP_NUM_THREADS=1 $(PY) -m tools.soak --kills $(KILLS) $(ARGS))

sweep: $(STAMP) ## swap BACKBONE into every kind of mmdet detector (an hour of one core); writes docs/sweep.csv and .md
	$(call timed,sweep,$(PY) -m tools.sweep --backbone $(BACKBONE) --jobs $(JOBS) -o docs/sweep.csv $(ARGS))

docs: $(STAMP) ## build the documentation in build/site
	$(call timed,docs,NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --site-dir build/site)

lint: $(STAMP) ## run ruff (rules and format) and mypy --strict
	$(call timed,ruff,$(PY) -m ruff check . && $(PY) -m ruff format --check .)
	$(call timed,mypy,$(PY) -m mypy)

format: $(STAMP) ## format and fix the sources with ruff
	$(PY) -m ruff check --fix . && $(PY) -m ruff format .

clean: ## remove venvs, caches, builds and work_dirs (with the models trained there)
	rm -rf .venv .venv-official .venv-legacy work_dirs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find ghost_det configs tools tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, $(NEWEST)))' 2>/dev/null || { \
	  echo "expected Python 3.10 to 3.$(NEWEST), but $(PYTHON) is $$($(PYTHON) -V 2>/dev/null || echo missing): choose one, as in make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv or pip: install them (Debian, Ubuntu: apt install python3-venv) or choose another, as in make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "== setup: $(VENV) with the $(STACK) packages: about 3.5 GB of downloads the first time, 7 GB on disk"
	@rm -f $(VENV)/.made-*
	$(call timed,setup,$(PYTHON) -m venv --clear $(VENV) && $(pins) > $(VENV)/constraints.txt && $(PIP) -e '.[$(EXTRAS)]' $(ALSO) $(PROJECTS) && $(check_cv2) && $(warm_yapf) && touch $@)

# The mm packages require the graphical OpenCV, which needs libGL; servers and containers may lack it.
check_cv2 = { $(PY) -c 'import cv2' 2>/dev/null \
  || { echo '== setup: no libGL, installing the headless OpenCV'; $(PIP) --force-reinstall --no-deps opencv-python-headless; }; }

# The first import of yapf (used by mmengine) in a venv writes a cache and renames it before it is flushed: two
# processes that import it at once, such as pytest's workers, may read half a file.
warm_yapf = $(PY) -c 'from yapf.yapflib import yapf_api'
