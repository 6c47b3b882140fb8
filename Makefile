# Two commands for newcomers: `make demo` and `make test`. They need Python 3.11 or newer, and make.

PYTHON ?= $(firstword $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p"; done))
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint requirements.lock
SOAK_ROUNDS ?= 200
PYTEST_ARGS ?= -n 2 --dist loadfile

.PHONY: help demo test soak check bench bench-broker bench-chaos bench-recorder fuzz lock wheel clean

help:
	@echo "make demo    install into $(VENV), run a small session, show and verify its recording"
	@echo "make test    run all tests (PYTEST_ARGS='-k shutdown' chooses)"
	@echo "make fuzz    a million damaged packets at the embedded broker (PACKETS=… says how many)"
	@echo "make soak    hours of faults (SOAK_ROUNDS=200 of each)"
	@echo "make check   style, types and import floors"
	@echo "make bench   measure against peers"
	@echo "make bench-chaos   five minutes of kills, stops and cuts (BENCH_ARGS='--minutes 1 --seed 2' chooses)"
	@echo "make bench-broker   measure the brokers only (BENCH_ARGS='--case QoS' chooses)"
	@echo "make bench-recorder   measure the recorder only (BENCH_ARGS='--case rows --rows 1000000' chooses)"
	@echo "make wheel   build the wheel into dist/"
	@echo "make lock    renew requirements.lock from pyproject.toml"
	@echo "make clean   remove what these made, recordings excepted"

demo: $(VENV)/.installed
	$(BIN)/ether demo

test: $(VENV)/.test
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v mosquitto >/dev/null || { \
		echo "*** Mosquitto is not installed: the tests that need it are SKIPPED."; \
		echo "*** To run them: apt install mosquitto  (brew install mosquitto)"; }
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# A million damaged packets at the embedded broker; the tests send 20,000 of them.
fuzz: $(VENV)/.test
	ETHER_TEST_FUZZ_PACKETS=$${PACKETS:-1000000} $(BIN)/python -m pytest -s tests/contract/test_embedded_broker_fuzz.py -k damaged

# Only mosquitto, strace and h5dump must be there; figures go to build/soak.jsonl.
soak: $(VENV)/.test
	mkdir -p build
	SOAK_ROUNDS=$(SOAK_ROUNDS) nice $(BIN)/python -m pytest -v tests/system/test_faults_*.py tests/system/test_runs.py tests/system/test_nats.py

check: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typing
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench-broker: $(VENV)/.bench
	$(BIN)/python benchmarks/broker.py $(BENCH_ARGS)

bench-recorder: $(VENV)/.bench
	$(BIN)/python benchmarks/recorder.py $(BENCH_ARGS)

bench-chaos: $(VENV)/.bench
	$(BIN)/python benchmarks/chaos.py $(BENCH_ARGS)

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/supervision.py
	$(BIN)/python benchmarks/messages.py $(BENCH_ARGS)
	$(BIN)/python benchmarks/recorder.py
	$(BIN)/python benchmarks/broker.py --repeats 1

wheel: $(VENV)/.build
	$(BIN)/python -m build --wheel --outdir dist .

# The newest versions that pyproject.toml allows, with all groups, as `pip freeze` tells them.
lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade pip
	build/lock/bin/python -m pip install --quiet -e '.[data,export,plot,metrics,cluster]' --group check --group bench --group build
	{ echo "# What is tested together. Constraints, not requirements: pip install -c requirements.lock -e ."; \
	  echo "# Made by: make lock"; \
	  build/lock/bin/python -m pip freeze --exclude-editable; } > requirements.lock
	rm -rf build/lock

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# Each stamp is younger than what it was installed from, so a second run installs nothing.
$(VENV)/.installed: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "ether needs Python 3.11 or newer with venv (Debian: python3-venv); or set PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(VENV)/.test $(VENV)/.check $(VENV)/.bench $(VENV)/.build: $(VENV)/.%: $(VENV)/.installed tests/hardware/requirements.txt
	$(PIP) --upgrade 'pip>=25.1'
	$(PIP) --group $*
	$(PIP) --no-deps --require-hashes -r tests/hardware/requirements.txt
	@touch $@
