"""The projects of the tutorial, with their workers running on a real RabbitMQ: pages are run on them as they stand."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import kombu
import pytest

from tests import services
from tests.docs.blocks import ROOT
from tests.docs.running import Runner

README = ROOT / "README.rst"
HOWTO = ROOT / "docs" / "howto"


def own_names(mark: str) -> dict[str, str]:
    """Names on the pages that would meet those of others on the broker, and the test's own."""
    return {
        "amqp://guest:guest@localhost:5672//": services.AMQP_URL,
        '"shop.changes"': f'"shop.changes.{mark}"',
        'CELERY_TASK_DEFAULT_QUEUE = "shop"': f'CELERY_TASK_DEFAULT_QUEUE = "shop.{mark}"',
        '"queue": "search"': f'"queue": "search.{mark}"',
        "-Q search": f"-Q search.{mark}",
        "-n search@%h": f"-n search.{mark}@%h",
        "-n shop@%h": f"-n shop.{mark}@%h",
        '"queue": "stats"': f'"queue": "stats.{mark}"',
        "--queue search": f"--queue search.{mark}",
        "--queue stats": f"--queue stats.{mark}",
        "-Q stats": f"-Q stats.{mark}",
        "-n stats@%h": f"-n stats.{mark}@%h",
        "digest to search": f"digest to search.{mark}",
        "digest to stats": f"digest to stats.{mark}",
        "sent to stats": f"sent to stats.{mark}",
    }


@pytest.fixture(scope="package")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """The two projects of the README as they are at its end, with their workers running."""
    services.require("rabbitmq")
    mark = uuid.uuid4().hex[:12]
    runner = Runner(tmp_path_factory.mktemp("tutorial"), own_names(mark))
    try:
        runner.take_clone()
        runner.run(README)
        runner.run(HOWTO / "add-a-replica.rst")
        runner.run(HOWTO / "first-fill.rst")
        runner.run(HOWTO / "schema-contract.rst")
        yield runner
    finally:
        runner.stop()
        clean_broker(mark)


def clean_broker(mark: str) -> None:
    """Remove what the projects have declared."""
    with kombu.Connection(services.AMQP_URL) as connection:
        for queue in ("search", "dead_letter_search", "stats", "dead_letter_stats", "shop"):
            connection.default_channel.queue_delete(f"{queue}.{mark}")
        for exchange in ("shop.changes", "shop"):
            connection.default_channel.exchange_delete(f"{exchange}.{mark}")
