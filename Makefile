# Two commands for a newcomer: `make demo` and `make test`. Each sets everything up by itself, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BROWSER := $(VENV)/.browser

.PHONY: demo test setup format clean

demo: setup
	$(BIN)/rdf demo

test: setup $(BROWSER)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
# Two processes of one thread each: most tests are too small for more, and torch's threads would stand in each other's way.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt -e '.[dev]'
# Without its dependencies: it asks for the opencv that wants a display, and we have the one that does not.
	@$(BIN)/python -m pip install --quiet --no-deps imagecorruptions==1.1.2 || \
	  echo "imagecorruptions could not be fetched: the tests of parity with it will skip"
	@touch $(READY)

# What the tests of the report in a browser need, where this machine lets us have it: Debian's chromium, and axe-core from
# npm for the accessibility scan. Tried once, in silence; without them those tests skip and say so.
$(BROWSER): tests/report/package.json | $(READY)
	@$(BIN)/python -c 'import sys, robustbench_df.report.browser as b; sys.exit(b.find_browser() is None)' || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get && timeout 60 apt-get -qq update && \
	    timeout 300 apt-get -qq -y --no-install-recommends install chromium; } >/dev/null 2>&1 || true
	@{ command -v npm && timeout 60 npm install --prefix tests/report --no-package-lock --no-audit --no-fund; } \
	  >/dev/null 2>&1 || true
	@touch $(BROWSER)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) tests/report/node_modules build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
