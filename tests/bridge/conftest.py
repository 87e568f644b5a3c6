"""Fixtures of the bridge's tests: django-cqrs in an environment of its own, and services that run it."""

from __future__ import annotations

import subprocess

import pytest

from tests import services
from tests.bridge import fleet as fleets


@pytest.fixture(scope="session")
def peer():
    """Python of an environment that has django-cqrs; made by the Makefile."""
    services.require("rabbitmq", "postgresql")
    try:
        return fleets.install_peer()
    except (subprocess.SubprocessError, OSError) as error:
        reason = f"django-cqrs cannot be installed: {error}\n{getattr(error, 'stderr', b'') or b''!r}"
        if services.IN_CI:
            pytest.fail(f"{reason}, and CI needs it")
        pytest.skip(reason)


@pytest.fixture
def fleet(peer, tmp_path):
    """A shop and its search, which django-cqrs runs; their processes end with the test."""
    before = list(fleets.Process.running)
    with fleets.fleet(tmp_path, peer) as made:
        try:
            yield made
        finally:
            for process in [each for each in fleets.Process.running if each not in before]:
                process.stop(deadline=10)
