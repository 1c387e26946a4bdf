# make demo    a video from a sentence, in a fresh environment: demo.mp4 and demo.png
# make play    a game that a model has learnt, in the browser
# make serve   a page and an HTTP API that make videos, at http://127.0.0.1:8000
# make test    lint, types, import rules and tests
# make clean   remove the environment and all generated files
#
# PYTHON=...       the interpreter (default: the first one found that is 3.11 or newer)
# TORCH_ARGS=...   arguments for pip when it installs torch, such as the index of PyTorch's CPU-only builds

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.14 python; do \
	$$python -c '$(IS_NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)

.PHONY: demo play serve test clean

demo: $(VENV)/demo-installed
	$(BIN)/starflow generate "a green square moves left" -o demo.mp4 --contact-sheet demo.png
	@echo "The video is in demo.mp4, its frames side by side are in demo.png."

play: $(VENV)/play-installed
	$(BIN)/starflow play freedoom

serve: $(VENV)/serve-installed
	$(BIN)/starflow serve

test: $(VENV)/dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist worksteal

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis demo.mp4 demo.png

$(VENV)/bin/python:
	@$(if $(PYTHON),$(PYTHON) -c '$(IS_NEW_ENOUGH)',false) || \
		{ echo "starflow needs Python 3.11 or newer; install it, or give its path: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Installing into $(VENV). This takes a few minutes, once."
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Installs again when pyproject.toml or constraints.txt changes.
$(VENV)/demo-installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) $(TORCH_ARGS) torch
	$(PIP) --editable .
	@touch $@

$(VENV)/play-installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) $(TORCH_ARGS) torch
	$(PIP) --editable '.[play]'
	@touch $@

$(VENV)/serve-installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) $(TORCH_ARGS) torch
	$(PIP) --editable '.[serve]'
	@touch $@

$(VENV)/dev-installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) $(TORCH_ARGS) torch
	$(PIP) --editable '.[dev]'
	@touch $@
