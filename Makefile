# make up does all the set-up and serves a model; make help lists the rest.
# Works from any directory: make -C DIR up, make -f DIR/Makefile up.
#
#   TORCH_INDEX=URL  package index to take torch from (the CPU index of PyTorch's Get Started page)
#   ALLOW_CUDA=1     accept the CUDA build of torch, about 3 GB
#   PYTHON=python3.12  the Python to make .venv with (3.11 or newer)
#   ARGS="..."       further arguments of mythos up, mythos bench, pytest

ROOT := $(shell cd "$$(dirname "$(strip $(MAKEFILE_LIST))")" && pwd -P)
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; done; echo python3)
ARGS ?=
export TORCH_INDEX ALLOW_CUDA

IN := cd "$(ROOT)" &&
BIN := .venv/bin
LOCK := $(BIN)/uv pip compile pyproject.toml --group build --universal --fork-strategy fewest --generate-hashes \
	--no-emit-package torch --custom-compile-command "make lock" --quiet

# One process for each processor, up to four, each with the tests of whole files. ARGS=-n0 runs all in one.
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help up test test-all test-clients test-web mutate walk lint format bench bench-peers bench-lock lock clean setup-run setup-dev

help:
	@echo "make up            set up .venv, build the weights, serve them"
	@echo "make test          set up .venv for development, run the fast tests"
	@echo "make test-all      run every test, slow ones, clients and peers included"
	@echo "make test-clients  run the tests that use other people's clients"
	@echo "make test-web      drive the console in Chromium (apt-get install chromium)"
	@echo "make mutate        change the gate in 400 places, one at a time: do its tests notice?"
	@echo "make walk          run the tutorial of a release on real weights"
	@echo "make lint          ruff check, ruff format --check, pyright"
	@echo "make format        let ruff format and sort the code"
	@echo "make bench         measure speed on this machine, beside other engines"
	@echo "make bench-peers   install the other engines, and compile llama.cpp, into .cache"
	@echo "make lock          resolve requirements.lock and requirements-dev.lock anew"
	@echo "make clean         remove .venv, caches and built packages (never your models or keys)"

up: setup-run
	@$(IN) exec $(BIN)/mythos up $(ARGS)

test: setup-dev
	@$(IN) $(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-all: setup-dev
	@$(IN) $(BIN)/python -m pytest -m "" $(ARGS)

test-clients: setup-dev
	@$(IN) $(BIN)/python -m pytest -m clients -rs $(ARGS)

# SCREENSHOTS=DIR leaves the pictures of docs/how-to/console.md there.
test-web: setup-dev
	@$(IN) MYTHOS_SCREENSHOTS="$(SCREENSHOTS)" $(BIN)/python -m pytest -m web $(ARGS)

# Half an hour on two cores; an interrupted run goes on where it was.
mutate: setup-dev
	@$(IN) $(BIN)/python tools/mutate.py $(ARGS)

# Nearly all of its time goes to evaluations, which tell it before they begin.
walk: setup-run
	@$(IN) bench/walk.sh $(ARGS)

lint: setup-dev
	@$(IN) $(BIN)/ruff check .
	@$(IN) $(BIN)/ruff format --check .
	@$(IN) $(BIN)/pyright

format: setup-dev
	@$(IN) $(BIN)/ruff check --fix . ; $(BIN)/ruff format .

# Without the other engines `mythos bench` says so and measures ours alone.
bench: setup-run
	@$(IN) $(BIN)/python bench/install_peers.py || true
	@$(IN) $(BIN)/python bench/build_llamacpp.py || true
	@$(IN) $(BIN)/mythos bench $(ARGS)

bench-peers: setup-run
	@$(IN) $(BIN)/python bench/install_peers.py
	@$(IN) $(BIN)/python bench/build_llamacpp.py

bench-lock: setup-dev
	@$(IN) $(BIN)/uv pip compile bench/peers.in --no-deps --universal --generate-hashes --no-annotate \
		--custom-compile-command "make bench-lock" --quiet --python-version 3.11 --output-file bench/peers.lock

lock: setup-dev
	@$(IN) $(LOCK) --upgrade --output-file requirements.lock
	@$(IN) $(LOCK) --upgrade --extra dev --constraint requirements.lock --output-file requirements-dev.lock

clean:
	@$(IN) rm -rf .venv .cache dist .pytest_cache .ruff_cache .hypothesis
	@$(IN) find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

setup-run:
	@"$(PYTHON)" "$(ROOT)/tools/setup_env.py" run

setup-dev:
	@"$(PYTHON)" "$(ROOT)/tools/setup_env.py" dev
