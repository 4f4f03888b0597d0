# Each target does all its own set-up: a virtual environment in .venv and the package with its development tools.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow lint clean

demo: $(STAMP)
	$(BIN)/coatnet train digits --out runs/demo --overwrite

test: $(STAMP)
	$(BIN)/python -m pytest -q -m "not slow and not gpu" -n auto --maxprocesses 8

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m "not gpu" -n auto --maxprocesses 8

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "coatnet needs Python 3.11 or newer, $(PYTHON) is older: run 'make $(MAKECMDGOALS) PYTHON=python3.11'"; exit 2; }
	@echo "Installing into $(VENV): a few minutes the first time (PyTorch is large)."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) runs
