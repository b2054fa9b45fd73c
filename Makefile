# polyscore: `make demo` on a fresh machine needs only make and Python 3.11 or newer.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
BENCHES = $(sort $(wildcard benchmarks/bench_*.py))

# One thread a process: two test workers with one thread each are faster than one with two.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help venv demo test lint format bench clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

venv: $(STAMP)  ## Create .venv and install polyscore with its development tools

$(STAMP): pyproject.toml constraints.txt
	@python="$(PYTHON)"; test -n "$$python" || { echo "polyscore needs Python 3.11 or newer; set PYTHON=/path/to/python" >&2; exit 1; }; \
	test -x $(BIN)/python || "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

demo: $(STAMP)  ## Sample digits and speech together; writes outputs/demo/index.html
	$(BIN)/polyscore demo --out outputs/demo

test: $(STAMP)  ## Run the tests (those on real data need POLYSCORE_DATA)
	$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: $(STAMP)  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## Rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## Run every benchmarks/bench_*.py and print the measured numbers
	@set -e; for bench in $(BENCHES); do echo "== $$bench"; $(THREADS) $(BIN)/python $$bench; done

clean:  ## Remove what make and the tools wrote (demo, caches, .venv)
	rm -rf $(VENV) outputs/demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
