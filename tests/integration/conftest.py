"""Fixtures of the integration tests; the logs of the processes that run are shown with a failure."""

from __future__ import annotations

import pytest

from tests.integration import servers
from tests.integration.harness import Process

_SHOWN = 6000


@pytest.fixture(scope="session")
def vhost():
    """RabbitMQ's virtual host of this run, where there can be one."""
    with servers.own_vhost() as name:
        yield name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for process in Process.running:
            report.sections.append((f"log of {process.name}", process.log()[-_SHOWN:]))
    return report
