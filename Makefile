# make demo          the whole story on simulated clouds: no account, no key, no cost (CLOUD=vast|runpod|both)
# make examples      every field note's run, at toy size on simulated clouds (ONLY="miras-s own-script")
# make test          the tests (what CI runs)      make test-all   plus the slow proofs
# make check         ruff, mypy --strict, import arrows
# make bench         numbers next to their targets   make bench-trainer   the trainer's
# make simulate      bad days for the whole daemon: N=… schedules from SEED=…
# make night         a virtual night (12 h, 40 runs, both clouds, everything at 2 %) and its report; SEED=…
# make mutants       break every guard, one at a time, and see which test notices (half an hour; ONLY=part of a module's name)
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet --no-input

.DEFAULT_GOAL := help
.PHONY: help install demo examples test test-all check format bench bench-trainer simulate night mutants lock clean

help:
	@grep '^# make' Makefile | cut -c3-

# torch goes first and by exact version: this is what finds the CPU build where one is offered.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (about two minutes the first time)"
	@$(PIP) install "$$(grep '^torch==' constraints.txt)" 2>&1 | grep -v '^WARNING: Location' || true
	@$(PIP) install -c constraints.txt -e '.[trainer,dev]' 2> $(VENV)/install.log || { cat $(VENV)/install.log; exit 1; }
	@touch $(STAMP)

install: $(STAMP)

# HEADLESS=1 (or no terminal) prints the timeline instead of opening the app.
demo: $(STAMP)
	@$(BIN)/gputui demo $(if $(HEADLESS),--headless) $(if $(CLOUD),--cloud $(CLOUD)) $(DEMO_ARGS)

examples: $(STAMP)
	@$(BIN)/python examples/run.py $(ONLY)

# WORKERS=1 plays one test at a time.
WORKERS ?= 3
PYTEST  := $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

test: $(STAMP)
	@$(PYTEST) $(PYTEST_ARGS)

test-all: $(STAMP)
	@$(PYTEST) -m '' $(PYTEST_ARGS)

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(STAMP)
	@$(BIN)/python tests/bench/run.py $(BENCH_ARGS)

# NANOGPT=dir names a checkout to race against; without it the trainer's own rows are printed.
bench-trainer: $(STAMP)
	@$(BIN)/python tests/bench/trainer/bench_trainer.py $(BENCH_ARGS)

N ?= 5000
SEED ?= 1
simulate: $(STAMP)
	@$(BIN)/python tests/simulation/simulate.py --seed $(SEED) --count $(N) $(SIM_ARGS)

night: $(STAMP)
	@$(BIN)/python tests/simulation/night.py --seed $(SEED) $(NIGHT_ARGS)

mutants: $(STAMP)
	@$(BIN)/python tests/mutation/run.py $(if $(ONLY),--only $(ONLY),--write docs/mutants.md)

lock: $(STAMP)
	@{ head -2 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.new && mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
