# Everything a developer runs. `make demo` and `make test` work on a fresh machine with Python >= 3.10 and a
# C++17 compiler; they make .venv and install what they need into it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The exact torch that parity is tested against; see [dependency-groups] in pyproject.toml.
TORCH := torch==2.13.0

.PHONY: help demo test bench bench-cuda wheel site lint format docs clean

help:
	@echo "make demo     install into $(VENV) and train on real data, ours against torch"
	@echo "make test     install into $(VENV) and run the tests"
	@echo "make bench    install into $(VENV) and time everything against torch (ARGS=--quick: two minutes)"
	@echo "make bench-cuda  the same on a CUDA device, with the fusestep and torch of PYTHON"
	@echo "make wheel    build the sdist and the wheel into dist/, and try them in empty environments"
	@echo "make lint     ruff, mypy and clang-format, without changing anything"
	@echo "make format   let ruff and clang-format rewrite the sources"
	@echo "make docs     rewrite what is derived: type stubs, the table of ops in README.md, docs/cuda_kernels.md"
	@echo "make site     build the documentation into build/site"
	@echo "make clean    remove $(VENV) and build/"

# Installed anew whenever a source changes; build/ keeps what did not have to be compiled again.
SOURCES := pyproject.toml CMakeLists.txt $(shell find cmake csrc python -name '*.so' -prune -o -type f -print | grep -v __pycache__)

$(BIN)/python:
	@echo "==> making the virtual environment $(VENV)"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python $(SOURCES)
	@echo "==> installing fusestep and what the examples need"
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install ".[examples]"
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "==> installing what the tests need"
	$(BIN)/python tools/dependency_group.py dev | $(BIN)/pip install --quiet -r /dev/stdin
	@touch $@

demo: $(VENV)/.demo
	@echo "==> training on handwritten digits, with fusestep and with torch"
	$(BIN)/python examples/digits.py

test: $(VENV)/.dev
	@echo "==> running the tests"
	$(BIN)/python -m pytest

bench: $(VENV)/.demo
	@echo "==> timing losses and optimizers against torch"
	$(BIN)/python -m bench $(ARGS)

# With the torch of the machine, which must have CUDA.
bench-cuda:
	@echo "==> timing losses and optimizers against torch on a CUDA device"
	$(PYTHON) -m bench --device cuda $(ARGS)

wheel: $(BIN)/python
	@echo "==> building and trying the wheel"
	$(BIN)/python tools/dependency_group.py wheel | $(BIN)/pip install --quiet -r /dev/stdin
	$(BIN)/python tools/wheel.py

site: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

CXX_SOURCES = $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

docs: $(VENV)/.dev
	$(BIN)/python tools/stubs.py
	$(BIN)/python tools/ops_table.py
	$(BIN)/python tools/sass.py

clean:
	rm -rf $(VENV) build dist
