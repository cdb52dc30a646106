# Thin: every target is one command of `okuru` or of one tool. `make help` lists them.

PYTHON ?= python3
GIFTS ?= 20
FAILURE_RATE ?= 0.2

VENV := .venv
BIN := $(VENV)/bin
SQS_VENV := $(VENV)/emulators/sqs
BENCH_VENV := $(VENV)/emulators/bench
BENCH_NODE := $(BENCH_VENV)/installed
BENCH_READY := $(BENCH_VENV)/ready
# In parallel; PYTEST_ARGS takes more, such as -k name.
PYTEST := $(BIN)/pytest -n auto $(PYTEST_ARGS)
INFRA_VENV := $(VENV)/emulators/infra
INFRA_READY := $(INFRA_VENV)/ready
READY := $(VENV)/ready
UNFINISHED := $(VENV)/unfinished

# The addresses of the stack that `make run` has started.
WITH_STACK = env=$${OKURU_HOME:-.local}/env; test -r $$env || { echo "No stack is running: make run"; exit 1; }; . $$env;

COMPOSE := docker compose --env-file .env.docker

# OKURU_HOME (default .local) and PORT (default 8080), given to make, reach the commands by
# themselves: make passes on what stands in its command line or its environment.

.DEFAULT_GOAL := help
.PHONY: help setup demo drill run send-task send-notification send-data-sync test test-unit test-integration infra-test test-coverage chaos bench lint format \
	migrate-up migrate-down migrate-create migrate-check reset-db requirements clean \
	docker-build docker-up docker-down docker-logs dev-up dev-down logs

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' Makefile
	@echo "  Variables: PORT, OKURU_HOME, GIFTS, FAILURE_RATE, PYTHON, ENV, TF_STATE_BUCKET"

setup: $(READY) ## Make the virtual environments; the other targets do it by themselves
	@echo "Ready: make demo, make run, make test"

demo: $(READY) ## Send GIFTS gifts through the whole stack, FAILURE_RATE of the calls failing
	@$(BIN)/okuru demo --gifts $(GIFTS) --failure-rate $(FAILURE_RATE)

drill: $(READY) ## Play a failure and mend it: SCENARIO=worker-down, queue-backlog, db-down, poison, provider-down
	@$(if $(SCENARIO),,$(error which? make drill SCENARIO=worker-down))$(BIN)/okuru drill "$$SCENARIO"

run: $(READY) ## Run the whole stack on PORT until Ctrl-C
	@$(BIN)/okuru run

send-task: $(READY) ## Put a task message on the inbox of the running stack (ARGS=--help)
	@$(WITH_STACK) $(BIN)/okuru messages send task $(ARGS)

send-notification: $(READY) ## Put a notification message there
	@$(WITH_STACK) $(BIN)/okuru messages send notification $(ARGS)

send-data-sync: $(READY) ## Put a data-sync message there
	@$(WITH_STACK) $(BIN)/okuru messages send data-sync $(ARGS)

test: $(READY) $(INFRA_READY) ## Run all tests, on the same real parts
	@$(PYTEST) tests

test-unit: $(READY) ## Run the tests that need no server
	@$(PYTEST) tests/unit

test-integration: $(READY) ## Run the tests on PostgreSQL and SQS
	@$(PYTEST) tests/integration

infra-test: $(READY) $(INFRA_READY) ## Check terraform/, the container, the workflows and the migrations
	@$(PYTEST) tests/infra

test-coverage: $(READY) $(INFRA_READY) ## Run all tests and require the coverage of pyproject.toml
	@$(PYTEST) --cov --cov-report=term tests

chaos: $(READY) ## Break everything for ten minutes, and see what is sent once (CHAOS_ARGS=--help)
	@$(BIN)/python -m tests.acceptance.chaos $(CHAOS_ARGS)

bench: $(BENCH_READY) ## Measure the engine and the API beside others (BENCH_ARGS=--help)
	@$(BIN)/python -m tests.load $(BENCH_ARGS)

lint: $(READY) ## Check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Put the code into the style of the house
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

migrate-up: $(READY) ## Upgrade the database (DATABASE_URL, or else the local one)
	@$(BIN)/okuru migrate up

