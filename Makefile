# Three commands cover a day: make check, make test, make demo. Each does its own set-up in .venv, once.
PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt --editable

# Of 14,000 files a third are ever imported: those are compiled as it happens, once.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check bench kernels-cuda

# Fails, as `farm submit` does, with any exit code but 0: the library's control has to flip, and nothing else may.
demo: .venv/base.stamp
	$(BIN)/farm submit seed-pr

test: .venv/dev.stamp
	$(BIN)/python -m pytest

check: .venv/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/base.stamp
	$(BIN)/farm bench

# Shows compile errors of the CUDA backend on machines without a GPU.
kernels-cuda: .venv/base.stamp
	@$(BIN)/python -c 'from workers.build import build, find_nvcc; \
	print(build("cuda").path if find_nvcc() else "skipped: no nvcc on PATH, in CUDACXX or under CUDA_HOME")'

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "make: '$(PYTHON)'" \
	"($$($(PYTHON) --version 2>&1 | head -n 1)) is not a Python 3.11 to 3.13: name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/base.stamp: pyproject.toml constraints.txt | .venv/pyvenv.cfg
	$(INSTALL) .
	@touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | .venv/pyvenv.cfg
	$(INSTALL) '.[dev,postgres]'
	@touch .venv/base.stamp $@
