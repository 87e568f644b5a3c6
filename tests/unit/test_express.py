"""Which changes are sent ahead as copies, and what becomes of that when something is wrong."""

from __future__ import annotations

import pytest
from kombu import Connection
from kombu.transport import pyamqp

from django_cqrs_celery import express, outbox


class Channel:
    """As one of RabbitMQ; notes what it publishes without a confirm."""

    def __init__(self):
        self.published = []
        self.connection = None

    def prepare_message(self, body, priority, content_type, content_encoding, headers, properties):
        return body, headers, properties

    def _basic_publish(self, message, **properties):
        self.published.append((message, properties))

    def basic_publish(self, message, **properties):
        pytest.fail("A copy waits for a confirm.")


class FakeConnection:
    def __init__(self):
        self.made = Channel()

    def channel(self):
        return self.made


def message(lone=True):
    return outbox.Message(cqrs_id="author", queue=None, body=b"[]", changes=1, rows=(1,), lone=lone)


def send(copies, connection, one):
    copies.send(connection, one, {"id": "x"}, {"correlation_id": "x", "reply_to": ""})


def test_a_lone_change_has_an_unconfirmed_transient_copy(settings):
    connection = FakeConnection()
    send(express.Copies(), connection, message())
    [((body, headers, properties), where)] = connection.made.published
    assert (body, headers, properties["delivery_mode"]) == (b"[]", {"id": "x"}, 1)
    assert where["routing_key"] == "cqrs-express.author"
    assert not where["mandatory"]


def test_others_have_none(settings):
    connection = FakeConnection()
    copies = express.Copies()
    send(copies, connection, message(lone=False))
    settings.CQRS = {**settings.CQRS, "master": {"express": False}}
    send(copies, connection, message())
    assert not connection.made.published


def test_none_are_sent_for_a_while_after_a_failure(monkeypatch):
    connection, copies = FakeConnection(), express.Copies()
    send(copies, connection, message())
    copies.pause()
    send(copies, connection, message())
    assert len(connection.made.published) == 1
    now = express.time.monotonic()
    monkeypatch.setattr(express.time, "monotonic", lambda: now + express.PAUSE + 1)
    send(copies, connection, message())
    assert len(connection.made.published) == 2


def test_brokers_in_memory_have_none():
    with Connection("memory://") as connection:
        send(express.Copies(), connection, message())
    assert hasattr(pyamqp.Channel, "_basic_publish")  # what a copy goes by past the confirms
