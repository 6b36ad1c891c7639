# make lab    opens the course in JupyterLab          (ARGS="--no-browser --port 8899" is passed on)
# make test   runs the tests, notebooks included       (ARGS="-k models" is passed on)
# Both set up .venv on their first run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup lab test test-slow test-oldest test-newest dist docs quarto check-site links bench notebooks clean

help:
	@echo "make lab        open the course in JupyterLab"
	@echo "make test       run the tests, notebooks included (WORKERS=2 processes share the work)"
	@echo "make test-slow  run the tests that cost most: fresh environments, many kills, all sizes"
	@echo "make test-oldest  run tests with the lowest versions that settings.ini admits"
	@echo "make test-newest  run the tests with the newest versions that there are, without constraints.txt"
	@echo "make dist       build the source distribution and the wheel into dist"
	@echo "make setup      create .venv and install the course into it"
	@echo "make notebooks  export the package, run all notebooks in place and clean them"
	@echo "make docs       build the documentation site (needs Quarto)"
	@echo "make check-site  name the faults of the site that make docs built: links, images, contrast"
	@echo "make links      ask every address in the bibliography whether it is still there (needs a network)"
	@echo "make bench      run nine of the benchmarks again; then: tools/figures.py"
	@echo "make clean      remove .venv and everything that was built"

setup: $(STAMP)

$(STAMP): setup.py settings.ini constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "llm_course needs Python 3.11, 3.12 or 3.13; choose one with: make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/python tools/lab_settings.py
	@touch $@

lab: $(STAMP)
	cd nbs && ../$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/index.ipynb \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow" $(ARGS)

# What proves much and costs much: once a week, and before a release.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow $(ARGS)

OLDEST := .venv-oldest
test-oldest: $(STAMP)
	$(BIN)/python tools/oldest.py > build-oldest.txt
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c build-oldest.txt -e ".[dev]"
	$(OLDEST)/bin/python -m pytest $(or $(ARGS),tests/test_bad_input.py tests/test_exercises.py \
	  tests/test_cross_entropy.py tests/test_augmentation.py tests/test_checkpoints.py)

NEWEST := .venv-newest
test-newest:
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade -e ".[dev]"
	$(NEWEST)/bin/python -m pip list
	$(NEWEST)/bin/python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow" $(ARGS)

dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --no-isolation

notebooks: $(STAMP)
	$(BIN)/python tools/run_notebooks.py $(ARGS)
	$(BIN)/python tools/sidebar.py

# nbdev would download Quarto and install it as root where it is missing; so this looks first.
docs: quarto $(STAMP)
	$(BIN)/python tools/sidebar.py
	$(BIN)/python tools/api_pages.py
	PATH="$(CURDIR)/$(BIN):$$PATH"; nbdev_proc_nbs
	$(BIN)/python tools/site_pages.py _proc
	PATH="$(CURDIR)/$(BIN):$$PATH"; nbdev_docs
	$(BIN)/python tools/offline_site.py _docs

quarto:
	@PATH="$(CURDIR)/$(BIN):$$PATH"; command -v quarto >/dev/null || { echo "Quarto is missing: \
	conda install -c conda-forge quarto, or $(BIN)/pip install quarto-cli, or https://quarto.org/docs/get-started"; exit 1; }

check-site: $(STAMP)
	$(BIN)/python tools/check_site.py _docs
	$(BIN)/python tools/accessibility.py _docs

links: $(STAMP)
	$(BIN)/python tools/check_links.py

bench: $(STAMP)
	$(BIN)/python benchmarks/training_speed.py
	$(BIN)/python benchmarks/two_processes.py
	$(BIN)/python benchmarks/inference_speed.py
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/fine_tuning.py
	$(BIN)/python benchmarks/linear_cross_entropy.py
	$(BIN)/python benchmarks/near_duplicates.py
	$(BIN)/python benchmarks/augmentation.py
	$(BIN)/python benchmarks/adversarial_training.py --search
	$(BIN)/python benchmarks/adversarial_training.py

clean:
	rm -rf $(VENV) $(OLDEST) $(NEWEST) build-oldest.txt build dist *.egg-info _proc _docs nbs/api .pytest_cache .ruff_cache .hypothesis
