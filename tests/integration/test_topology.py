"""Queues that are there already, with other properties than the settings say."""

from __future__ import annotations

import uuid

import pytest
from kombu import Connection

from django_cqrs_celery import topology
from django_cqrs_celery.exceptions import ConfigurationError
from tests import services
from tests.integration.harness import wait_until


@pytest.fixture
def broker(settings):
    services.require("rabbitmq")
    mark = uuid.uuid4().hex[:12]
    settings.CQRS = {"queue": f"cqrs.{mark}", "exchange": f"cqrs.{mark}", "master": {"replicas": [f"cqrs.{mark}"]}}
    with Connection(services.AMQP_URL) as connection:
        yield connection.default_channel
        cleaner = connection.channel()
        for queue in (f"cqrs.{mark}", f"dead_letter_cqrs.{mark}"):
            cleaner.queue_delete(queue)
        cleaner.exchange_delete(f"cqrs.{mark}")


def other_type(settings):
    settings.CQRS = {**settings.CQRS, "queue_type": "classic"}


def test_replica_says_what_to_do(broker, settings):
    topology.declare_own_queue(broker)
    other_type(settings)
    with pytest.raises(ConfigurationError, match="queue_type.*delete it"):
        topology.declare_own_queue(broker)
    assert broker.is_open


def test_master_uses_the_queue_as_it_is(broker, settings):
    topology.declare_own_queue(broker)
    other_type(settings)
    topology.declare_for_publishing(broker)
    key = topology.routing_key("author")
    broker.basic_publish(broker.prepare_message(b"x"), exchange=settings.CQRS["exchange"], routing_key=key)
    wait_until(lambda: broker.basic_get(settings.CQRS["queue"], no_ack=True), "the message is in the queue")
