# make install | demo | test | lint | benchmark. PYTHON names the interpreter that .venv is made from.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help install demo test lint benchmark clean
.DELETE_ON_ERROR:

help:
	@echo "make install    .venv with wiserl and what its tests need (again: nothing to do)"
	@echo "make demo       train PPO on CartPole-v1 with two Ray runners, draw the curve"
	@echo "make test       all tests but the slow ones"
	@echo "make lint       ruff, format check, mypy --strict, the order of imports"
	@echo "make benchmark  speed and scores beside Stable-Baselines3 and RLlib"
	@echo "make clean      remove .venv and caches"

install: .venv/.installed

# The stamps make a second run free; a changed pin or requirement installs again.
.venv/.installed: setup.py constraints.txt
	@echo "Installing into .venv (about a minute, plus downloads)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[marl,box2d,video,dev]'
	@touch $@

.venv/.benchmark: .venv/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[marl,box2d,mujoco,video,dev,bench]'
	@touch $@

demo: install
	@rm -rf runs/demo
	$(BIN)/wiserl train ppo CartPole-v1 --runners 2 --seed 1 --run-dir runs/demo
	$(BIN)/wiserl plot runs/demo --out runs/demo/curve.png
	@echo "The curve is in runs/demo/curve.png. Next: $(BIN)/wiserl play runs/demo --video runs/demo/play.gif"

test: install
	$(BIN)/python -m pytest -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict wiserl
	$(BIN)/lint-imports

benchmark: .venv/.benchmark
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.replay
	$(BIN)/python -m benchmarks.scores

clean:
	rm -rf .venv .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
