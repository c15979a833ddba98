# The commands of the project. `make demo` and `make test` set everything up by themselves.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python

.PHONY: help install demo demo-llava test test-real lint format bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## make .venv with all that training, serving and the tests need (once)

# Editable: a later edit of the code needs no new install; an edit of the requirements or the C file does.
$(VENV)/.installed: setup.py pyproject.toml mmft/data/pictures/_tiling.c
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else \
	  "mmft needs Python 3.10 to 3.12, this is %d.%d: make PYTHON=python3.11 ..." % v)'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade 'pip>=24' 'setuptools<81' wheel
	$(PY) -m pip install --quiet --no-build-isolation --editable '.[all,dev]'
# yapf, which mmengine imports, caches its grammar at its first import: of two first imports at once one reads half of it.
	@$(PY) -c 'import mmengine'
	@touch $@

demo: install  ## train a small InternVL2 on food pictures; report in work_dirs/demo/report.html
	$(PY) tools/demo.py

demo-llava: install  ## a small LLaVA in two stages on the same pictures; report in work_dirs/demo_llava/report.html
	$(PY) tools/demo.py llava

# These start real servers, terminals and a browser: after the others, not beside them. They wait for other processes,
# which a busy machine may keep from them: what fails is tried once more, alone, and fails if it fails again.
LIVE := tests/serve tests/talk tests/compare
test: install  ## the whole test-suite
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest -n 2 --dist loadfile $(addprefix --ignore=,$(LIVE))
	$(PY) -m pytest -n 2 --dist loadfile $(LIVE) || \
	  $(PY) -m pytest --last-failed --last-failed-no-failures none $(LIVE)

test-real: install  ## train a LLaVA on a real small language model and public emoji (downloads 430 MB, some minutes)
	$(PY) -m tests.real.emoji

lint: install  ## ruff, as pre-commit runs it
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: install  ## let ruff rewrite the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: install  ## the benchmarks of docs/benchmarks.md
	$(PY) benchmarks/tiling.py
	$(PY) benchmarks/train_step.py
	$(PY) benchmarks/train_step.py --hand-back
	$(PY) benchmarks/convert.py
	@test -d work_dirs/demo/food || $(PY) tools/demo.py
	$(PY) benchmarks/serve.py work_dirs/demo/food --dataset data/demo_food/heldout.jsonl

clean:  ## remove what was trained and drawn, and build leftovers (not what is installed)
	rm -rf build dist *.egg-info work_dirs data/demo_food
