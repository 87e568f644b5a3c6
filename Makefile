# Two commands: `make demo` shows replication at work, `make test` runs the test suite. Neither needs anything but Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python

.PHONY: help demo test test-triggers test-all-by-triggers chaos bench lint types imports migrations docs venv-demo venv-dev clean

help:
	@echo "make demo        start a master and two replicas on real data (ONCE=1: verify and exit)"
	@echo "make test        run the whole test suite; missing services are skipped, or fail with CI=true"
	@echo "make test-triggers    run what decides about captured changes, captured by triggers; a part of CI"
	@echo "make test-all-by-triggers    the same with every test there is"
	@echo "make bench       measure this package beside its peer, on RabbitMQ and PostgreSQL (BENCH=--small: a few rows)"
	@echo "make chaos       break the system in every known way and compare all with a ledger (an hour; ARGS=--help)"
	@echo "make lint types imports migrations docs    the other checks"

# An environment is made again when what it is made from changes; the stamp tells what is in it.
$(VENV)/.installed-%: pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

venv-demo: $(VENV)/.installed-demo
venv-dev: $(VENV)/.installed-dev

demo: $(VENV)/.installed-demo
	$(RUN) -m example_project.demo $(if $(ONCE),--once)

# Two processes share the tests, see tests/lanes.py; ARGS="-n 0" runs them one after the other.
PYTEST := $(RUN) -m pytest -n 2

test: $(VENV)/.installed-test
	$(PYTEST) $(ARGS)

# What decides about captured changes, once more with triggers in place of the ORM. The rest of the suite has no part in
# the capture, or (tests/triggers) captures by triggers in any case.
CAPTURED := tests/test_flow.py tests/test_bulk.py tests/test_without_outbox.py tests/test_healing.py \
	tests/test_many_to_many.py::TestChanges tests/test_many_to_many.py::TestTransactions \
	'tests/invariants/test_links.py::test_links_become_equal_whatever_happens_on_the_way[postgresql]' \
	tests/invariants/test_links.py::test_links_that_are_changed_at_the_same_time \
	tests/fidelity/test_keys.py tests/fidelity/test_previous.py tests/parity/test_masters.py \
	tests/invariants/test_master_races.py \
	tests/invariants/test_machine.py::test_replica_becomes_equal_whatever_happens_on_the_way \
	'tests/invariants/test_machine.py::test_search_finds_what_is_broken[restart_the_revision-only the end]' \
	'tests/invariants/test_machine.py::test_search_finds_what_is_broken[do_not_capture_updates-only the end]' \
	'tests/chaos/test_chaos.py::test_nothing_is_lost[master killed after the commit, before dispatch]' \
	'tests/chaos/test_chaos.py::test_nothing_is_lost[connections of the databases terminated]' \
	tests/integration/test_healing.py::test_the_master_is_restored_from_a_backup
test-triggers: $(VENV)/.installed-test
	CQRS_TEST_CAPTURE=trigger CQRS_TEST_EXAMPLES=$${CQRS_TEST_EXAMPLES:-0.2} $(PYTEST) $(CAPTURED) $(ARGS)

test-all-by-triggers: $(VENV)/.installed-test
	CQRS_TEST_CAPTURE=trigger $(PYTEST) $(ARGS)

# Each library in an environment of its own, on the same Django: the newest that the peer takes.
BENCH_VENV := .venv-bench
PEER_VENV := .venv-peer
BENCH_DJANGO := Django>=5.2,<6
$(BENCH_VENV)/.installed: Makefile pyproject.toml
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]' '$(BENCH_DJANGO)'
	touch $@

$(PEER_VENV)/.installed: Makefile
	test -x $(PEER_VENV)/bin/python || $(PYTHON) -m venv $(PEER_VENV)
	$(PEER_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		'django-cqrs==3.1.0' '$(BENCH_DJANGO)' 'psycopg[binary]>=3.2' 'amqp>=5.2'
	touch $@

bench: $(BENCH_VENV)/.installed $(PEER_VENV)/.installed
	$(BENCH_VENV)/bin/python -m benchmarks --peer-python $(PEER_VENV)/bin/python $(BENCH)

chaos: $(VENV)/.installed-test
	$(RUN) -m tests.chaos $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

imports: $(VENV)/.installed-dev
	$(BIN)/lint-imports setup.cfg

migrations: $(VENV)/.installed-dev
	DJANGO_SETTINGS_MODULE=tests.settings CQRS_TEST_ENGINES=sqlite $(RUN) -m django makemigrations --check --dry-run django_cqrs_celery

docs: $(VENV)/.installed-dev
	$(RUN) -m sphinx -W -q -b html docs docs/_build/html

clean:
	rm -rf $(VENV) $(BENCH_VENV) $(PEER_VENV) .demo docs/_build build dist *.egg-info
