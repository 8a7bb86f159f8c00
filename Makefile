# wsd: `make help` lists what can be made. Python 3.11 or later and make are all it takes.

PYTHON ?= python3
VENV ?= .venv
# Passed on by `make run` and `make test`: make run ARGS="--port 3100"
ARGS ?=
# Processes that run tests at the same time. Many tests wait most of the time, so three keep two cores busy.
JOBS ?= 3
# Files go to the processes whole, because the tests of a file share servers; in the order that tests/conftest.py gives.
PARALLEL := -n $(JOBS) --dist loadfile --no-loadscope-reorder

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
VERSIONS := 3.11 3.12 3.13

.DEFAULT_GOAL := help
.PHONY: help run test test-unit test-lowest lint format types check faults faults-soak handover handover-soak simulate simulate-bugs bench bench-full bench-smoke bench-micro bench-locust test-all papers lock clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/runs ## start wsd on this machine, with a Redis of its own and without authentication
	@$(BIN)/wsd dev $(ARGS)

test: $(VENV)/installed ## run the tests
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-unit: $(VENV)/installed ## run the tests that need no process and no socket
	$(BIN)/python -m pytest $(PARALLEL) tests/unit $(ARGS)

lint: $(VENV)/installed ## look for mistakes and for lines that are formatted otherwise
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/installed ## mend what lint finds, as far as that can be done by machine
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(VENV)/installed ## check the types
	$(BIN)/mypy

check: lint types test ## all that must pass before a commit

faults: $(VENV)/installed ## break Redis in forty ways, and print what happened: two minutes
	$(BIN)/python -m tests.faults $(ARGS)

faults-soak: $(VENV)/installed ## let every fault strike a hundred times, and look for leaks: about two hours
	$(BIN)/python -m tests.faults --times 100 $(ARGS)

handover: $(VENV)/installed ## reload under load, in every way that we know, and print what clients saw: ten minutes
	$(BIN)/python -m tests.handover $(ARGS)

handover-soak: $(VENV)/installed ## reload two hundred times in each deployment, and look for leaks: about an hour
	$(BIN)/python -m tests.handover --times 200 $(ARGS)

simulate: $(VENV)/installed ## play days with hundreds of faults, as many as a minute has room for: ARGS='--hours 1', ARGS='--seed 4711 --trace'
	$(BIN)/python -m tests.simulation $(ARGS)

simulate-bugs: $(VENV)/installed ## plant bugs one by one, and see how soon the simulation finds them: an hour
	$(BIN)/python -m tests.simulation.bugs $(ARGS)

bench: $(VENV)/installed ## measure wsd and others beside it: six minutes, two cores
	$(BIN)/python -m bench quick $(ARGS)

bench-full: $(VENV)/installed ## measure the whole grid: about an hour
	$(BIN)/python -m bench full $(ARGS)

bench-smoke: $(VENV)/installed ## look whether the bench works and nothing is lost, with few clients: a minute
	$(BIN)/python -m bench smoke --check $(ARGS)

bench-micro: $(VENV)/installed ## measure what single steps cost: make bench-micro ARGS=--fast
	$(BIN)/python -m bench.micro $(ARGS)

bench-locust: $(VENV)/installed ## Locust's web page on port 8089, with a Redis and a wsd of its own
	$(BIN)/locust -f bench/locust/locustfile.py --wsd-own $(ARGS)

# A shim of pyenv may be on PATH without a Python behind it, so each candidate is asked.
test-all: ## run the tests on CPython 3.11, 3.12 and 3.13, where present
	@ran=; \
	for version in $(VERSIONS); do \
		for python in python$$version $${PYENV_ROOT:+$$PYENV_ROOT/versions/$$version.*/bin/python} none; do \
			"$$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')" 2>/dev/null && break; \
		done; \
		if [ "$$python" = none ]; then \
			echo "CPython $$version is not on this machine: left out"; \
		else \
			echo "CPython $$version: $$python"; \
			$(MAKE) --no-print-directory VENV=.venv-$$version PYTHON="$$python" test || exit 1; \
			ran="$$ran $$version"; \
		fi; \
	done; \
	if [ -z "$$ran" ]; then echo "None of $(VERSIONS) is on this machine."; exit 1; fi; \
	echo "Passed on CPython$$ran."

