"""A master that also publishes for django-cqrs: an outbox row is settled when both exchanges have confirmed it."""

from __future__ import annotations

import json

import kombu
import pytest

from tests import services
from tests.integration.harness import wait_until
from tests.integration.system import system

PENDING = "result = OutboxMessage.objects.pending().count()"


@pytest.fixture
def shop(tmp_path):
    """A master with one moved replica's queue, and a full queue on the exchange of django-cqrs."""
    services.require("rabbitmq")
    with system(tmp_path, engine="sqlite", broker="rabbitmq", replicas=("search",)) as made:
        legacy = f"{made.broker.prefix}_legacy"
        with made.broker.connection() as connection, connection.channel() as channel:
            exchange = kombu.Exchange(legacy, "topic", durable=True)
            arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
            queue = kombu.Queue(legacy, exchange, routing_key="#", queue_arguments=arguments)(channel)
            queue.declare()
            driver = made.master.new_driver(TESTBED_EXTRA=json.dumps({"legacy_exchange": legacy}))
            try:
                yield made, driver, queue
            finally:
                driver.stop()
                queue.delete()
                exchange(channel).delete()


def test_a_change_waits_until_both_have_taken_it(shop):
    made, driver, queue = shop
    driver.run("Country.objects.create(iso='a', name='A')")
    wait_until(lambda: driver.run(PENDING) == 0, "the first change is published")
    driver.run("Country.objects.create(iso='b', name='B')")

    wait_until(lambda: made.broker.count(made.queue()) >= 2, "the moved replica's queue has the second")
    assert driver.run(PENDING) == 1

    bodies = []

    def taken():
        driver.run("from django_cqrs_celery import dispatcher\ndispatcher.relay()")  # as beat does
        message = queue.get(no_ack=True)
        bodies.extend([json.loads(message.body)] if message else [])
        return {body["instance_pk"] for body in bodies} == {"a", "b"}

    wait_until(taken, "django-cqrs has got both", step=0.3)
    wait_until(lambda: driver.run(PENDING) == 0, "the row is settled")
    assert [body["signal_type"] for body in bodies[:2]] == ["SAVE", "SAVE"]


def test_one_exchange_with_a_queue_is_enough(shop):
    made, driver, queue = shop
    with made.broker.connection() as connection, connection.channel() as channel:
        channel.queue_delete(made.queue())
    driver.run("Country.objects.create(iso='a', name='A')")
    wait_until(lambda: driver.run(PENDING) == 0, "the change is published")
    assert json.loads(queue.get(no_ack=True).body)["instance_pk"] == "a"
