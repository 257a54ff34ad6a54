# Thin aliases; everything real is in pyproject.toml, .ci/run and the ganvas command.
PYTHON ?= python3
BIN = .venv/bin

# Byte code is kept, also where the environment says otherwise: without it each process of the tests compiles all of it.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-slow coverage check clean

demo: .venv/core
	$(BIN)/ganvas train digits --minutes 0.9 --out demo/run
	$(BIN)/ganvas sample demo/run --n 100 --grid --out demo/samples.png
	$(BIN)/ganvas video demo/run --out demo
	@echo "grid   demo/samples.png"
	@echo "film   demo/training.gif"
	@echo "model  demo/run/model"

test: .venv/ready
	$(BIN)/python -m pytest

test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow --timeout 3600

coverage: .venv/ready
	$(BIN)/python -m pytest --cov=ganvas --cov-report=term-missing:skip-covered

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/ty check
	$(BIN)/lint-imports

.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/ready: .venv/core
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,video,track,medical,judge,export,studio,hub,c2pa,docs,notebook]'
	touch $@

clean:
	rm -rf .venv demo
