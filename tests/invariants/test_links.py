"""Links, searched for counterexamples: random writes on both ends, messages in any order, repeated; equal in the end.

``test_search_finds_what_is_broken`` takes out what the rules of links stand on, one at a time, and must fail.
"""

from __future__ import annotations

import logging
import random

import pytest
from django.db import OperationalError, connections, transaction
from django.test import override_settings

from django_cqrs_celery import capture, dispatcher, intake, link_capture, linking, triggers
from django_cqrs_celery.models import DeadLetter, OutboxMessage, PendingLink, Tombstone
from tests import network, routing, services
from tests.conftest import use_pair
from tests.invariants.racing import run_together
from tests.master_app import models as master
from tests.replica_app import models as replica

SLOTS = 3
HISTORIES = {"sqlite": 40, "postgresql": 8, "mariadb": 8}
_CQRS = {"queue": "cqrs_tests", "exchange": "cqrs_tests", "master": {"dispatch": "relay", "message_max_changes": 2}}


@pytest.fixture(autouse=True)
def _quiet():
    logger = logging.getLogger("django_cqrs_celery")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def pairs(side):
    """All links, by field."""
    found = {}
    for name in ("topics", "similar", "sequels"):
        field = side.Article._meta.get_field(name)
        keys = (f"{field.m2m_field_name()}_id", f"{field.m2m_reverse_field_name()}_id")
        found[name] = sorted(field.remote_field.through.objects.values_list(*keys))
    return found


def rows(side):
    return {
        model: sorted(getattr(side, model).objects.values_list("pk", "cqrs_revision")) for model in ("Article", "Topic")
    }


class History:
    """What one seed does to both sides."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.net = network.Network()
        for side in (master, replica):
            side.Article.objects.all().delete()
            side.Topic.objects.all().delete()
        for table in (OutboxMessage, Tombstone, DeadLetter, PendingLink):
            table.objects.all().delete()

    def run(self, steps: int = 25) -> None:
        for _ in range(steps):
            if self.random.random() < 0.2:
                with transaction.atomic(using=routing.current["master"]):
                    for _ in range(3):
                        self.write()
            else:
                self.write()
            if self.random.random() < 0.5:
                self.publish()
            if self.random.random() < 0.4:
                self.deliver(self.random.randint(1, 3), again=self.random.random() < 0.3)
        self.publish()
        while self.net.messages:
            self.deliver(self.random.randint(1, 4))
        for _ in range(4):
            intake.retry_due()
        assert rows(replica) == rows(master)
        assert pairs(replica) == pairs(master)
        assert not PendingLink.objects.exists() and not DeadLetter.objects.open().exists()

    def article(self):
        return master.Article.objects.get_or_create(pk=900 + self.random.randrange(SLOTS), defaults={"title": "x"})[0]

    def topic(self):
        return master.Topic.objects.get_or_create(pk=900 + self.random.randrange(SLOTS), defaults={"name": "x"})[0]

    def write(self) -> None:
        article, topic, other = self.article(), self.topic(), self.article()
        self.random.choice([
            lambda: article.topics.add(topic), lambda: article.topics.add(topic), lambda: article.topics.remove(topic),
            lambda: article.topics.set([topic]), article.topics.clear, lambda: topic.articles.add(article, other),
            topic.articles.clear, topic.delete, article.delete, article.save, lambda: article.similar.add(other),
            article.similar.clear, lambda: article.sequels.add(other), lambda: other.prequels.remove(article),
            lambda: master.Topic.objects.all().delete(),
        ])()  # fmt: skip

    def publish(self) -> None:
        with override_settings(CQRS=_CQRS):
            dispatcher.drain(routing.current["master"], self.net)

    def deliver(self, count: int, again: bool = False) -> None:
        self.random.shuffle(self.net.messages)
        batch, rest = self.net.messages[:count], self.net.messages[count:]
        self.net.messages = rest + (batch if again else [])
        if batch:
            assert intake.take([message.body for message in batch]).again is None


def test_links_become_equal_whatever_happens_on_the_way(engine):
    for seed in range(HISTORIES[engine]):
        try:
            History(seed).run()
        except AssertionError as error:
            raise AssertionError(f"history {seed}") from error


def forget_the_owners(monkeypatch):
    """A link raises no revision."""
    monkeypatch.setattr(link_capture, "touch", lambda master, pks, using: None)
    for constraint in triggers.declared_by(master.Article):
        own = connections[routing.current["master"]]
        dropped = [sql for name in constraint.links for sql in constraint.uninstall_links_sql(name, own)]
        _execute(own, dropped)
        return lambda: _execute(own, constraint.install_sql(master.Article, own))
    return None


def _execute(connection, statements):
    triggers.forget_what_is_there()
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def forget_what_targets_take_along(monkeypatch):
    """A row that is deleted takes its links along, for good."""
    monkeypatch.setattr(linking, "keep_broken", lambda kept, using: None)


def forget_what_is_not_here(monkeypatch):
    """A link whose other end is not here is dropped."""
    monkeypatch.setattr(linking, "remember", lambda *args: False)


def raise_once_for_ever(monkeypatch):
    """What was raised in one transaction counts as raised in all."""
    seen: set = set()
    monkeypatch.setattr(capture, "not_raised", lambda m, pks, using: {pk for pk in pks if (m, pk) not in seen})
    monkeypatch.setattr(capture, "raised", lambda m, pks, using: seen.update((m, pk) for pk in pks))


BREAKAGES = [forget_the_owners, forget_what_targets_take_along, forget_what_is_not_here]


@pytest.mark.parametrize("breakage", BREAKAGES if services.BY_TRIGGER else [*BREAKAGES, raise_once_for_ever])
def test_search_finds_what_is_broken(transactional_db, monkeypatch, breakage):
    use_pair("sqlite", "sqlite")
    mend = breakage(monkeypatch)
    try:
        with pytest.raises(AssertionError):
            for seed in range(40):
                History(seed).run()
    finally:
        if mend:
            mend()


@pytest.mark.parametrize("engine_name", ["postgresql", "mariadb"])
def test_links_that_are_changed_at_the_same_time(transactional_db, engine_name):
    """Two writers link and unlink the same rows from both ends; two workers apply what came of it."""
    use_pair(engine_name, engine_name)
    history = History(0)
    articles = [master.Article.objects.create(pk=900 + n, title="x") for n in range(SLOTS)]
    topics = [master.Topic.objects.create(pk=900 + n, name="x") for n in range(SLOTS)]

    def until_done(write, *args):
        while True:
            try:
                return write(*args)
            except OperationalError:  # the database may choose a writer as the victim of a deadlock
                continue

    def forward():
        for n in range(12):
            until_done(articles[n % SLOTS].topics.add, topics[n % 2])
            until_done(articles[(n + 1) % SLOTS].topics.remove, topics[n % 2])

    def backward():
        for n in range(12):
            until_done(master.Topic.objects.get(pk=topics[n % 2].pk).articles.clear)

    run_together(forward, backward)
    history.publish()
    bodies = [message.body for message in history.net.messages]
    halves = [bodies[::2] + bodies[1::2], bodies[1::2] + bodies[::2]]

    def work(part):
        for body in part:
            while intake.take([body]).again is not None:
                pass

    run_together(*[lambda part=part: work(part) for part in halves])
    for _ in range(3):
        intake.retry_due()
    assert rows(replica) == rows(master) and pairs(replica) == pairs(master)
