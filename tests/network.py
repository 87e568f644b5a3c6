"""The package's own network in memory, on the pair of databases that the test has chosen."""

from __future__ import annotations

from django_cqrs_celery import testing
from tests import routing


class Network(testing.Network):
    """As ``django_cqrs_celery.testing.Network``, for the master's database of this moment."""

    def pump(self) -> int:
        self.using = routing.current["master"]
        return super().pump()
