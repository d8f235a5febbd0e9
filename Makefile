# The verbs of the project. `make run` and `make test` set everything up by themselves.
.PHONY: setup run test check goldens bench requirements

PORT ?= 7071
DATA ?= .data
WAITING ?= 10000
PYTHON := .venv/bin/python

setup:            ## find Python 3.13, make .venv, install the pinned requirements
	@scripts/setup

run: setup        ## start the app on the local host: make run PORT=8080 DATA=/somewhere
	@exec $(PYTHON) -m local_host start --port $(PORT) --data $(DATA)

test: setup       ## all tests
	$(PYTHON) -m pytest

check: setup      ## style, types, layers
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy .
	.venv/bin/lint-imports

goldens: setup    ## record the histories that the replay tests hold the orchestrators to
	$(PYTHON) -m tests.orchestrators.record_goldens

bench: setup      ## measure, and print one table: make bench WAITING=100000
	$(PYTHON) -m bench --waiting $(WAITING)

requirements:     ## pin the newest versions that requirements*.in allow
	.venv/bin/uv pip compile --quiet --no-header --no-emit-index-url --python-version 3.13 --upgrade requirements.in -o requirements.txt
	.venv/bin/uv pip compile --quiet --no-header --no-emit-index-url --python-version 3.13 --upgrade requirements-dev.in -o requirements-dev.txt