migrate-down: $(READY) ## Downgrade the database by one step
	@$(BIN)/okuru migrate down

migrate-create: $(READY) ## Write a migration from the models: make migrate-create name="add x"
	@$(BIN)/okuru migrate create "$(or $(name),$(error say what it does: make migrate-create name="add x"))"

migrate-check: $(READY) ## Fail if the models and the migrations differ
	@$(BIN)/okuru migrate check

reset-db: $(READY) ## Delete the local database and queues
	@$(BIN)/okuru reset-db

# ENV: dev or prod. TF_STATE_BUCKET: where the state lies. docs/IMPORT_NOTES.md: before the first time.
# A plan holds what the state holds, a secret included (docs/adr/0018): for its owner, and gone when it is done.
ENV ?= dev
export ENV
# A folder an environment: one that was not initialised fails, and never meets another's state.
TERRAFORM = TF_DATA_DIR=.terraform/$(ENV) terraform -chdir=terraform
TF_VARS = -var-file=environments/$(ENV).tfvars
.PHONY: tf-init tf-plan tf-apply tf-output tf-destroy env-is-a-name

# `./prod` would be prod by another name.
env-is-a-name:
	@case "$$ENV" in "" | *[!a-z0-9-]*) echo "ENV is the name of an environment: dev, or prod"; exit 1;; esac

tf-init: env-is-a-name has-terraform ## Connect terraform/ to the state of ENV in TF_STATE_BUCKET
	@test -f terraform/environments/$(ENV).tfvars || { echo "No terraform/environments/$(ENV).tfvars: copy the .example beside it (ENV is dev or prod)"; exit 1; }
	$(TERRAFORM) init -reconfigure -backend-config=key=okuru/$(ENV).tfstate \
		-backend-config=bucket=$(or $(TF_STATE_BUCKET),$(error the bucket of the states: make tf-init TF_STATE_BUCKET=name))

tf-plan: env-is-a-name has-terraform ## Say what would change in ENV, and keep it for tf-apply
	@test -d terraform/.terraform/$(ENV) || { echo "First: make tf-init ENV=$(ENV) TF_STATE_BUCKET=name"; exit 1; }
	@rm -f terraform/$(ENV).tfplan
	umask 077 && $(TERRAFORM) plan $(TF_VARS) -out=$(ENV).tfplan

tf-apply: env-is-a-name has-terraform ## Do what the last tf-plan of ENV has said
	$(TERRAFORM) apply $(ENV).tfplan
	@rm -f terraform/$(ENV).tfplan

tf-output: env-is-a-name has-terraform ## Show what ENV's outputs are: addresses, what GitHub needs, an operator's commands
	@$(TERRAFORM) output $(ARGS)

tf-destroy: env-is-a-name has-terraform ## Take all of ENV away (Terraform asks first); never prod
	@test "$(ENV)" != prod || { echo "prod is not destroyed by a command: docs/IMPORT_NOTES.md"; exit 1; }
	$(TERRAFORM) destroy $(TF_VARS)

requirements: $(READY) $(BENCH_NODE) ## Compile requirements/*.in to *.txt again
	@for name in app dev sqs-emulator bench infra; do (cd requirements && \
		UV_CUSTOM_COMPILE_COMMAND="make requirements" ../$(BIN)/uv pip compile --quiet --universal \
		--python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url $$name.in -o $$name.txt) || exit; done
	@awk '/^[a-z]/ { wanted = /^uv==/ } wanted && !/# via/' requirements/dev.txt > requirements/uv.txt
	@cd requirements/bench && $(BENCH_NPM) install --package-lock-only --omit-lockfile-registry-resolved

clean: ## Delete the virtual environments, all local data and all caches
	@if [ -x $(BIN)/okuru ]; then $(BIN)/okuru reset-db --yes; fi
	rm -rf $(VENV) .local build htmlcov .coverage .coverage.* *.egg-info \
		.pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Programs that somebody has to install; no other target needs them.
has-%:
	@command -v $* > /dev/null || { echo "This needs $*, which is not installed"; exit 1; }

