# `make demo` and `make test` do all their own set-up: a virtual environment with locked packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ADDONS := .venv-addons
# Test files side by side, one a core, but no more than memory has room for: TensorFlow in each.
BESIDE := -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

# What NumPy says of its types to Python 3.12 and later makes no sense to a checker that reads as 3.10.
AS_PYTHON = $$($(BIN)/python -c 'import sys; print("--python-version=3.12" * (sys.version_info >= (3, 12)))')

# Formats and checks the studio's scripts and styles; no dependency of the package.
BIOME := @biomejs/biome@2.3.8

# What needs no network to be trained or built.
QUICK := $(addprefix tests/,formats media data evaluation jobs test_hostile.py test_results.py)

.PHONY: demo test quick test-long lint test-addons lock setup clean

demo: setup  ## learn objects of an invented world from one mask each; look at demo/
	$(BIN)/python -m pipelines.demo --out=demo

test: setup lint  ## all tests, the linter, the type checker and the arrows between rooms
	$(BIN)/python -m pytest $(BESIDE)

quick: setup lint  ## the same in under a minute: only tests that build no network
	$(BIN)/python -m pytest $(BESIDE) -m "not slow and not long and not real_data" $(QUICK)

test-long: setup  ## what tests of commands do six times, a hundred times
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=worksteal -m long --timeout=3600

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(AS_PYTHON)
	$(BIN)/lint-imports --no-logo --no-cache
	@if npm_config_fetch_retries=0 npx --yes $(BIOME) --version >/dev/null 2>&1; \
	  then npx --yes $(BIOME) check --error-on-warnings; \
	  else echo "The studio's scripts are not checked: there is no Node.js with npx, or no npm registry."; fi

test-addons: $(ADDONS)/installed  ## all tests on TensorFlow 2.15, where tensorflow-addons still imports
	$(ADDONS)/bin/python -m pytest $(BESIDE)

setup: $(VENV)/installed

$(VENV)/installed: requirements.lock setup.py
$(VENV)/installed: NEWEST := 13
$(ADDONS)/installed: requirements-addons.lock setup.py
$(ADDONS)/installed: NEWEST := 11

$(VENV)/installed $(ADDONS)/installed:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, $(NEWEST)) else \
	  "$(@D) needs Python 3.10 to 3.$(NEWEST), this is %d.%d: try make PYTHON=python3.11" % v)'
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

lock: COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version=3.10 --no-emit-index-url \
  --no-annotate --upgrade --extra=dev --extra=serving
lock: setup  ## renew both lock files from setup.py, for all Pythons at once
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) -o requirements.lock setup.py
	$(COMPILE) --extra=addons -o requirements-addons.lock setup.py

clean:
	rm -rf $(VENV) $(ADDONS) build *.egg-info
