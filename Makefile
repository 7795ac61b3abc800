# What a developer runs. Each target that needs something brings it: `make setup` is quick when nothing has changed.

.DEFAULT_GOAL := help
PIXORLY := .venv/bin/pixorly
PYTEST := .venv/bin/pytest
SOURCES := libs services tests/fixtures tests/chaos
WORKERS ?= 3

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## Bring uv, the Python packages, PostgreSQL, SeaweedFS and RabbitMQ; no root, nothing installed into the system
	@scripts/setup.sh

.PHONY: demo
demo: setup ## Start everything, make two images through the API, show what happened, stop again
	@$(PIXORLY) demo

.PHONY: up
up: setup ## Start the servers and services, and stay with them until Ctrl-C
	@$(PIXORLY) up

.PHONY: down
down: setup ## Stop what `pixorly up --detach` started
	@$(PIXORLY) down

.PHONY: test
test: setup ## Run all tests, on real servers of their own (WORKERS=3 side by side: many of them wait)
	@$(PYTEST) -n $(WORKERS) --dist loadfile -m "not long"

.PHONY: chaos
chaos: setup ## Run the faults, the long ones too: every process killed at every step, every part away
	@$(PYTEST) tests/chaos

.PHONY: trial
trial: setup ## Send 300 jobs within two minutes while processes are killed every few seconds (SEED=… for the same again)
	@$(PYTEST) -s tests/chaos/test_trial.py $(if $(SEED),--trial-seed $(SEED))

.PHONY: verify
verify: setup bench-packages ## Try 10,000 seeds of the simulator, then everything that takes long
	@SEEDS=10000 $(PYTEST) tests/simulation -n auto --maxprocesses 4
	@$(PYTEST) -m long

.PHONY: bench
bench: bench-packages ## Measure the main figures beside Celery, Dramatiq and the bare work, and write docs/performance.md (20 minutes)
	@.venv/bin/python bench/run.py $(BENCH)

.PHONY: bench-full
bench-full: bench-packages ## The same with large states and long runs, too (hours); BENCH=--resume goes on where it was interrupted
	@.venv/bin/python bench/run.py --full $(BENCH)

bench-%: bench-packages ## One part of it: bench-throughput, -latency, -in-flight, -ledger, -backlog, -history, -messages, -retries
	@.venv/bin/python bench/run.py $(BENCH) $*

.PHONY: bench-packages
bench-packages: setup
	@UV_SYSTEM_CERTS=1 UV_NO_PROGRESS=1 .venv/bin/uv pip install --quiet --python .venv/bin/python \
		--require-hashes -r bench/requirements.lock

.PHONY: test-unit
test-unit: setup ## Run the tests that need no servers
	@$(PYTEST) tests/unit tests/contracts tests/architecture

.PHONY: check
check: setup ## Lint, format, types, and who may import whom
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy $(SOURCES)
	@.venv/bin/lint-imports
	@.venv/bin/python scripts/generated.py --check

.PHONY: check-deploy
check-deploy: setup sbom ## Check docker-compose.yml and deploy/ without an engine (the first time brings half a gigabyte of tools)
	@scripts/deploy-tools.sh
	@.cache/deploy/bin/python scripts/check_deploy.py "$$(scripts/promtool.sh)"

.PHONY: image-check
image-check: setup ## Build the images and run the services from them, without an engine (needs root, buildah, debootstrap)
	@.venv/bin/python scripts/image_check.py

.PHONY: licences
licences: setup ## Write docs/licences.md: what the images hold of others, and under which licence
	@.venv/bin/python scripts/supply_chain.py licences

.PHONY: sbom
sbom: setup ## Write a bill of materials (CycloneDX) for each image to dist/sbom
	@.venv/bin/python scripts/supply_chain.py sbom

.PHONY: audit
audit: setup ## Look for known weaknesses in what the images hold, as far as the package index tells of them
	@scripts/deploy-tools.sh
	@.venv/bin/python scripts/supply_chain.py audit

.PHONY: generated
generated: setup ## Write what is generated from the code
	@.venv/bin/python scripts/generated.py

.PHONY: lock
lock: setup ## Write the locks anew after a change of dependencies (UPGRADE=1 takes newer versions, too)
	@scripts/lock.sh

.PHONY: bench-create
bench-create: setup ## Measure how quickly jobs are taken at 50 a second while the whole system works
	@.venv/bin/python bench/create.py

.PHONY: bench-uploads
bench-uploads: setup ## Measure how many images the uploader stores in a second, beside a bare script
	@.venv/bin/python bench/uploads.py

.PHONY: clean
clean: ## Stop the stack and remove what was made here: its data, images, the virtual environment, caches
	@if [ -x $(PIXORLY) ]; then $(PIXORLY) down; fi
	rm -rf .pixorly .venv .cache out dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find libs services tests bench scripts -name __pycache__ -type d -prune -exec rm -rf {} +
