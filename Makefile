# make demo   set everything up in .venv and run one night on this machine
# make setup  set everything up in .venv, no more
# make check  set everything up, check the style and the types, run the quick tests
# make test   the same with all tests: on a Ray, as processes, whole nights
# make wheel  build the package, into dist/
# make docs   write docs/configuration.md anew from the configuration's models
# make picture  make docs/report.png from the newest report below ./lake (needs chromium)
# the first that is there; asked for its path, since a version manager has stubs of others
PYTHON ?= $(firstword $(foreach minor,11 12 13,$(shell \
	python3.$(minor) -c 'import sys; print(sys.executable)' 2> /dev/null)) python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo setup check test quick whole lint bench docs picture wheel clean

$(VENV)/.ready: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,test]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/python -m jobs.nightly --config jobs/demo.yaml --date 2018-01-02 --new-lake

setup: $(VENV)/.ready

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# the style and the types say a few lines, while the tests take all cores
check: $(VENV)/.ready
	$(MAKE) --no-print-directory --jobs 2 lint quick

test: $(VENV)/.ready
	$(MAKE) --no-print-directory --jobs 2 lint whole

quick: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not ray and not night and not process"

whole: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

bench: $(VENV)/.ready
	$(BIN)/python -m jobs.benchmark score --json
	$(BIN)/python -m jobs.benchmark train --json
	$(BIN)/python -m jobs.benchmark prepare --json

wheel: $(VENV)/.ready
	rm -rf build dist
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	rm -rf build

docs: $(VENV)/.ready
	$(BIN)/python -c "from diffsasrec.config.reference import configuration_page as page; print(page(), end='')" > docs/configuration.md

picture:
	docs/picture.sh

clean:
	rm -rf $(VENV) lake dist
