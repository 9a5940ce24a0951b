# Everything from a bare Python 3 with venv: `make demo`, `make test`. The set-up runs once, then only when its
# inputs change.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.constropt-installed
# the pinned versions exist for Python >= 3.11; an older one takes the newest that it can
PINS := $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")')
TORCH := $(if $(PINS),torch==2.13.0,torch)

.PHONY: demo test lint types setup clean

# one thread: what is run here is too small for more, and on a busy machine waiting for threads is slower than none
demo: setup
	OMP_NUM_THREADS=1 $(BIN)/constropt solve alma ddn minimal --data digits --samples 100 --steps 100 --out out/demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: setup
	$(BIN)/ruff check

types: setup
	$(BIN)/pyright

setup: $(STAMP)

# torch first and alone, so that nothing that depends on it brings another build
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PINS) $(TORCH)
	$(BIN)/python -m pip install --quiet $(PINS) -e '.[dev,plot]'
	touch $@

clean:
	rm -rf $(VENV) build dist out *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	find constropt tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
