# `make demo` and `make test` do all the set-up on a machine that has only Python 3.10-3.12.
PYTHON ?= python3
BIN := .venv/bin

# Minutes that `make gpu` may take.
BUDGET ?= 9

.PHONY: install demo test lint bench gpu clean

install: .venv/.installed

.venv/.installed: pyproject.toml $(wildcard deploy/network/winograd/*pp)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	-$(BIN)/python -m pip install --quiet --editable '.[dev,scorer]'  # without a C compiler its test is skipped
	-$(BIN)/python -m deploy.network.winograd  # without g++ engines for OpenVINO are slower
	touch $@

demo: install
	$(BIN)/python -m deploy.demo --output build/demo

test: install
	# Whole files, so that what they share is made once. More than four servers and compilers at once want much memory.
	# One thread a process: those of several would wait for each other.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-json=build/bench.json

# Without `install`: it needs torch and triton alone, and takes whichever environment has them.
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.gpu --budget $(BUDGET) --output build/gpu

clean:
	rm -rf build .venv *.egg-info deploy/network/winograd/*.so
