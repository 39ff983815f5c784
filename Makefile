# make demo    install into .venv and run the demo: two rounds on synthetic scans, 6 to 8 minutes on 2 CPU cores
# make audit   install what the audit desk needs and open the desk of the demo, which is run if it has not been
#              another experiment: make audit DESK=results/<experiment>
# make test    run all tests          make lint    formats, types and the linter of the workflow
# make test-slurm   run the workflow on a SLURM of simulated nodes, which it installs and starts (Debian, root); shows the jobs
# make recovery  cause the problems of docs/problems.md and print how long it takes to resume after each
# make docs    write the configuration reference and its JSON schema, then the documentation site (site/)
# make clean   remove the demo's results (no environment, no other experiment)
#
# Another environment: make test VENV=/path/to/venv

PYTHON ?= python3
VENV ?= .venv
CORES ?= all
DESK ?= results/demo
COVERAGE ?= 95   # percent of lines and branches that the tests must reach
WORKERS ?= 2   # processes that run tests side by side
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)

.PHONY: demo audit test test-slurm recovery lint docs clean

demo: $(VENV)/.installed
	snakemake --cores $(CORES)

audit: $(VENV)/.installed-audit
	[ "$(DESK)" != results/demo ] || [ -f results/demo/round_1/refine.csv ] || snakemake --cores $(CORES)
	python -m hstf.audit.vendor || echo "The desk works without it, but has no three-dimensional view."
	hstf audit $(DESK)

test: $(VENV)/.installed-dev
	OMP_WAIT_POLICY=passive python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-fail-under=$(COVERAGE)

test-slurm: $(VENV)/.installed-dev
	HSTF_SLURM=1 python -m pytest tests/slurm -v -rP

recovery: $(VENV)/.installed-dev
	python tests/benchmarks/recovery.py

lint: $(VENV)/.installed-dev
	ruff format --check .
	ruff check .
	mypy
	lint-imports
	snakefmt --check Snakefile workflow
	snakemake --lint

docs: $(VENV)/.installed-docs
	python docs/generate.py
	mkdocs build --strict

clean:
	rm -rf demo results/demo

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-audit: pyproject.toml constraints.txt | $(VENV)/bin/python
	python -m pip install --quiet -c constraints.txt -e '.[audit]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	python -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@ $(VENV)/.installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "$(PYTHON) is not Python 3.11 to 3.13; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