# What `wsd dev` runs with, and no more: to start a daemon nobody needs a load generator and a type checker.
$(VENV)/runs: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and \
		'wsd needs Python 3.11 or later and $(PYTHON) is %d.%d: make PYTHON=python3.12 ...' % sys.version_info[:2])"
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || { echo >&2 \
		"$(PYTHON) can't make virtual environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@mkdir -p $(VENV) 2>/dev/null && test -w $(VENV) || { echo >&2 \
		"$(VENV) can't be written. Name another folder: make VENV=/tmp/wsd-venv ..."; exit 1; }
	@echo "Installing into $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@sed '/^# --- test$$/,$$d' constraints.txt | $(PIP) install --require-hashes -r /dev/stdin
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/installed: $(VENV)/runs
	@echo "Installing what the tests and measurements need, which takes half a minute ..."
	@$(PIP) install --require-hashes -r constraints.txt
	@touch $@

# constraints.txt has four parts, so that one can stop after any: what wsd runs with, what it is built with, the Redis of
# `wsd dev`, and what it is developed and tested with. The versions are those that all four agree on.
UV_VERSION := 0.13.9
LOCK := $(VENV)-lock
COMPILE := $(LOCK)/bin/uv pip compile --quiet --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	--universal --python-version 3.11 --generate-hashes pyproject.toml
# Leave out what the files named before hold already.
WITHOUT = $$(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' $(1))

papers: $(VENV)/installed ## write the tables of the papers anew that are made from the code
	@$(BIN)/python -m tests.house.papers

lock: ## pin the newest versions that pyproject.toml allows, with their hashes, in constraints.txt
	@$(PYTHON) -m venv --clear $(LOCK)
	@$(LOCK)/bin/python -m pip --disable-pip-version-check --quiet install uv==$(UV_VERSION)
	@cd $(LOCK) && rm -f all run build dev test
	@$(COMPILE) --all-extras --output-file $(LOCK)/all
	@$(COMPILE) --constraint $(LOCK)/all --output-file $(LOCK)/run
	@$(COMPILE) --constraint $(LOCK)/all --output-file $(LOCK)/build --extra build \
		$(call WITHOUT,$(LOCK)/run)
	@$(COMPILE) --constraint $(LOCK)/all --output-file $(LOCK)/dev --extra dev \
		$(call WITHOUT,$(LOCK)/run $(LOCK)/build)
	@$(COMPILE) --constraint $(LOCK)/all --output-file $(LOCK)/test --all-extras \
		$(call WITHOUT,$(LOCK)/run $(LOCK)/build $(LOCK)/dev)
	@{ \
		echo "# Every distribution that wsd is run, built and tested with: its version, and the hashes of all its files."; \
		echo "# Made by \`make lock\`. Each part needs the parts above it."; \
		echo; echo "# --- run"; cat $(LOCK)/run; \
		echo; echo "# --- build"; cat $(LOCK)/build; \
		echo; echo "# --- dev"; cat $(LOCK)/dev; \
		echo; echo "# --- test"; cat $(LOCK)/test; \
	} > constraints.txt
	@rm -r $(LOCK)

# The oldest versions that pyproject.toml allows, of what it names itself.
LOWEST := $(VENV)-lowest

test-lowest: $(LOWEST)/installed ## run the quick tests with the oldest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest $(PARALLEL) tests/unit tests/whole/admin tests/whole/clients tests/whole/redis/test_link.py \
		tests/whole/redis/test_connect.py tests/whole/test_worker.py $(ARGS)

$(LOWEST)/installed: pyproject.toml
	@echo "Installing the oldest versions that pyproject.toml allows ..."
	@$(PYTHON) -m venv --clear $(LOWEST)
	@$(LOWEST)/bin/python -m pip --disable-pip-version-check --quiet install uv==$(UV_VERSION)
	@$(LOWEST)/bin/uv pip compile --quiet --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--resolution lowest-direct --all-extras pyproject.toml --output-file $(LOWEST)/requirements
	@$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --requirements $(LOWEST)/requirements
	@$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

clean: ## remove what was made
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
