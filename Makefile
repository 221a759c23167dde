# make train: set everything up, train the default recipe on the embedded MNIST, audit, report.
# make test:  set everything up, run every test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test check bench clean

train: $(VENV)/installed
	@$(BIN)/featherweight train

test: $(VENV)/installed-dev
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder  # many wait; a file's tests share what they made

check: $(VENV)/installed-dev
	$(BIN)/ruff check src tests
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/featherweight bench train

clean:
	rm -rf $(VENV)

# What pip says is kept in a file, and shown where it fails.
install = $(BIN)/pip install --disable-pip-version-check --no-input -c constraints.txt -e '.[$(1)]' \
	> $(VENV)/pip.log 2>&1 || { cat $(VENV)/pip.log; exit 1; }

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "setting up $(VENV): PyTorch and what exporting, reading and serving need, a minute or more, once"
	@$(PYTHON) -m venv $(VENV)
	@$(call install,train$(comma)export$(comma)serve)
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "setting up $(VENV): what the tests need, a minute or more, once"
	@$(call install,dev$(comma)train$(comma)export$(comma)serve$(comma)ray$(comma)search)
	@touch $@

comma := ,
