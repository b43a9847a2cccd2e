# The two commands of a newcomer: `make run` and `make test`. Everything they need is put into .venv.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin

# Stamps: what was done with which inputs. See the rules below.
ORIGIN := $(VENV)/.origin
TOOLS := $(VENV)/.tools
INSTALLED := $(VENV)/.installed
PEERS := $(VENV)/.peers

# Whatever ends up in the installed package. Directories are listed too: a deleted file changes them.
SOURCES := $(shell find src native include -name __pycache__ -prune -o -print 2>/dev/null) \
           meson.build pyproject.toml README.md LICENSE

# The environment of whoever calls must not reach into the build.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
PIP := $(BIN)/python -I -m pip --quiet --disable-pip-version-check --no-input
IN_VENV := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: help setup run test check format soak bench clean

help: ## Explain every target (this list)
	@echo 'kinfolk: make TARGET'
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) \
	    | while IFS='|' read -r target text; do printf '%-10s %s\n' "$$target" "$$text"; done
	@echo
	@echo '  PYTHON=…   the interpreter for .venv (default: python3, if it is 3.11 or newer)'
	@echo '  ARGS=…     more arguments for pytest (test, soak), the tour (run) or the benchmark (bench)'

setup: $(INSTALLED) ## Create .venv, build kinfolk and install it there; quick when nothing changed
	@echo 'kinfolk is installed: $(BIN)/kin'

run: $(INSTALLED) ## Set up, then run the guided tour: real data over every mechanism
	@$(BIN)/kin tour $(ARGS)

test: $(INSTALLED) ## Set up, then run the tests (ARGS='tests/unit -k pipe' runs a part)
	@$(BIN)/python -m $(if $(ARGS),pytest $(ARGS),tests.shares)

check: $(INSTALLED) ## Lint, format, types, C warnings, floors; changes nothing
	@failed=; step() { echo "== $$1"; shift; "$$@" || failed=yes; }; \
	step 'ruff: lint' $(BIN)/ruff check --quiet --output-format concise; \
	step 'ruff: format' $(BIN)/ruff format --quiet --diff; \
	step 'mypy: types' $(BIN)/mypy --no-error-summary; \
	$(IN_VENV) step 'gcc: native/ without a warning' scripts/quietly sh -c \
	    'meson setup .venv/native-check --reconfigure -Dwerror=true $(ABI) && \
	     meson compile -C .venv/native-check'; \
	step 'floors' $(BIN)/python -m pytest -q tests/test_architecture.py; \
	[ -z "$$failed" ] || { echo 'make check: failed, see above' >&2; exit 1; }

format: $(TOOLS) ## Put the Python files in order: ruff's safe fixes, then its format
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

soak: $(INSTALLED) ## Set up, then run the tests that take minutes (marked soak)
	@$(BIN)/python -m pytest -m soak --timeout 3600 -o faulthandler_timeout=3600 $(ARGS)

bench: $(INSTALLED) $(PEERS) ## Set up, then measure against the peers, into benchmarks/results (twenty minutes)
	@$(BIN)/kin bench --peers --suite data --suite one-core --suite batches --sizes 48 \
	    --runs 9 --time 0.1 --within 420 --export-json benchmarks/results/small.json $(ARGS)
	@$(BIN)/kin bench --peers --suite data --suite start-up --suite one-core --suite batches \
	    --suite in-place --suite idle --suite locks --suite processes --shapes 1x1,4x4 \
	    --runs 3 --warmup 0 --time 0.1 --within 600 \
	    --export-json benchmarks/results/mechanisms.json $(ARGS)
	@$(BIN)/kin bench --suite scale --verify-claims --runs 1 --warmup 0 --within 180 \
	    --export-json benchmarks/results/scale.json $(ARGS)
	@$(BIN)/python benchmarks/targets.py benchmarks/results/small.json benchmarks/results/mechanisms.json

clean: ## Remove .venv and everything else that was built
	@rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	@find . -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------------
# How .venv comes about.

# Free-threaded builds before 3.15 have no limited API.
ABI = $(shell $(BIN)/python -I -c 'import sys, sysconfig; \
    print("-Dpython.allow_limited_api=false" * bool(sysconfig.get_config_var("Py_GIL_DISABLED") \
    and sys.version_info < (3, 15)))')

# Decided anew on every call, and cheap: an environment made elsewhere (a copied checkout), whose
# interpreter is gone, or which is not made with the PYTHON asked for, is thrown away.
$(shell $(BIN)/python -I -c '' 2>/dev/null \
    && [ "$$(sed -n 1p $(ORIGIN) 2>/dev/null)" = "$(CURDIR)" ] \
    && { [ -z "$(PYTHON)" ] || \
         [ "$$(sed -n 2p $(ORIGIN))" = "$$(PYTHON='$(PYTHON)' scripts/find-python 2>/dev/null)" ]; } \
    || rm -f $(ORIGIN))

$(ORIGIN):
	@command -v $${CC:-cc} >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || { \
	    echo 'kinfolk needs a C compiler, and gcc is not found.' \
	    'On Debian and Ubuntu, as root: apt-get install gcc' >&2; exit 1; }
	@python=$$(PYTHON='$(PYTHON)' scripts/find-python) || exit 1; \
	rm -rf $(VENV); \
	echo "Creating $(VENV) with $$("$$python" -V) ($$python)"; \
	"$$python" -I -m venv $(VENV) && printf '%s\n' "$(CURDIR)" "$$python" >$@

$(TOOLS): requirements-dev.txt $(ORIGIN)
	@echo 'Installing the dependencies and tools of requirements-dev.txt (a minute, the first time)'
	@$(PIP) install -r requirements-dev.txt
	@touch $@

# The extra `peers`. One that can't be installed here is missing from the results, which say so.
$(PEERS): pyproject.toml $(TOOLS)
	@echo 'Installing the peers of kin bench'
	@for each in $$($(BIN)/python -c 'import tomllib; \
	    print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["peers"])'); do \
	    $(PIP) install "$$each" || echo "make bench: without $$each" >&2; done
	@touch $@

# No build isolation: the build tools are in .venv already, and the build directory stays, so that
# a second build compiles what changed and no more. The stamp has the time of the build's start:
# what was edited meanwhile is taken along by the next one.
$(INSTALLED): $(TOOLS) $(SOURCES)
	@echo 'Building and installing kinfolk'
	@touch $@.begun
	@$(IN_VENV) $(PIP) install --no-build-isolation --no-deps --force-reinstall \
	    --config-settings=build-dir=$(VENV)/build $(addprefix --config-settings=setup-args=,$(ABI)) .
	@mv $@.begun $@
