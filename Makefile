# Two commands on a machine with Python 3.11 or newer and pip:
#   make demo   the whole story on real weights and real texts, on a CPU
#   make test   lint, types, layers and all tests
#               TESTS='-m "not slow and not processes"' leaves out what takes longest
# and a third that measures the estimator against its peers:
#   make bench  BENCH=--quick for one minute of it
# and a fourth that sets accuracy against the size of compressed curvature:
#   make compression  COMPRESSION=--quick for a few minutes of it; else it takes hours
# and a fifth that reads texts from artifacts, which takes some minutes:
#   make privacy  PRIVACY=--quick for one of them
#
# TORCH chooses the build of PyTorch, which is installed first so that nothing replaces
# it. curvlinops is installed without its dependencies: one of them, backpack, asks for
# torchvision without using it, and torchvision breaks a CPU-only PyTorch. What curvlinops
# does use is in the `dev` extra.

PYTHON ?= python3
TORCH ?= torch==2.13.0
CURVLINOPS := curvlinops-for-pytorch==3.0.1 backpack-for-pytorch==1.7.1
KRONFLUENCE := kronfluence==1.0.1
BERGSON := bergson==2.5.0 simple-parsing docstring-parser petname ml-dtypes natsort
SEEDS ?= 1
LR ?= 1e-3
WORKERS ?= auto
TESTS ?=
BENCH ?=
COMPRESSION ?=
PRIVACY ?=

BIN := .venv/bin
READY := .venv/ready
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint bench compression privacy clean

demo: $(READY)
	$(BIN)/python benchmarks/demo.py --seeds $(SEEDS) --lr $(LR)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(TESTS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) .venv/peers
	$(BIN)/python benchmarks/estimate.py $(BENCH)

compression: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/compression.py $(COMPRESSION)

privacy: $(READY)
	$(BIN)/python benchmarks/privacy.py $(PRIVACY)

.venv/peers: $(READY)
	$(PIP) install --quiet --no-deps --upgrade --target $@ $(KRONFLUENCE) $(BERGSON)
	touch $@

$(READY): pyproject.toml Makefile
	@echo "Installing into .venv, once; this takes a few minutes"
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet $(TORCH)
	$(PIP) install --quiet --editable ".[dev]"
	$(PIP) install --quiet --no-deps $(CURVLINOPS)
	touch $(READY)

clean:
	rm -rf .venv
