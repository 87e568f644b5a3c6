"""A message that kills the worker itself, where the pool works in the worker's main process and no queue counts."""

from __future__ import annotations

import json

import pytest

from tests import services
from tests.integration.harness import stop_all, wait_until
from tests.integration.system import system

LIMIT = 2


@pytest.fixture
def stats(tmp_path, vhost):
    services.require("rabbitmq", "postgresql")
    with system(tmp_path, engine="postgresql", broker="rabbitmq", vhost=vhost, replicas=("stats",),
                queue_type="classic") as built:  # fmt: skip
        yield built


def place(number, title):
    data = {"id": number, "name": title, "country": "xx", "population": 1, "cqrs_revision": 0,
            "cqrs_updated": "2024-01-01T00:00:00+00:00"}  # fmt: skip
    return {"signal_type": "SAVE", "cqrs_id": "city", "instance_pk": number, "instance_data": data, "version": 1}


@pytest.mark.parametrize("pool", [("-P", "solo"), ("-P", "threads", "-c", "3")], ids=["solo", "threads"])
def test_ends_as_a_dead_letter_after_a_bounded_number_of_deliveries(stats, pool):
    """The good messages around it are applied, and none of them is taken for the deadly one."""
    project = stats.replicas["stats"]
    queue = stats.queue("stats")
    extra = {"TESTBED_EXTRA": json.dumps({"delivery_limit": LIMIT, "CQRS_RETRY_DELAY": 1})}
    stop_all([project.worker(*pool, **extra)])  # it declares the queue
    for number in range(1, 8):
        stats.broker.publish_changes(queue, place(number, "deadly" if number == 4 else "good"))
    deaths = 0
    while deaths <= 2 * LIMIT:
        worker = project.worker(*pool, ready=False, **extra)
        try:
            ended = wait_until(
                lambda worker=worker: (worker.popen.poll() is not None) or stats.letters("stats"), "a death or a letter"
            )
            if ended is not True:
                break
            deaths += 1
        finally:
            stop_all([worker])
    assert 1 <= deaths <= LIMIT + 1
    (letter,) = stats.letters("stats")
    assert (letter["status"], json.loads(letter["payload"])["instance_pk"]) == ("dead", 4)
    worker = project.worker(*pool, **extra)
    try:
        wait_until(
            lambda: project.run("result = sorted(Place.objects.values_list('pk', flat=True))") == [1, 2, 3, 5, 6, 7],
            "the good messages are applied",
        )
        assert stats.broker.count(queue) == 0
    finally:
        stop_all([worker])
