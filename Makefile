# A fresh machine needs Python 3.11 or newer and a package index; everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
PROJECTS := $(wildcard plugins/*/pyproject.toml) runtime/pyproject.toml

.PHONY: setup quickstart test check docs dist clean

setup: .venv/.ready

# pip first, as an older one knows no dependency groups. torch next and alone, so that whichever build the index offers for this machine is the one the rest is resolved against.
.venv/.ready: pyproject.toml constraints.txt $(PROJECTS)
	$(PYTHON) -m venv .venv
	$(PIP) 'pip>=25.1'
	$(PIP) -c constraints.txt torch
	$(PIP) -c constraints.txt --group dev -e '.[bench,demo,masks,ncnn,onnx,sweep,video]' $(patsubst %/pyproject.toml,-e ./%,$(PROJECTS))
	touch $@

# Distills the two ends of photo4x into a smaller network, on packaged photographs; ends with a report to open. Run again, it goes on where it stopped.
quickstart: setup
	$(BIN)/distillkit run photo/quickstart --resume

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, without network; every warning and every broken link is an error.
docs: setup
	$(BIN)/python docs/build_site.py

# Wheel and sdist of every distribution, checked. TAG=v0.1.0: what only a release has, as well.
dist:
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install -q --disable-pip-version-check 'pip>=25.1'
	build/tools/bin/python -m pip install -q --disable-pip-version-check --group release
	build/tools/bin/python tools/release.py $(if $(TAG),--tag $(TAG))

clean:
	rm -rf .venv build dist runs
