# Two commands on a bare machine with Python 3.11 or later: `make run` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH := torch==2.13.0

.PHONY: run test check lock clean

run: .venv/installed
	$(BIN)/convbench run

test: .venv/installed check
	$(BIN)/python -m pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Reinstalls only when the declared dependencies change. Everything is pinned by hash but torch, whose build differs
# from machine to machine (CPU, CUDA, a wheel of one's own): it is pinned by version, as are the CUDA libraries by it.
.venv/installed: pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes -r requirements.txt
	$(PIP) $(TORCH)
	$(PIP) --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	touch $@

# Newer versions: needs uv. Python 3.11 and later, every system.
lock:
	echo $(TORCH) | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" --extra dev pyproject.toml - \
	  | sed -E '/^(torch|cuda-|nvidia-[^m])/,/[^\\]$$/d' > requirements.txt

clean:
	rm -rf .venv
