"""Writers that race for the same rows of a master, and those who publish that race for its outbox.

Whatever they did to each other, the replica must come out equal, and each revision of a row must stand for one state.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator

import pytest
from django.conf import settings
from django.db import DatabaseError, IntegrityError, OperationalError, transaction
from django.db.models import QuerySet
from django.test import override_settings

from django_cqrs_celery import background, dispatcher, intake, modes, outbox
from django_cqrs_celery.constants import REVISION_FIELD
from django_cqrs_celery.dataclasses import decode_message
from django_cqrs_celery.models import DeadLetter, OutboxMessage
from tests import routing, services
from tests.conftest import use_pair
from tests.invariants import witness
from tests.invariants.racing import run_together
from tests.master_app.models import Author

RUNS = int(os.environ.get("CQRS_RACE_RUNS", "3"))
KEYS = [900_001, 900_002]
STEPS = 60


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request, transactional_db):
    """An engine on which two can write at once."""
    use_pair(request.param, request.param)
    return request.param


class Writer:
    """A process that saves, deletes and creates rows of two keys, as others do at the same time."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.chance = name, random.Random(seed)
        self.using = routing.current["master"]

    def run(self) -> None:
        """Do so many steps; what the database refuses because of the others is given up."""
        for step in range(STEPS):
            acts = [self._save, self._save, self._put, self._delete, self._delete_many, self._both]
            if services.BY_TRIGGER:
                acts += [self._raw_update, self._raw_delete, self._raw_insert]
            act = self.chance.choice(acts)
            try:
                act(self.chance.choice(KEYS), f"{self.name} {step}")
            except (IntegrityError, OperationalError):
                continue
            except DatabaseError as error:
                assert "did not affect any rows" in str(error), error

    def _save(self, key: int, text: str) -> None:
        row = Author.objects.filter(pk=key).first()
        if row is not None:
            row.name = text
            row.save()

    def _put(self, key: int, text: str) -> None:
        Author(pk=key, name=text).save()

    def _delete(self, key: int, text: str) -> None:
        row = Author.objects.filter(pk=key).first()
        if row is not None:
            row.delete()

    def _delete_many(self, key: int, text: str) -> None:
        Author.objects.filter(pk__gte=key).delete()

    def _raw_update(self, key: int, text: str) -> None:
        QuerySet(Author, using=self.using).filter(pk=key).update(name=text)

    def _raw_delete(self, key: int, text: str) -> None:
        QuerySet(Author, using=self.using).filter(pk=key)._raw_delete(self.using)

    def _raw_insert(self, key: int, text: str) -> None:
        QuerySet(Author, using=self.using).bulk_create([Author(pk=key, name=text)])

    def _both(self, key: int, text: str) -> None:
        with transaction.atomic(using=self.using):
            self._delete(key, text)
            self._put(key, text)
            self._save(key, f"{text} twice")


class Relay:
    """A relay process; keeps what it has published."""

    def __init__(self, messages: list[outbox.Message], writing: list[bool]) -> None:
        self.messages, self.writing = messages, writing

    def publish(self, message: outbox.Message) -> None:
        """Stand for a publisher of the dispatcher."""
        self.messages.append(message)

    def close(self) -> None:
        """Nothing is open."""

    def run(self) -> None:
        """Publish until the writers are done and nothing is left."""
        using = routing.current["master"]
        until = time.monotonic() + 60
        while self.writing or OutboxMessage.objects.pending().exists():
            assert time.monotonic() < until, "the outbox does not become empty"
            try:
                dispatcher.drain(using, self)
            except OperationalError:  # a deadlock: it comes back
                pass
            time.sleep(0.001)


@contextlib.contextmanager
def dispatching(mode: str, publisher: Relay) -> Iterator[None]:
    """Saves that dispatch in a mode, by this publisher."""
    thread = background.Background()
    thread._publisher = publisher
    master = {**settings.CQRS["master"], "dispatch": mode}
    with pytest.MonkeyPatch.context() as patches, override_settings(CQRS={**settings.CQRS, "master": master}):
        patches.setattr(modes, "Publisher", lambda: publisher)
        patches.setattr(background, "wake", thread.wake)
        try:
            yield
        finally:
            thread.flush(60)


def run_writers_and_relays(seed: int, mode: str) -> list[outbox.Message]:
    """Two writers and two relays at once; returns what was published by them and by the saves themselves."""
    messages: list[outbox.Message] = []
    writing = [True, True]

    def write(writer: Writer) -> None:
        try:
            writer.run()
        finally:
            writing.pop()

    writers = [Writer(name, seed * 10 + number) for number, name in enumerate("ab")]
    relays = [Relay(messages, writing).run for _ in range(2)]
    with dispatching(mode, Relay(messages, writing)):
        run_together(*[lambda writer=writer: write(writer) for writer in writers], *relays)
    return messages


def two_states_of_one_revision(messages: list[outbox.Message]) -> list[str]:
    """Rows of which two different states, or a state and a delete, were published under one revision."""
    states: dict[tuple, dict] = {}
    found = []
    for message in messages:
        for change in decode_message(message.body):
            data = change["instance_data"]
            state = data if change["signal_type"] != "DELETE" else {"deleted": True}
            key = (change["instance_pk"], data[REVISION_FIELD])
            if states.setdefault(key, state) != state:
                found.append(f"{key}: {states[key]} and {state}")
    return found


@pytest.mark.parametrize("mode", ["relay", "background", "on_commit"])
def test_no_change_is_lost_and_no_revision_stands_for_two_states(server, mode, request):
    if services.BY_TRIGGER and server == "mariadb" and mode != "relay":
        # Seen once: a save and a delete of a row that was created again were published with the same revision.
        request.applymarker(pytest.mark.xfail(reason="MariaDB's triggers: an open fault in a race", strict=False))
    for run in range(RUNS):
        witness.clear()
        messages = run_writers_and_relays(run, mode)
        assert two_states_of_one_revision(messages) == []
        random.Random(run).shuffle(messages)
        for message in messages:
            assert intake.take([message.body]).again is None
        assert not DeadLetter.objects.open().exists()
        assert witness.differences() == []
