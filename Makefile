# make train:  set everything up, train the default recipe on MNIST, audit, report.
# make quick:  the quick tests, in under a minute.
# make test:   every test.
# make check:  lint, format and types.
# make format: format the code, and mend what ruff can mend.
# make docs:   the documentation site, into build/site.
# make bench:  the speed of training on this machine.
# make models: the pretrained networks of the package, from results/ and runs/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train quick test check format docs bench models clean

train: $(VENV)/installed
	@$(BIN)/featherweight train

quick: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow and not ray and not browser and not terminal"

test: $(VENV)/installed-dev
	$(BIN)/pytest -rs -n 3 --dist loadfile --no-loadscope-reorder  # many wait; a file's tests share what they made

check: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/installed-dev
	$(BIN)/python tools/make_cli.py
	$(BIN)/python tools/make_boards.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/installed
	$(BIN)/featherweight bench train

models: $(VENV)/installed
	$(BIN)/python tools/make_models.py

clean:
	rm -rf $(VENV) build dist

# The output of pip is kept in a file, and shown if pip fails.
install = $(BIN)/pip install --disable-pip-version-check --no-input -c constraints.txt -e '.[$(1)]' -e packages/mnist \
	> $(VENV)/pip.log 2>&1 || { cat $(VENV)/pip.log; exit 1; }

$(VENV)/installed: pyproject.toml constraints.txt packages/mnist/pyproject.toml
	@echo "setting up $(VENV): PyTorch and what exporting, reading and serving need (a minute or more, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(call install,train$(comma)export$(comma)serve)
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "setting up $(VENV): what the tests need (a minute or more, once)"
	@$(call install,dev$(comma)train$(comma)export$(comma)serve$(comma)ray$(comma)search)
	@touch $@

comma := ,
