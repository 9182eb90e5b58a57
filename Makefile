# The Phoenix retrieval server. `make help` lists the targets.
PYTHON     ?= python3
CHECKPOINT ?= build/checkpoints/demo
DTYPE      ?= bfloat16
NAME       := $(notdir $(abspath $(CHECKPOINT)))-$(DTYPE)
BUNDLE     ?= build/bundles/$(NAME)/1
CORPUS     ?= build/corpora/$(NAME)
LISTEN     ?= 127.0.0.1:50051
SHARDS     ?=
IMPORT     ?=
SUITE      ?=
PROFILE    ?=
CAPACITY   ?=
ARGS       ?=
OPS        ?= 1000
SEED       ?= 0
TIMES      ?= 20
CASES      ?= 20000
ROUNDS     ?= 20
WORKERS    ?= 2

BIN       := .venv/bin
INSTALLED := .venv/.installed
TESTABLE  := .venv/.installed-test
PEERS     := .venv/.installed-bench
DEMO      := build/checkpoints/demo
GHZ       := $(firstword $(shell command -v ghz) build/bin/ghz)

.DEFAULT_GOAL := help
.PHONY: help install serve demo export corpus test check lint typecheck imports proto \
        proto-check constraints format soak crash fuzz fuzz-search sanitize bench load ghz clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | \
	  awk -F ':.*## ' '{printf "  \033[36m%-12s\033[0m %s\n", $$1, $$2}'
	@echo
	@echo "Variables: CHECKPOINT, DTYPE, BUNDLE, CORPUS, LISTEN, SHARDS, SUITE, PROFILE, CAPACITY, WORKERS."
	@echo "IMPORT is passed to import-corpus; ARGS to serve, pytest, bench or load. For example:"
	@echo "  make serve CHECKPOINT=../oss-phoenix-artifacts IMPORT=--trust-pickle SHARDS=2"

install: $(TESTABLE) ## Install all members and test tools into .venv

NATIVE    := server/src/phoenix_server/search/native
BUILT     := server/setup.py $(wildcard $(NATIVE)/*.cc) $(wildcard $(NATIVE)/*.h)
VARIANTS_x86_64  := amx avx512_vnni avx_vnni avx2
VARIANTS_aarch64 := neon_dot
SANITIZED := portable variants top_k $(VARIANTS_$(shell uname -m))

$(INSTALLED): constraints.txt pyproject.toml $(wildcard */pyproject.toml) $(BUILT)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -b constraints.txt --group dev \
	  -e proto -e phoenix -e 'export[tensorflow]' -e server -e client -e judge -e bench
	touch $@

$(TESTABLE): $(INSTALLED) tests/pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt \
	  --group tests/pyproject.toml:test
	touch $@

demo: $(DEMO)/retrieval/config.json ## Write the demo checkpoint

$(DEMO)/retrieval/config.json: | $(INSTALLED)
	$(BIN)/phoenix-export demo $(DEMO)

export: $(BUNDLE)/manifest.json ## Export CHECKPOINT as BUNDLE and compile it for this machine

$(BUNDLE)/manifest.json: | $(CHECKPOINT)/retrieval/config.json $(INSTALLED)
	$(BIN)/phoenix-export bundle $(CHECKPOINT) --out $(BUNDLE) --dtype $(DTYPE)
	$(BIN)/phoenix-server compile --bundle $(BUNDLE) $(SHARDS:%=--shards %)

corpus: $(CORPUS)/manifest.json ## Import the posts of CHECKPOINT as CORPUS

$(CORPUS)/manifest.json: | $(BUNDLE)/manifest.json
	$(BIN)/phoenix-server import-corpus $(CHECKPOINT)/sports_corpus.npz --bundle $(BUNDLE) --out $(CORPUS) $(IMPORT)

$(CORPUS).compiled: $(CORPUS)/manifest.json
	$(BIN)/phoenix-server compile --bundle $(BUNDLE) --corpus $(CORPUS) $(SHARDS:%=--shards %)
	touch $@

serve: $(CORPUS).compiled ## Install, export, build the corpus, and serve it on LISTEN
	exec $(BIN)/phoenix-server serve --bundle $(BUNDLE) --corpus $(CORPUS) --listen $(LISTEN) \
	  $(SHARDS:%=--shards %) $(ARGS)

test: $(TESTABLE) ## Run the tests in WORKERS processes; ARGS are passed to pytest
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

