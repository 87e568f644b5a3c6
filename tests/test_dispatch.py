"""A broker that is away, stalled or full: what dispatch does with the changes, and with the saves that wait for it."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from django.db import connections, transaction
from django.db.models.functions import Now

from django_cqrs_celery import background, dispatcher, modes
from django_cqrs_celery.exceptions import PublishError, Rejected
from django_cqrs_celery.models import OutboxMessage
from tests import routing
from tests.conftest import use_pair
from tests.master_app import models as master


class Broker:
    """Stands for a publisher: takes what it is told to take, and notes what it was asked."""

    def __init__(self, *full: str) -> None:
        self.full = set(full)
        self.is_away = False
        self.asked: list[str] = []
        self.probes = 0

    def publish(self, message):
        self.asked.append(message.cqrs_id)
        if self.is_away:
            raise PublishError("away")
        if message.cqrs_id in self.full:
            raise Rejected("full")

    def probe(self):
        self.probes += 1
        if self.is_away:
            raise PublishError("away")

    def close(self):
        pass


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def using(transactional_db):
    return routing.current["master"]


@pytest.fixture
def inline(settings, monkeypatch, using):
    """The mode ``on_commit`` with a broker of the test's own."""
    broker = Broker()
    settings.CQRS = {**settings.CQRS, "master": {"dispatch": "on_commit"}}
    monkeypatch.setattr(modes._local, "publisher", broker)
    monkeypatch.setattr(modes, "Publisher", lambda: broker)
    monkeypatch.setattr(modes, "_breaker", modes._Breaker())
    monkeypatch.setattr(modes.retries, "backoff", lambda *args, **options: 0.05)
    return broker


# --- a full queue ----------------------------------------------------------------------------------------------------


def test_a_full_queue_does_not_hold_up_other_messages(using, caplog):
    master.Author.objects.create(name="a")
    master.Country.objects.create(iso="aa", name="a")
    broker = Broker("author")
    with caplog.at_level(logging.WARNING, logger="django_cqrs_celery.dispatcher"):
        published = dispatcher.drain(using, broker)
    assert (published.changes, published.rejected) == (1, 1)
    left = OutboxMessage.objects.using(using).pending().get()
    assert (left.cqrs_id, left.attempts, left.lease_token) == ("author", 1, None)
    assert OutboxMessage.objects.using(using).filter(leased_until__gt=Now()).count() == 1
    assert len(caplog.records) == 1
    assert caplog.records[0].action == "cqrs_rejected"


def test_what_a_full_queue_has_refused_goes_when_its_pause_is_over(using):
    master.Author.objects.create(name="a")
    broker = Broker("author")
    dispatcher.drain(using, broker)
    broker.full.clear()
    assert dispatcher.drain(using, broker).claimed == 0
    OutboxMessage.objects.using(using).update(leased_until=None)
    assert dispatcher.drain(using, broker).changes == 1
    assert not OutboxMessage.objects.using(using).exists()


def test_pauses_for_a_full_queue_grow_to_a_cap(using, monkeypatch):
    monkeypatch.setattr(dispatcher.retries.random, "random", lambda: 1.0)
    author = master.Author.objects.create(name="a")
    pauses = []
    for _ in range(6):
        claim = dispatcher._Claim(using)
        composed = dispatcher.outbox.compose(claim.claimed, using)
        pauses.append(claim._pause_of(composed.messages[0]))
        claim._put_back(composed.messages[0], 0)
    assert pauses == [1, 2, 4, 8, 15, 15]
    assert author.pk


def test_a_lone_change_is_an_update_and_all_that_was_waiting(using):
    def messages():
        claim = dispatcher._Claim(using)
        composed = dispatcher.outbox.compose(claim.claimed, using)
        OutboxMessage.objects.using(using).all().delete()
        return [message.lone for message in composed.messages]

    author = master.Author.objects.create(name="a")
    assert messages() == [False]  # its row is not on the replicas yet
    author.save()
    assert messages() == [True]
    author.save()
    master.Author.objects.create(name="b").save()
    assert messages() == [False]
    author.cqrs_sync(queue="of_one")
    assert messages() == [False]
    author.delete()
    assert messages() == [False]


def test_the_thread_looks_again_at_what_a_queue_has_refused(using, monkeypatch):
    monkeypatch.setattr(dispatcher, "REJECTED_PAUSE", 0.1)
    drained = []

    def drain(alias, publisher):
        drained.append(alias)
        return dispatcher.Published(claimed=1, rejected=1 if len(drained) < 3 else 0)

    monkeypatch.setattr(dispatcher, "drain", drain)
    thread = background.Background()
    thread.wake(using)
    wait_for(lambda: len(drained) == 3)
    thread.flush(10)
    assert len(drained) == 3


# --- a save that dispatches by itself --------------------------------------------------------------------------------


def test_only_one_save_waits_for_a_broker_that_is_away(inline, using):
    inline.is_away = True
    for number in range(5):
        master.Author.objects.create(name=str(number))
    assert inline.asked == ["author"]
    assert OutboxMessage.objects.using(using).pending().count() == 5
    wait_for(lambda: inline.probes > 1)
    inline.is_away = False
    wait_for(lambda: not modes._breaker.is_open)
    master.Author.objects.create(name="back")
    assert not OutboxMessage.objects.using(using).exists()


def test_probing_ends_with_the_broker_back(inline, using):
    inline.is_away = True
    master.Author.objects.create(name="a")
    assert "cqrs-probe" in {thread.name for thread in threading.enumerate()}
    inline.is_away = False
    wait_for(lambda: "cqrs-probe" not in {thread.name for thread in threading.enumerate()})


def test_a_save_does_not_work_off_what_all_others_have_left(inline, using, settings):
    settings.CQRS = {**settings.CQRS, "master": {"dispatch": "relay"}}
    for number in range(30):
        master.Author.objects.create(name=str(number))
    settings.CQRS = {**settings.CQRS, "master": {"dispatch": "on_commit", "outbox_batch": 5, "publish_timeout": 1e-9}}
    master.Author.objects.create(name="one more")
    assert OutboxMessage.objects.using(using).pending().count() == 26


def test_commits_that_do_not_wait_for_the_disk_are_the_outbox_s_alone(transactional_db, net):
    """A claim and its end may be taken back by a crash; a transaction of the project may not."""
    use_pair("postgresql", "sqlite")
    connection = connections[routing.current["master"]]

    def setting():
        with connection.cursor() as cursor:
            cursor.execute("SHOW synchronous_commit")
            return cursor.fetchone()[0]

    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = on")  # as everywhere but in this suite
    master.Author.objects.create(name="one")
    assert net.pump() == 1
    assert setting() == "on"
    with transaction.atomic(using=connection.alias):
        master.Author.objects.create(name="two")
        assert net.pump() == 1
        assert setting() == "on"
