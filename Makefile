# The verbs of the project. `make run` and `make test` set everything up by themselves.
.PHONY: setup run key keys revoke test check goldens bench requirements

PORT ?= 7071
DATA ?= .data
WAITING ?= 10000
PAUSED ?= 3000
PYTHON := .venv/bin/python
# On the records of `make run` with the same DATA
KEYS = LOCAL_HOST_DATA="$(abspath $(DATA))" $(PYTHON) -m services.api_keys

setup:            ## find Python 3.13, make .venv, install the pinned requirements
	@scripts/setup

run: setup        ## start the app on the local host: make run PORT=8080 DATA=/somewhere
	@exec $(PYTHON) -m local_host start --port $(PORT) --data $(DATA)

key: setup        ## make an API key, for AUTH=keys: make key NAME=alice PERMISSIONS=execution:read,execution:cancel
	@$(KEYS) make "$(NAME)" "$(PERMISSIONS)"

keys: setup       ## list the API keys
	@$(KEYS) list

revoke: setup     ## revoke all API keys of a name, or the one with an id: make revoke NAME=alice
	@$(KEYS) revoke "$(NAME)"

test: setup       ## all tests
	$(PYTHON) -m pytest

check: setup      ## style, types, layers
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy .
	.venv/bin/lint-imports

goldens: setup    ## record the histories that the replay tests hold the orchestrators to
	$(PYTHON) -m tests.orchestrators.record_goldens

bench: setup      ## measure, and print one table: make bench WAITING=100000 PAUSED=100000
	$(PYTHON) -m bench --waiting $(WAITING) --paused $(PAUSED)

requirements:     ## pin the newest versions that requirements*.in allow
	.venv/bin/uv pip compile --quiet --no-header --no-emit-index-url --python-version 3.13 --upgrade requirements.in -o requirements.txt
	.venv/bin/uv pip compile --quiet --no-header --no-emit-index-url --python-version 3.13 --upgrade requirements-dev.in -o requirements-dev.txt
