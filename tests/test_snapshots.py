"""A replica that asks for what was there before it: what it asks, what the master does, and who is killed meanwhile."""

from __future__ import annotations

import datetime
import functools
import json

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from django_cqrs_celery import dispatcher, healing, snapshots, syncing, tasks
from django_cqrs_celery.constants import TASK_ANSWER, TASK_VERIFY
from django_cqrs_celery.exceptions import DecodeError, PublishError, Unroutable
from django_cqrs_celery.models import DeadLetter, OutboxMessage, SyncState
from tests import healing as wires
from tests import routing
from tests.master_app import models as master
from tests.replica_app import models as replica


class Wire(wires.Wire):
    """Notes go through the tasks; ``deaf``: nobody listens on the master; ``dies_after``: the master's worker dies."""

    deaf = False
    dies_after: int | None = None

    def send(self, task, note, key):
        if task == TASK_ANSWER and self.deaf:
            raise Unroutable("No queue is bound.")
        return super().send(task, note, key)

    def publish(self, message):
        if self.dies_after is not None:
            if self.dies_after == 0:
                raise Killed
            self.dies_after -= 1
        super().publish(message)

    def step(self):
        task, note = self.notes.pop(0)
        if task == TASK_VERIFY:
            self.deliver()  # one queue: what was sent before the digest comes before it
            self.messages.clear()
            return tasks.cqrs_verify(**note)
        return tasks.cqrs_answer(**note)


class Killed(BaseException):
    pass


@pytest.fixture
def wire(monkeypatch, transactional_db):
    wire = Wire()
    monkeypatch.setattr(dispatcher, "Publisher", lambda: wire)
    return wire


def fill(count=25, *, tell=False):
    """Rows from before the replica: unless they are to be told, the outbox promises none of them."""
    rows = [master.Author(name=f"n{n}", email=f"{n}@example.com") for n in range(count)]
    master.Author.cqrs.bulk_create(rows)
    master.Author._base_manager.update(cqrs_updated=timezone.now() - datetime.timedelta(days=1))
    if not tell:
        OutboxMessage.objects.using(routing.current["master"]).all().delete()


def age(seconds=30, side="both"):
    """Let time pass."""
    for using in {"both": routing.current.values(), "master": [routing.current["master"]]}[side]:
        for state in SyncState.objects.using(using).filter(mode__in=["snapshot", "full"]):
            state.updated_at -= datetime.timedelta(seconds=seconds)
            state.started_at = state.started_at and state.started_at - datetime.timedelta(seconds=seconds)
            state.save(using=using)


def mine():
    return SyncState.objects.using(routing.current["replica"]).get(cqrs_id="author", mode="snapshot")


def is_complete():
    return snapshots.states(["author"])[0]["complete"]


def equal():
    fields = ("pk", "name", "email", "cqrs_revision")
    return set(replica.Author.objects.values_list(*fields)) == set(master.Author.objects.values_list(*fields))