.env.docker:
	@umask 077 && $(PYTHON) -c 'import secrets; print("POSTGRES_PASSWORD=" + secrets.token_hex(24))' > $@

docker-build: has-docker ## Build the image okuru:local (these need Docker; nothing else does)
	docker build --tag okuru:local --build-arg VERSION=$$(git describe --always --dirty) \
		--build-arg REVISION=$$(git rev-parse HEAD) .

docker-up: docker-build .env.docker ## Run everything in containers, on PORT
	$(COMPOSE) up --build --detach

docker-down: has-docker .env.docker ## Stop them (ARGS=--volumes deletes the data, too)
	$(COMPOSE) down $(ARGS)

docker-logs: has-docker .env.docker ## Follow their logs
	$(COMPOSE) logs --follow $(ARGS)

dev-up: docker-up ## The same as docker-up
dev-down: docker-down ## The same as docker-down
logs: docker-logs ## The same as docker-logs

UV_INSTALL := $(BIN)/uv pip install --quiet --require-hashes --python
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PIP_INSTALL := install --require-hashes
APP := -r requirements/app.txt -r requirements/dev.txt
SQS := -r requirements/sqs-emulator.txt

# uv takes seconds where pip takes a minute; where uv cannot work, pip does the same.
# What an interruption leaves is not repaired but made anew.
$(READY): $(filter-out requirements/bench.txt requirements/infra.txt,$(wildcard requirements/*.txt)) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Okuru needs Python 3.11 or later, and $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@echo "Setting up $(VENV)..."
	@if [ -e $(UNFINISHED) ] || ! $(PIP) --version > /dev/null 2>&1; then \
		$(PYTHON) -m venv --clear $(VENV); fi
	@touch $(UNFINISHED)
	@$(PIP) $(PIP_INSTALL) -r requirements/uv.txt || echo "Without uv: this takes a minute."
	@$(UV_INSTALL) $(BIN)/python $(APP) 2> $(VENV)/uv.log || \
		{ echo "uv did not work ($(VENV)/uv.log says why); pip takes a minute."; $(PIP) $(PIP_INSTALL) $(APP); }
	@$(PIP) --quiet install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m venv --clear --without-pip $(SQS_VENV)
	@$(UV_INSTALL) $(SQS_VENV)/bin/python $(SQS) 2> $(VENV)/uv.log || \
		$(PIP) --python $(SQS_VENV)/bin/python $(PIP_INSTALL) $(SQS)
	@rm $(UNFINISHED)
	@touch $@

# Not part of `make setup` either. Without them their tests are skipped, and say so.
$(INFRA_READY): requirements/infra.txt | $(READY)
	@echo "Setting up $(INFRA_VENV)..."
	@$(BIN)/python -m venv --clear --without-pip $(INFRA_VENV)
	@$(UV_INSTALL) $(INFRA_VENV)/bin/python -r requirements/infra.txt 2> $(VENV)/uv.log || \
		$(PIP) --python $(INFRA_VENV)/bin/python $(PIP_INSTALL) -r requirements/infra.txt && \
		touch $@ || echo "The linters of infrastructure cannot be installed: their tests are skipped."

# Not part of `make setup`: only `make bench` needs it.
BENCH := -r requirements/bench.txt
BENCH_NPM := PATH="$(CURDIR)/$(BENCH_VENV)/bin:$$PATH" npm --ignore-scripts --no-audit --no-fund --loglevel=error

$(BENCH_NODE): requirements/bench.txt | $(READY)
	@echo "Setting up $(BENCH_VENV)..."
	@$(BIN)/python -m venv --clear --without-pip $(BENCH_VENV)
	@$(UV_INSTALL) $(BENCH_VENV)/bin/python $(BENCH) 2> $(VENV)/uv.log || \
		$(PIP) --python $(BENCH_VENV)/bin/python $(PIP_INSTALL) $(BENCH)
	@touch $@

$(BENCH_READY): $(BENCH_NODE) $(wildcard requirements/bench/*.json)
	@cp requirements/bench/*.json $(BENCH_VENV)
	@cd $(BENCH_VENV) && $(BENCH_NPM) ci
	@touch $@
