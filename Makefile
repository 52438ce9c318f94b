# make demo    from nothing to a trained agent and its Reliability Brief
# make test    from nothing to passing tests
#
# Both make .venv first; a done install is skipped until pyproject.toml, constraints.txt, PYTHON or the folder changes.
#
#   PYTHON       interpreter the environment is made from, 3.11 to 3.13
#   TORCH_INDEX  extra package index to look for torch in. On Linux the default index serves torch with gigabytes of
#                CUDA; for the CPU wheel:  make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
#   QUARTER      1 to 4: `make test-all` runs that quarter of the slow tests only
#   WORKERS      processes pytest runs in

PYTHON ?= python3
TORCH_INDEX ?=
QUARTER ?=
WORKERS ?= 2

VENV := .venv
MIN_FREE_GB := 4
BIN := $(VENV)/bin
empty :=
space := $(empty) $(empty)

# As a file URL, because pip splits these variables at blanks. New pips read the second one for isolated builds.
export PIP_CONSTRAINT := file://$(subst $(space),%20,$(CURDIR))/constraints.txt
export PIP_BUILD_CONSTRAINT := $(PIP_CONSTRAINT)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

digest := $(shell { cat pyproject.toml constraints.txt; echo '$(PYTHON) $(CURDIR)'; } | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-16)
stamp := $(VENV)/installed-$(digest)

.PHONY: install demo test test-all test-wasm test-podman lint docs bench paper clean check-machine
.DEFAULT_GOAL := install

install: $(stamp)

$(stamp):
	@$(MAKE) --no-print-directory check-machine
	@$(BIN)/python -m pip --version 2>/dev/null | grep -q "(python $$('$(PYTHON)' -c 'import sys; print("%d.%d" % sys.version_info[:2])'))" || '$(PYTHON)' -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable '.[train,dev,examples-agents]'
	@rm -f $(VENV)/installed-*
	@touch $@

# Each line: a test, and what to do when it fails.
check-machine:
	@command -v '$(PYTHON)' >/dev/null || { echo "'$(PYTHON)' is not found: install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "$$('$(PYTHON)' -V 2>&1) is outside 3.11 to 3.13: name another one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@'$(PYTHON)' -c 'import venv, ensurepip' 2>/dev/null || { echo "'$(PYTHON)' has no venv module: on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@free=$$(df -Pk . | awk 'NR == 2 {print int($$4 / 1048576)}'); [ "$$free" -ge $(MIN_FREE_GB) ] || { echo "$$free GB free here, and the environment and a demo need $(MIN_FREE_GB): free some space, or move this folder to a larger disk" >&2; exit 1; }

demo: install
	$(BIN)/flyball run examples/helpdesk/workflow.yaml

test: install
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-all: install
	$(BIN)/python -m pytest -n $(WORKERS) $(if $(QUARTER),-m slow --quarter $(QUARTER))

test-wasm: install
	$(BIN)/python -m pip install --quiet --editable '.[wasm]'
	$(BIN)/python -m pytest -m wasm

test-podman: install
	$(BIN)/python -m pytest -m podman

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

# Writes the generated pages anew, then runs every page that is marked as runnable.
docs: install
	$(BIN)/python -m flyball.metrics > docs/metrics.md
	$(BIN)/python -m pytest tests/docs

bench: install
	$(BIN)/python -m benchmarks.helpdesk.run

# The papers' mechanisms in miniature: runs what is missing, then writes docs/results.md.
paper: install
	$(BIN)/python -m benchmarks.paper.run
	$(BIN)/python -m benchmarks.paper.page > docs/results.md

clean:
	rm -rf $(VENV) build dist runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
