# `make` alone lists what there is. GNU make 3.81 and a POSIX shell are enough.

STACK ?= default
PYTHON ?= python3
CONFIG ?= configs/retinanet_ghostnet_fpn_lite.py
DATA ?= sample
# The recipe is COCO's; of the sample, eight rounds are enough, and its drawings need no ImageNet weights.
ARGS ?= $(if $(filter train,$(MAKECMDGOALS)),$(if $(filter sample sample-4x3,$(DATA)),--epochs 8 --pretrained none))
# pytest workers, of one thread each
JOBS ?= 2
# of any value: the tests marked slow (trainings killed and resumed, several processes, whole exports) run, too
ALL ?=
# The tests that lean on the mm packages and on torch most: for the stacks beside the default one.
SMOKE := tests/commands tests/config tests/data/test_check_config.py tests/data/test_convert.py tests/engine tests/evaluation/test_metric.py \
  tests/export tests/models tests/ops/test_table.py tests/swap tests/test_private_apis.py tests/test_register.py tests/test_security.py tests/weights
BACKBONE ?= GhostNet
KILLS ?= 100

ifeq ($(STACK),default)
VENV := .venv
EXTRAS := mm,runtime,export,bulk,data,demo,docs,tensorboard,dev
else ifeq ($(STACK),official)
VENV := .venv-official
EXTRAS := official,runtime,export,bulk,data,demo,docs,tensorboard,dev
else ifeq ($(STACK),oldest)
VENV := .venv-oldest
EXTRAS := mm,runtime,export,bulk,data,demo,docs,tensorboard,dev
else
$(error STACK is '$(STACK)': choose default, official or oldest)
endif

PY := $(VENV)/bin/python
PIP := $(PY) -m pip install -qq --no-input --disable-pip-version-check -c $(VENV)/constraints.txt
# oldest.txt says only what differs from default.txt.
CONSTRAINTS := $(if $(filter oldest,$(STACK)),constraints/oldest.txt constraints/default.txt,constraints/$(STACK).txt)
pins = awk -F== '$$1 in seen { next } { print } NF > 1 && FNR == NR && ARGC > 2 { seen[$$1] }' $(CONSTRAINTS)

# The stamp is named after what the venv depends on (the pins, Python, and this folder, whose path the venv
# holds), so that a change of content, not of a file's date, makes the venv anew.
PINS := $(shell { sed '/^\[tool\.ruff/,$$d' pyproject.toml; cat $(CONSTRAINTS); echo $(EXTRAS); $(PYTHON) -V; pwd; } 2>&1 | cksum | cut -d' ' -f1)
STAMP := $(VENV)/.made-$(PINS)

# $(call timed,NAME,COMMAND) runs COMMAND and says how long it took.
timed = @start=$$(date +%s); $(2); status=$$?; echo "== $(1): $$(( $$(date +%s) - start )) s"; exit $$status

.PHONY: help setup train test smoke lint soak sweep docs format clean
.DEFAULT_GOAL := help

help: ## print this
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile
	@echo 'Variables, with their values: STACK=$(STACK) (or official, oldest) PYTHON=$(PYTHON) JOBS=$(JOBS)'
	@echo '  CONFIG=$(CONFIG) DATA=$(DATA) ARGS=$(ARGS)'

setup: $(STAMP) ## make .venv with the tested versions; does nothing while the pins stay the same
	@echo '== setup: $(VENV) is ready'

train: $(STAMP) ## set up, then train CONFIG on DATA; ARGS goes to tools/train.py
	$(call timed,train,$(PY) tools/train.py $(CONFIG) --data $(DATA) $(ARGS))

test: lint ## set up, lint, then run the tests, the slow ones too with ALL=1; ARGS goes to pytest
	$(call timed,pytest,OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --durations=5 $(if $(ALL),,-m 'not slow') $(ARGS))

smoke: $(STAMP) ## set up, then run the tests that lean on the mm packages and torch, as in make smoke STACK=official
	$(call timed,pytest,OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --durations=5 -m 'not slow' $(SMOKE) $(ARGS))

soak: $(STAMP) ## kill a training KILLS times, and compare its end with that of one that was not (half an hour)
	$(call timed,soak,OMP_NUM_THREADS=1 $(PY) -m tools.soak --kills $(KILLS) $(ARGS))

sweep: $(STAMP) ## BACKBONE under every kind of detector of mmdet (an hour of one core), into docs/sweep.csv and .md
	$(call timed,sweep,$(PY) -m tools.sweep --backbone $(BACKBONE) --jobs $(JOBS) -o docs/sweep.csv $(ARGS))

docs: $(STAMP) ## build the documentation into build/site
	$(call timed,docs,NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --site-dir build/site)

lint: $(STAMP) ## ruff (rules and format), and mypy --strict on ghost_det
	$(call timed,ruff,$(PY) -m ruff check . && $(PY) -m ruff format --check .)
	$(call timed,mypy,$(PY) -m mypy)

format: $(STAMP) ## let ruff rewrite the sources as lint wants them
	$(PY) -m ruff check --fix . && $(PY) -m ruff format .

clean: ## remove the venvs, caches, builds and work_dirs (with the models trained there)
	rm -rf .venv .venv-official .venv-oldest work_dirs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find ghost_det configs tools tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null || { \
	  echo "Python 3.10 to 3.13 is needed, and $(PYTHON) is $$($(PYTHON) -V 2>/dev/null || echo not there): name one, as in make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) comes without venv and pip: install them (Debian, Ubuntu: apt install python3-venv) or name another, as in make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "== setup: $(VENV) with the $(STACK) stack: about 3.5 GB of downloads the first time, 7 GB on disk"
	@rm -f $(VENV)/.made-*
	$(call timed,setup,$(PYTHON) -m venv --clear $(VENV) && $(pins) > $(VENV)/constraints.txt && $(PIP) -e '.[$(EXTRAS)]' && $(check_cv2) && $(warm_yapf) && touch $@)

# The graphical OpenCV that the mm stack asks for wants the system's libGL, which a server or a container may lack.
check_cv2 = { $(PY) -c 'import cv2' 2>/dev/null \
  || { echo '== setup: no libGL here, so the headless OpenCV'; $(PIP) --force-reinstall --no-deps opencv-python-headless; }; }

# mmengine uses yapf, whose first import in a venv writes a cache and renames it before it is flushed: first imports by
# two processes at once (pytest's workers, the ranks of a training) may read half a file.
warm_yapf = $(PY) -c 'from yapf.yapflib import yapf_api'
