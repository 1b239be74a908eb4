# Needs make and Python 3.11 or newer; everything else is installed into .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help install up demo test chaos bench bench-scale lint

PYTHON ?= python3
BIN := .venv/bin
# Settings as in production, with servers that nobody asks.
PRODUCTION = key=$$($(BIN)/python manage.py doctor --new-key) && export SECRET_KEY="$$key$$key" ENCRYPTION_KEYS="$$key" \
	DATABASE_URL=postgresql://nobody@127.0.0.1:1/none BROKER_URL=redis://127.0.0.1:1 PUBLIC_URL=https://mantri.example.com

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

install: ## put everything into .venv; instant when it is up to date
	@PYTHON="$(PYTHON)" sh .ci/install

up: install ## run the product until Ctrl-C; PORT=8000
	@exec $(BIN)/python manage.py up $(if $(PORT),--port "$(PORT)")

demo: install ## load real data, move it, compare both sides, then serve; ONCE=1 exits after the comparison
	@exec $(BIN)/python manage.py demo $(if $(PORT),--port "$(PORT)") $(if $(filter-out 0,$(ONCE)),--once)

test: install ## run all tests on servers of their own; ARGS='-k name'
	@sh .ci/browser
	@sh .ci/databases
	@exec $(BIN)/python -m pytest -n 3 $(ARGS)

chaos: install ## strike everything, lose nothing; KILLS=500 MINUTES=25, ADD=1 adds to the results before, ARGS='points --seed 7'
	@sh .ci/chaos
	@exec $(BIN)/python -m tests.chaos $(if $(KILLS),--kills "$(KILLS)") $(if $(MINUTES),--minutes "$(MINUTES)") \
		$(if $(filter-out 0,$(ADD)),--add) $(ARGS)

bench: install ## measure speed and memory into bench/results
	@exec $(BIN)/python -m bench $(ARGS)

bench-scale: install ## measure how costs grow up to 10,000 pipelines and 1,000,000 runs
	@exec $(BIN)/python -m bench scale

lint: install ## check style, types, imports and migrations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	@$(PRODUCTION) && $(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	@$(PRODUCTION) && $(BIN)/python manage.py check --deploy --fail-level WARNING