soak: $(TESTABLE) ## Make random changes and compare each answer with a model: OPS=50000 SEED=1
	PYTHONPATH=tests $(BIN)/python tests/soak.py --ops $(OPS) --seed $(SEED)

crash: $(TESTABLE) ## Kill a server at random and check what it kept: TIMES=200 SEED=1
	PYTHONPATH=tests $(BIN)/python tests/crash.py --times $(TIMES) --seed $(SEED)

fuzz: $(TESTABLE) ## Send a server random requests and damaged HTTP/2: CASES=200000 SEED=1
	PYTHONPATH=tests $(BIN)/python tests/fuzz.py --cases $(CASES) --seed $(SEED)

fuzz-search: $(TESTABLE) ## Compare the native search with numpy: CASES=1000000 SEED=1
	PYTHONPATH=tests $(BIN)/python tests/fuzz_search.py --cases $(CASES) --seed $(SEED)

sanitize: ## Run the native search with AddressSanitizer, UBSan and ThreadSanitizer: ROUNDS=20
	for sanitizers in address,undefined thread; do \
	  folder=build/sanitized/$$sanitizers; mkdir -p $$folder; \
	  flags="-std=c++17 -O1 -g -Wall -Wextra -ffp-contract=off -fsanitize=$$sanitizers -fno-sanitize-recover=all"; \
	  for name in $(SANITIZED); do \
	    $(CXX) $$flags $$(sed -n 's|^// Compile with: ||p' $(NATIVE)/$$name.cc) \
	      -c $(NATIVE)/$$name.cc -o $$folder/$$name.o || exit; \
	  done; \
	  $(CXX) $$flags -I $(NATIVE) tests/server/search/native/sanitized.cc $$folder/*.o \
	    -o $$folder/sanitized && $$folder/sanitized $(ROUNDS) || exit; \
	done

bench: $(PEERS) $(GHZ) ## Run the benchmarks: all suites, or SUITE="topk startup"
	$(BIN)/python -m phoenix_bench run $(SUITE) $(ARGS)

$(PEERS): $(INSTALLED)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt \
	  --group bench/pyproject.toml:bench
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt \
	  --group bench/pyproject.toml:scann || echo "ScaNN is not available for this machine: measuring without it"
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt \
	  --group bench/pyproject.toml:svs || echo "SVS is not available for this machine: measuring without it"
	touch $@

load: $(INSTALLED) $(GHZ) ## Load-test the server at LISTEN: all profiles, or PROFILE=burst
	$(BIN)/python -m phoenix_bench.load $(PROFILE) --target $(LISTEN) $(CAPACITY:%=--capacity %) \
	  $(ARGS)

ghz: $(GHZ) ## Install the load generator ghz into build/bin, unless it is on the path

build/bin/ghz:
	@command -v go >/dev/null || { echo "error: ghz is not installed, and neither is Go, which is needed to install it"; exit 1; }
	GOBIN="$(CURDIR)/build/bin" go install github.com/bojand/ghz/cmd/ghz@v0.121.0

check: lint typecheck imports proto-check ## Run every check of CI except the tests

lint: $(INSTALLED) ## Check style and formatting (ruff)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(INSTALLED) ## Fix style and formatting (ruff)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

typecheck: $(TESTABLE) ## Check types (pyright, strict)
	$(BIN)/pyright

imports: $(TESTABLE) ## Check the import rules between members and layers (import-linter)
	$(BIN)/lint-imports

proto: $(INSTALLED) ## Generate the Python stubs in proto/gen from the .proto files
	rm -rf proto/gen
	PATH="$(CURDIR)/$(BIN):$$PATH" proto/generate.sh

proto-check: $(INSTALLED) ## Lint the .proto files (buf) and check that proto/gen is up to date
	$(BIN)/buf lint proto
	rm -rf build/proto
	PATH="$(CURDIR)/$(BIN):$$PATH" proto/generate.sh "$(CURDIR)/build/proto"
	diff -r --exclude=__pycache__ build/proto proto/gen

constraints: $(INSTALLED) ## Pin the newest compatible versions in constraints.txt
	$(BIN)/uv lock --quiet --upgrade
	$(BIN)/uv export --quiet --no-header --no-annotate --no-hashes --no-emit-workspace \
	  --all-packages --all-extras --all-groups --output-file constraints.txt

clean: ## Remove build/ (checkpoints, bundles, corpora) and caches; keep .venv
	rm -rf build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
