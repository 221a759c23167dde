# make train: set everything up, train the default recipe on the embedded MNIST, audit, report.
# make test:  set everything up, run every test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test check bench clean

train: $(VENV)/installed
	$(BIN)/featherweight train

test: $(VENV)/installed-dev
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder  # many wait; a file's tests share what they made

check: $(VENV)/installed-dev
	$(BIN)/ruff check src tests
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/featherweight bench train

clean:
	rm -rf $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,export,serve,ray,search]'
	touch $@
