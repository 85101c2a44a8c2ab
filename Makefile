# make demo    trains on real digits, evaluates, explains, writes report/index.html; sets up its own environment
# make test    the test suite, in the same environment with the test extras; make test-slow: the tests that take minutes
# make docs    the documentation, site/index.html; every warning is an error
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUNS ?= runs
REPORT ?= report

.PHONY: demo test test-slow lint docs shipped clean

demo: $(VENV)/installed
	$(BIN)/python train.py --config configs/mnist5k.py --workdir $(RUNS)/mnist5k
	$(BIN)/python eval.py --checkpoint $(RUNS)/mnist5k --images 16
	$(BIN)/python eval.py --checkpoint shapjax/shipped/mnist5k_baseline --output $(RUNS)/mnist5k_baseline --images 16 --methods none
	$(BIN)/python explain.py --checkpoint $(RUNS)/mnist5k --examples 8 --output $(REPORT)/explanations
	$(BIN)/python -m shapjax report --runs $(RUNS)/mnist5k,$(RUNS)/mnist5k_baseline --output $(REPORT)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto --dist loadfile --durations=10

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow -n auto --dist loadfile --durations=10

shipped: $(VENV)/installed
	$(BIN)/python train.py --config configs/mnist5k.py --workdir $(RUNS)/shipped
	$(BIN)/python train.py --config configs/mnist5k.py --config.shapley.weight=0 --workdir $(RUNS)/shipped_baseline
	for name in shipped shipped_baseline; do \
	  $(BIN)/python eval.py --checkpoint $(RUNS)/$$name --methods none; \
	  $(BIN)/python -m shapjax export --checkpoint $(RUNS)/$$name --format safetensors \
	    --output shapjax/shipped/mnist5k$${name#shipped}; \
	done

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .

docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) $(RUNS) $(REPORT) site

$(VENV)/installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements.txt requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
