# make demo: a fresh checkout to a page of pictures. make test: to passing tests. make lint: style.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The lower bound of pyproject.toml. Another may be tried: make test-lowest LOWEST_TORCH=2.13.0
LOWEST_TORCH ?= 2.7.0
LOWEST_TESTS := tests/test_golden.py tests/test_released.py tests/test_registry.py \
	tests/test_cli.py tests/test_checkpoint.py tests/files tests/results

.PHONY: install demo test test-lowest coverage lint format docs clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	$(BIN)/flexvar demo

test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Which lines no test runs: a list of files, and a page of each in htmlcov/.
coverage: install
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term --cov-report=html

# The lowest versions that pyproject.toml allows, in an environment of their own.
test-lowest: .venv-lowest/.installed
	.venv-lowest/bin/python -m pytest $(LOWEST_TESTS)

.venv-lowest/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --upgrade pip
	.venv-lowest/bin/pip install --quiet -c constraints-lowest.txt "torch==$(LOWEST_TORCH)" \
		-e ".[train,data,lora,bench,web]" httpx pytest hypothesis
	touch $@

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install
	$(BIN)/pip install --quiet -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --site-dir site

clean:
	rm -rf $(VENV) .venv-lowest build dist *.egg-info plugins/*.egg-info .pytest_cache .mypy_cache .ruff_cache htmlcov .coverage*
