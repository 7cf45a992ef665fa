# The words that people and CI use alike. `make train` and `make test` do the set-up they need.
BIN := .venv/bin
JOB ?= jobs/digits.yaml

help:    ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

setup:   ## system libraries, .venv, locked packages; a second call installs nothing
	@tools/setup

train: setup   ## train the default job, or JOB=jobs/NAME.yaml, with ARGS="--set optim.epochs=15 --set name=short"
	$(BIN)/distrib run $(JOB) $(ARGS)

test: setup    ## all tests but the slow ones; ARGS go to pytest
	$(BIN)/pytest $(ARGS)

# pytest's 5: there is none
slow: setup    ## the slow tests: real data, minutes each
	$(BIN)/pytest -m slow $(ARGS) || [ $$? -eq 5 ]

image: setup   ## build the image on a stand-in base and run it hardened: root, buildah, podman, runc, debootstrap
	$(BIN)/pytest -m image $(ARGS)

lint: setup    ## format, lint and types, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

newer: ## the tests of data and training on Python 3.12 or 3.13, where one is here
	@tools/newer

check: lint test   ## what must hold before a commit

format: setup  ## write the format, and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup   ## measure: the step against other libraries, and more; ARGS="step --quick" chooses, ARGS=--help lists
	@tools/bench-setup || echo "make bench: goes on without them"
	$(BIN)/python -m benchmarks.bench $(ARGS)

picture: setup  ## draw the README's picture of the default run, which must be complete
	$(BIN)/python benchmarks/picture.py runs/digits docs/digits.svg

docs: setup    ## write docs/jobs.md, every field of a job, from the code
	$(BIN)/distrib fields --markdown > docs/jobs.md

lock: setup    ## resolve pyproject.toml again, keeping the pins that still fit; ARGS=--upgrade for new ones
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev --extra ffcv --extra server --extra hub --extra timm \
	  --custom-compile-command "make lock" $(ARGS) pyproject.toml -o requirements.lock

clean:   ## remove caches and build leavings; data, runs and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find distrib tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

.PHONY: help setup train test slow image lint check newer format bench picture docs lock clean
