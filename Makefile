# segvid: make demo, make test, make lab. Everything is installed into .venv on the first run.
PYTHON ?= python3
DATA   ?=
ARGS   ?=
VENV   := .venv
BIN    := $(VENV)/bin
NBDEV  := PATH="$(abspath $(BIN)):$$PATH" PYTHONWARNINGS=ignore::DeprecationWarning
.DEFAULT_GOAL := help

.PHONY: help demo test test-mmseg lab docs export clean

help: ## this list
	@echo "segvid: video semantic segmentation you can read"
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/'
	@echo "  PYTHON=python3.12 chooses the Python (3.10 or newer); DATA=folder trains the demo on your own organized data set."

demo: $(VENV)/.run ## train a temporal model and its per-frame twin on a toy street (or DATA=folder), write demo/
	@$(BIN)/segvid_demo $(if $(DATA),--data "$(DATA)") $(ARGS)

test: $(VENV)/.dev ## every notebook as a test (nbdev), then pytest on tests/
	@$(NBDEV) OMP_NUM_THREADS=1 MPLBACKEND=agg $(BIN)/nbdev-test --n-workers 2 --do-print
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist loadfile $(ARGS)

test-mmseg: $(VENV)-mmseg/.made ## tests/mmseg with MMEngine and MMSegmentation, in an environment of its own
	@SEGVID_ORIGINALS=1 OMP_NUM_THREADS=1 MPLBACKEND=agg $(VENV)-mmseg/bin/python -m pytest tests/mmseg --show-capture=no $(ARGS)

lab: $(VENV)/.dev ## JupyterLab on the notebooks
	@$(BIN)/jupyter lab nbs

docs: $(VENV)/.docs ## the documentation site, from the notebooks, into _docs/
	@$(BIN)/python docs/build.py

export: $(VENV)/.dev ## notebooks -> segvid/*.py, and clean them
	@$(NBDEV) $(BIN)/nbdev-export && $(NBDEV) $(BIN)/nbdev-clean

clean: ## remove the environment and everything generated
	rm -rf $(VENV) $(VENV)-mmseg demo build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "segvid needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "[1/2] making $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, apt install python3-venv"; exit 1; }

$(VENV)/.run: $(VENV)/bin/python settings.ini setup.py pyproject.toml
	@echo "[2/2] installing segvid (the first time about four minutes and 5 GB, nearly all of it PyTorch)"
	@$(BIN)/python -m pip install --disable-pip-version-check -e . $(PIP_OPTIONS)
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python settings.ini setup.py pyproject.toml
	@echo "[2/2] installing segvid with what its notebooks and tests need (the first time about four minutes and 5 GB, nearly all of it PyTorch)"
	@$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev,docs]' $(PIP_OPTIONS)
	@touch $@ $(VENV)/.run

$(VENV)-mmseg/.made: settings.ini setup.py pyproject.toml
	@echo "making $(VENV)-mmseg (about 5 GB, nearly all of it PyTorch again: the fork of MMEngine must not meet the original)"
	@$(PYTHON) -m venv $(VENV)-mmseg
	@$(VENV)-mmseg/bin/python -m pip install --disable-pip-version-check -q -e '.[mmseg]' 'pytest>=8' $(PIP_OPTIONS)
	@touch $@

$(VENV)/.docs: $(VENV)/bin/python settings.ini setup.py
	@echo "[2/2] installing what builds the site"
	@$(BIN)/python -m pip install --disable-pip-version-check -q 'mkdocs>=1.6,<2' 'mkdocs-material>=9.5,<10' 'latex2mathml>=3.77' $(PIP_OPTIONS)
	@touch $@
