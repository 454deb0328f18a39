# A fresh machine needs Python 3.11 or newer and a package index; everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
PROJECTS := $(wildcard plugins/*/pyproject.toml) runtime/pyproject.toml

.PHONY: setup quickstart test check docs dist clean

setup: .venv/.ready

# torch goes first and alone, so that whichever build the index offers for this machine is the one the rest is resolved against.
.venv/.ready: pyproject.toml constraints.txt $(PROJECTS)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' $(patsubst %/pyproject.toml,-e ./%,$(PROJECTS))
	touch $@

# Distills the two small teachers on photographs that packages ship; ends with a report to open. Run again, it goes on where it stopped.
quickstart: setup
	$(BIN)/distillkit run mini/quickstart_sr4x --resume

# With what the site needs, so that its test does not skip.
test: .venv/.docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, without network; every warning and every broken link is an error.
docs: .venv/.docs
	$(BIN)/python docs/build_site.py

.venv/.docs: .venv/.ready
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

# Wheel and sdist of every distribution, and what package indexes ask of their metadata.
dist:
	rm -rf dist
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install -q --disable-pip-version-check build twine
	for project in . $(patsubst %/pyproject.toml,%,$(PROJECTS)); do build/tools/bin/python -m build --outdir dist $$project || exit 1; done
	build/tools/bin/twine check --strict dist/*

clean:
	rm -rf .venv build dist runs
