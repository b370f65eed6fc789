# Two commands on a bare machine with Python 3.11 or later: `make run` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test check clean

run: .venv/installed
	$(BIN)/convbench run

test: .venv/installed check
	$(BIN)/python -m pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Reinstalls only when the declared dependencies change.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0" -e ".[dev]"
	touch $@

clean:
	rm -rf .venv
