"""The pytest plugin: the fixture ``cqrs_network``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from django_cqrs_celery.testing import Network


@pytest.fixture
def cqrs_network(settings: object) -> Network:
    """Carry changes from the master models to the replica models of the test's own process, when the test says so."""
    from django_cqrs_celery.testing import Network

    cqrs = dict(getattr(settings, "CQRS", {}))
    cqrs["master"] = {**cqrs.get("master", {}), "dispatch": "relay"}
    settings.CQRS = cqrs  # type: ignore[attr-defined]
    return Network()
