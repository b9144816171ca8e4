# install, test, quick, lint, docs, tutorials, demo, bench: each sets up what it needs, once.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
PLUGINS := $(sort $(wildcard plugins/*/pyproject.toml))
# what scans go through, once, without a training: for each small step (make test is what counts)
QUICK := api archive derived dicom dicom_real dicom_refusals dicom_units docs_site errors geometry intensity intervals manifest \
  metrics model nets nifti nifti_writing operators packaging picture recipe registry restore samplers volume
SCAN ?=
OUT ?= demo-output

.PHONY: install test quick test-pyside lint docs tutorials demo bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(PLUGINS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medldm needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[eval,demo,dev]'
	for plugin in $(PLUGINS); do $(BIN)/python -m pip install -q --no-deps -e $$(dirname $$plugin) || exit 1; done
	touch $(STAMP)

test: $(STAMP)
	@.ci/install-orthanc
	@.ci/install-display
	QT_API=pyqt6 PYTEST_QT_API=pyqt6 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

quick: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(QUICK:%=tests/test_%.py)

# the window's tests with the other binding; make test runs them with PyQt6
test-pyside: $(STAMP)
	@.ci/install-display
	QT_API=pyside6 PYTEST_QT_API=pyside6 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal plugins/napari-medldm

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	touch $(DOCS_STAMP)

# the site, in site/; a broken link or a page that is not in mkdocs.yml fails
docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# what the pages of docs/tutorials say, from top to bottom; brings their pictures up to date
tutorials: $(STAMP)
	OMP_NUM_THREADS=2 $(BIN)/python docs/tutorials/run.py

demo: $(STAMP)
	$(BIN)/medldm demo --out $(OUT) --overwrite $(if $(SCAN),--scan $(SCAN))

# all but those that compare models of one's own (--model is required)
bench: $(STAMP)
	@for file in benchmarks/[a-z]*.py; do \
	  grep -q '__main__' $$file || continue; \
	  ! grep -q 'required=True' $$file || continue; \
	  name=$$(basename $$file .py); echo "== $$name"; $(BIN)/python -m benchmarks.$$name --quick || exit 1; done

clean:
	rm -rf build dist site demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
