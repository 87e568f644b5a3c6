"""Copies of lone changes, past the replica's queue: what they do, and that nothing depends on them."""

from __future__ import annotations

import pytest

from tests import services
from tests.integration.harness import stop_all, wait_until
from tests.integration.system import system


@pytest.fixture
def running(tmp_path, vhost):
    services.require("rabbitmq", "postgresql")
    with system(tmp_path, engine="postgresql", broker="rabbitmq", vhost=vhost, replicas=("search",)) as built:
        workers = [built.search.worker("-c", "1")]
        yield built, workers
        stop_all(workers)


def change(revision, name):
    data = {
        "iso": "BE", "name": name, "population": 1, "cqrs_revision": revision,
        "cqrs_updated": "2024-01-01T00:00:00+00:00",
    }  # fmt: skip
    return {"signal_type": "SAVE", "cqrs_id": "country", "instance_pk": "BE", "instance_data": data}


def names(built):
    return built.search.run("result = list(Country.objects.values_list('name', 'cqrs_revision'))")


def consumers(built, queue):
    with built.broker.connection() as connection, connection.channel() as channel:
        try:
            return channel.queue_declare(queue, passive=True).consumer_count
        except connection.channel_errors:
            return None


def test_copies(running):
    built, workers = running
    express = f"{built.queue()}.express"
    wait_until(lambda: consumers(built, express) == 1, "the worker consumes copies")

    # A copy brings a row to the next revision, and does nothing else: no row, no gap, no dead letter.
    built.broker.publish_changes(express, change(0, "new"))
    built.master.run("Country.objects.create(iso='BE', name='Belgium', population=1)")
    built.wait_equal()
    built.broker.publish_changes(express, change(2, "a gap"))
    built.broker.publish(express, "no JSON")
    built.broker.publish(express, "{}", headers={"id": "x"})

    def is_ahead():
        # A copy that comes while the worker's process is busy is dropped, so it is sent again.
        built.broker.publish_changes(express, change(1, "ahead"))
        return names(built) == [["ahead", 1]]

    wait_until(is_ahead, "a copy was applied", step=0.2)
    assert not built.letters()

    # What the master saves arrives, whether its copies are of use or not, and each message is acknowledged.
    for number in range(2, 30):
        built.master.run("row = Country.objects.get()\nrow.name = name\nrow.save()", name=f"name {number}")
    built.wait_equal()
    wait_until(lambda: built.broker.count(built.queue()) == 0, "nothing waits")
    assert "Traceback" not in workers[0].log()
    assert not built.letters()

    # The queue goes with the last worker, and its absence is no error.
    stop_all(workers)
    wait_until(lambda: consumers(built, express) is None, "the queue for copies is gone")
    built.master.run("row = Country.objects.get()\nrow.name = 'meanwhile'\nrow.save()")
    workers[:] = [built.search.worker("-c", "1")]
    built.wait_equal()
