# Two commands: `make demo` trains, evaluates and draws on the CPU; `make test` lints and tests.
# Each sets up its own virtual environment. The README has every step as a plain command.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
OUTPUT ?= output/demo
# Threads wait for each other a moment, then sleep: fast alone, harmless where others compute too.
export GOMP_SPINCOUNT ?= 30000

.PHONY: demo docs test test-all test-processors fuzz mutations soak lint format clean

$(VENV)/ready: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -c constraints.txt -e '.[headless,development]'
	touch $@

demo: $(VENV)/ready
	$(PY) tools/train_net.py --config-file configs/synthetic_night.yaml --overwrite \
	    OUTPUT_DIR $(OUTPUT)
	$(PY) tools/demo.py --config-file $(OUTPUT)/config.yaml --dataset synthetic_night_val \
	    --limit 8 --output $(OUTPUT)/predictions MODEL.WEIGHTS $(OUTPUT)/model_final.pth

# A site of docs/ and the docstrings, in build/site. The sources are read without being imported,
# so the environment needs the extra `docs` of setup.py alone.
docs: $(VENV)-docs/ready
	$(VENV)-docs/bin/python -m mkdocs build --strict

$(VENV)-docs/ready: setup.py
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet 'mkdocs-material>=9.5' 'mkdocstrings[python]>=0.26'
	touch $@

lint: $(VENV)/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -m 'not slow'

test-all: lint
	OMP_NUM_THREADS=2 $(PY) -m pytest

# As on processors without AVX-512 or AMX, with two threads, and by every Python that is here.
test-processors: lint
	$(PY) tests/processors.py

# A training under faults for MINUTES: killed, suspended, out of disk; then one without, for its weights.
MINUTES ?= 120
soak: $(VENV)/ready
	OMP_NUM_THREADS=1 $(PY) tests/soak.py $(MINUTES)

# Thousands of spoiled files, each of which has to be read or refused (docs/reliability.md).
N ?= 12000
SEED ?= 0
fuzz: $(VENV)/ready
	OMP_NUM_THREADS=1 $(PY) tests/fuzz/run.py --number $(N) --seed $(SEED)

# Each mend of docs/reliability.md undone in a copy: its tests have to fail. ONLY: words of findings.
ONLY ?=
mutations: $(VENV)/ready
	OMP_NUM_THREADS=1 $(PY) tests/mutations.py $(ONLY)

format: $(VENV)/ready
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf $(VENV) $(VENV)-docs output build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Detectron2's own tests on the embedded engine: make test-upstream DETECTRON2=<clone of its repository>
.PHONY: test-upstream
test-upstream: $(VENV)/ready
	SMMCL_ENGINE=builtin $(PY) tests/d2/upstream_suite.py $(DETECTRON2)
