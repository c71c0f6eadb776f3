# The commands of a newcomer and of CI. `make help` lists them.
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# TensorFlow's own start-up messages would drown ours.
export TF_CPP_MIN_LOG_LEVEL := 2

# The demo: where it goes and how long it trains (see `make demo` in the README).
DEMO := demo
DEMO_STAGE1_STEPS := 1200
DEMO_STAGE2_STEPS := 1200
DEMO_SAMPLE :=

.PHONY: help install demo test lint bench clean
help:
	@echo "make install   a virtual environment in $(VENV) with the pinned requirements"
	@echo "make demo      the whole job on a small drawn world: prepare, train, search"
	@echo "make test      all tests"
	@echo "make lint      style and static checks"
	@echo "make bench     speed and memory, with ratios to naive versions"

install: $(STAMP)
$(STAMP): requirements.txt tests/requirements.txt
	@python=""; \
	for candidate in python3.11 python3.10 python3.9 python3 python; do \
	    if $$candidate -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] < (3, 12))' 2>/dev/null; \
	    then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "Scene Designer needs Python 3.9, 3.10 or 3.11 (TensorFlow 2.15 has no wheels for others); none was found on PATH. Install one, e.g. 'apt-get install python3.11 python3.11-venv', and run make again." >&2; \
	    exit 1; \
	fi; \
	echo "installing into $(VENV) with $$python"; \
	$$python -m venv $(VENV) && \
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
	@touch $@

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

test: $(STAMP)
	$(PY) -m pytest

bench: $(STAMP)
	$(PY) -m tests.benchmarks

clean:
	rm -rf $(VENV) demo bench

demo: $(STAMP)
	@echo TODO