@pytest.mark.usefixtures("engine")
class TestSnapshot:
    def test_everything_comes_and_is_complete_only_then(self, wire):
        fill()
        assert snapshots.ask(["author"]) == snapshots.FIRST_PAUSE
        assert wire.step() == "sent"
        assert not is_complete() and not wire.notes
        age()
        snapshots.ask(["author"])
        assert wire.step() == "compared"
        assert not is_complete()
        wire.talk()
        assert equal() and is_complete() and replica.Author.objects.count() == 25
        age(1000)
        assert snapshots.ask(["author"]) is None and not wire.notes

    def test_is_not_complete_while_a_row_lacks(self, wire):
        fill(3)
        replica.Author.objects.create(id=99, name="x", email="1@example.com", cqrs_revision=0,
                                      cqrs_updated=timezone.now())  # fmt: skip
        for _ in range(3):
            snapshots.ask(["author"])
            wire.settle()
            age(1000)
        assert not is_complete() and replica.Author.objects.filter(pk=99).exists() is not equal()
        replica.Author.objects.filter(pk=99).delete()
        DeadLetter.objects.update(next_retry_at=timezone.now() - datetime.timedelta(seconds=1))
        tasks.cqrs_retry_dead_letters()
        for _ in range(4):
            age(1000)
            snapshots.ask(["author"])
            wire.settle()
        assert equal() and is_complete()

    def test_master_that_is_killed_half_way_goes_on_where_it_was(self, wire, monkeypatch, settings):
        settings.CQRS = {**settings.CQRS, "master": {**settings.CQRS["master"], "message_max_changes": 5}}
        monkeypatch.setattr(syncing, "Wanted", functools.partial(syncing.Wanted, size=5))
        monkeypatch.setattr("django_cqrs_celery.rounds.KEEP_SECONDS", 0)
        fill()
        snapshots.ask(["author"])
        wire.dies_after = 3
        with pytest.raises(Killed):
            wire.step()
        wire.dies_after = None
        assert [message.changes for message in wire.messages] == [5, 5, 5]
        age(5)
        snapshots.ask(["author"])
        assert wire.step() == "busy"  # it may be alive still
        age()
        snapshots.ask(["author"])
        assert wire.step() == "sent"
        assert [message.changes for message in wire.messages] == [5, 5, 5, 5, 5]
        wire.talk()
        assert equal()

    def test_messages_that_are_lost_are_asked_for_again(self, wire):
        fill()
        snapshots.ask(["author"])
        wire.step()
        wire.messages.clear()  # by a broker that was reset
        for _ in range(3):
            age(1000)
            snapshots.ask(["author"])
            wire.settle()
        assert equal() and is_complete()

    def test_replica_that_has_most_rows_is_compared_alone(self, wire):
        fill(tell=True)
        wire.run()
        replica.Author.objects.filter(name="n7").delete()
        snapshots.ask(["author"])
        wire.step()
        assert not wire.messages
        for _ in range(3):
            age(1000)
            snapshots.ask(["author"])
            wire.settle()
        assert equal() and is_complete()

    def test_two_workers_ask_once(self, wire):
        fill(1)
        snapshots.ask(["author"])
        snapshots.ask(["author"])
        assert len(wire.notes) == 1

    def test_nobody_listens_yet(self, wire):
        fill(2)
        wire.deaf = True
        for _ in range(10):
            assert 0 < snapshots.ask(["author"]) <= 48
            age(1000)
        wire.deaf = False
        for _ in range(2):
            snapshots.ask(["author"])
            wire.settle()
            age(1000)
        assert equal() and is_complete()

    def test_old_digest_does_not_complete_a_new_request(self, wire):
        fill(2)
        snapshots.ask(["author"])
        wire.settle()
        age()
        snapshots.ask(["author"])
        wire.step()
        task, digest = wire.notes.pop()
        call_command("cqrs_sync", "--request", "--cqrs-id", "author")
        assert healing.answers_to(digest)[0]["kind"] == "equal"
        wire.notes.append((task, digest))
        wire.notes.reverse()
        wire.step()
        assert not is_complete()


class TestCommand:
    def test_asks_anew_and_waits(self, wire, monkeypatch, capsys):
        fill(2)
        monkeypatch.setattr("django_cqrs_celery.snapshots.FIRST_PAUSE", 0.01)
        monkeypatch.setattr("django_cqrs_celery.snapshots.DIGEST_SECONDS", 0)
        asked = snapshots.ask

        def and_answered(*args, **kwargs):
            pause = asked(*args, **kwargs)
            wire.settle()
            age()
            return pause

        monkeypatch.setattr(snapshots, "ask", and_answered)
        call_command("cqrs_sync", "--request", "--cqrs-id", "author", "--wait", "30")
        assert "author: 2 rows, complete." in capsys.readouterr().out
        call_command("cqrs_status")
        assert "author snapshot to cqrs_tests: finished" in capsys.readouterr().out

    def test_says_what_is_not_complete(self, wire, capsys):
        fill(2)
        call_command("cqrs_sync", "--request", "--cqrs-id", "author", "--format", "json")
        assert json.loads(capsys.readouterr().out) == [{"cqrs_id": "author", "rows": 0, "complete": False}]
        with pytest.raises(CommandError, match="Not all is here"):
            call_command("cqrs_sync", "--request", "--cqrs-id", "author", "--wait", "0.1")

    def test_refuses_what_does_not_go_together(self, wire):
        for more in (("--filter", "{}"), ("--queue", "x"), ("--force",), ("--cqrs-id", "nobody")):
            with pytest.raises(CommandError):
                call_command("cqrs_sync", "--request", *more)
        wire.deaf = True
        with pytest.raises(CommandError, match="No queue is bound"):
            call_command("cqrs_sync", "--request", "--cqrs-id", "author")


@pytest.mark.parametrize("more", [{}, {"round": "x" * 33, "rows": 1}, {"round": "x", "rows": "1"}, {"round": "x"}])
def test_request_that_cannot_be_understood_is_refused(wire, more):
    with pytest.raises(DecodeError):
        tasks.cqrs_answer(kind="snapshot", cqrs_id="author", queue="q", **more)


def test_pool_never_sees_an_error(wire, monkeypatch, settings):
    monkeypatch.setattr(snapshots, "ask", lambda: 1 / 0)
    assert tasks.ask_batch() == 60.0
    settings.CQRS = {**settings.CQRS, "replica": {"request_snapshots": False}}
    assert tasks.ask_batch() is None


def test_unheard_request_of_a_person_is_an_error(wire):
    wire.deaf = True
    with pytest.raises(PublishError):
        snapshots.ask(["author"], anew=True)
