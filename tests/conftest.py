"""Fixtures of the whole suite: a pair of databases, and a network between them that the test controls."""

from __future__ import annotations

import signal

import pytest
from django.conf import settings
from django.db import connections

from tests import emptying, network, routing, services
from tests.replica_app import models as replica_models

# A suite that is started in the background of a shell ignores Ctrl+C, and so would the processes that it starts and
# stops that way.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ENGINES = ("sqlite", "postgresql", "mariadb")

emptying.install()


def use_pair(master: str, replica: str) -> None:
    """Route the two sides to these engines; skip, or fail in CI, where one of them is away."""
    services.require(master, replica)
    for engine in (master, replica):
        if engine not in settings.ENGINES:
            pytest.skip(f"{engine} is not among CQRS_TEST_ENGINES")
    routing.current.update(master=f"{master}_master", replica=f"{replica}_replica")


@pytest.fixture(autouse=True)
def _default_pair():
    before = dict(routing.current)
    replica_models.Ticket.calls.clear()
    replica_models.Ticket.fail_with = None
    yield
    routing.current.update(before)


@pytest.fixture(params=ENGINES)
def engine(request, transactional_db):
    """Both sides on one engine, each in a database of its own."""
    use_pair(request.param, request.param)
    return request.param


@pytest.fixture
def net(transactional_db):
    """What carries the master's messages to the replica in this process, under the test's control."""
    return network.Network()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """What a test has logged may hold half a character, which cannot be told to the process that reports."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode("utf-8")) for title, text in report.sections
    ]
    return report


def pytest_collection_modifyitems(items):
    for item in items:
        if "transactional_db" in getattr(item, "fixturenames", ()) or item.get_closest_marker("django_db"):
            item.add_marker(pytest.mark.django_db(databases=list(connections), transaction=True))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Two processes may share the tests: ``pytest -n 2``."""
    from tests.lanes import OneSystemAtATime

    return OneSystemAtATime(config, log)
