"""Workers that race for the same rows: none of them may be left wrong, on databases where writers really meet.

``CQRS_RACE_RUNS`` says how often each race is run (3). That the races can tell is shown by the breakages at the end:
without the locks, or without the conditional insert, or without the gate, rows do go wrong.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from django_cqrs_celery import intake, recordsets, upserts
from django_cqrs_celery.constants import SignalType
from django_cqrs_celery.dataclasses import TransportPayload, dumps, encode_message
from django_cqrs_celery.models import DeadLetter
from django_cqrs_celery.querysets import TombstoneQuerySet
from tests.conftest import use_pair
from tests.invariants import witness
from tests.invariants.racing import DEADLINE, Workers, run_together
from tests.replica_app import models as replica

logger = logging.getLogger(__name__)
RUNS = int(os.environ.get("CQRS_RACE_RUNS", "3"))
BATCHES = 10


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request, transactional_db):
    """An engine on which two can write at once."""
    use_pair(request.param, request.param)
    return request.param


class Author:
    """Changes of authors: the set-based path."""

    table = replica.Author
    rows = 1000

    @staticmethod
    def key(number: int):
        return number + 1

    @staticmethod
    def data(number: int, revision: int) -> dict:
        return {
            "id": number + 1, "name": f"{number} at {revision}", "email": None, "born": None, "rating": revision,
        }  # fmt: skip


class Ticket:
    """Changes of tickets: the path through hooks."""

    table = replica.Ticket
    rows = 300

    @staticmethod
    def key(number: int):
        return uuid.UUID(int=number + 1)

    @staticmethod
    def data(number: int, revision: int) -> dict:
        return {"code": str(uuid.UUID(int=number + 1)), "title": f"{number} at {revision}"}


def change(kind, number: int, revision: int, *, delete: bool = False) -> str:
    """The text of a change of one row."""
    pk = kind.key(number)
    stamps = {"cqrs_revision": revision, "cqrs_updated": timezone.now().isoformat()}
    data = {kind.table._meta.pk.name: str(pk)} if delete else kind.data(number, revision)
    payload = TransportPayload(
        signal_type=SignalType.DELETE if delete else SignalType.SAVE, cqrs_id=kind.table.CQRS_ID,
        instance_pk=pk if isinstance(pk, int) else str(pk), instance_data={**data, **stamps},
    )  # fmt: skip
    return dumps(payload.to_dict())


def messages_of(changes: list[str], count: int = BATCHES) -> list[list[bytes]]:
    """The changes in so many batches, a message each."""
    size = -(-len(changes) // count)
    return [[encode_message(changes[start : start + size])] for start in range(0, len(changes), size)]


def settle() -> None:
    """Retry what was set aside until it is in; at the end nothing is open."""
    until = time.monotonic() + 30
    while DeadLetter.objects.open().exists():
        assert time.monotonic() < until, list(DeadLetter.objects.open()[:5])
        DeadLetter.objects.filter(status="pending").update(next_retry_at=timezone.now() - timedelta(hours=1))
        intake.retry_due()


def wrong(kind, expected: dict) -> list:
    """Rows that are not as they have to be: by number, the revision, or None for a row that must be gone."""
    text = "name" if kind is Author else "title"
    found = {pk: (revision, value) for pk, revision, value in
             kind.table.objects.values_list("pk", "cqrs_revision", text)}  # fmt: skip
    bad = []
    for number, revision in expected.items():
        want = None if revision is None else (revision, f"{number} at {revision}")
        if found.pop(kind.key(number), None) != want:
            bad.append(number)
    return bad + sorted(map(str, found))


def both_updates(kind, shuffled: random.Random | None = None):
    """Two adjacent updates of each row; unless shuffled, each batch of the first meets one of the second."""
    first = [change(kind, n, 1) for n in range(kind.rows)]
    second = [change(kind, n, 2) for n in range(kind.rows)]
    if shuffled:
        together = first + second
        shuffled.shuffle(together)
        return messages_of(together), dict.fromkeys(range(kind.rows), 2)
    half = BATCHES // 2
    pairs = zip(messages_of(first, half), messages_of(second, half), strict=True)
    return [batch for pair in pairs for batch in pair], dict.fromkeys(range(kind.rows), 2)


def with_deletes(kind, chance: random.Random):
    """Two updates of each row, and deletes of every third among them; some rows are created again after it."""
    changes, expected = [], {}
    for n in range(kind.rows):
        changes += [change(kind, n, 1), change(kind, n, 2)]
        expected[n] = 2
        if n % 3 == 0:
            changes.append(change(kind, n, 3, delete=True))
            expected[n] = None
        if n % 6 == 0:
            changes.append(change(kind, n, 4))
            expected[n] = 4
    chance.shuffle(changes)
    return messages_of(changes), expected


def deletes_of_rows_not_yet_there(kind, chance: random.Random):
    """Creates and deletes of the same rows, neither there before; the delete is newer."""
    creates = [change(kind, n, 0) for n in range(kind.rows)]
    deletes = [change(kind, n, 1, delete=True) for n in range(kind.rows)]
    half = BATCHES // 2
    pairs = zip(messages_of(creates, half), messages_of(deletes, half), strict=True)
    return [batch for pair in pairs for batch in pair], dict.fromkeys(range(kind.rows), None)


RACES = {
    "adjacent updates": lambda kind, chance: both_updates(kind),
    "shuffled updates": both_updates,
    "deletes among them": with_deletes,
    "deletes of rows not yet there": deletes_of_rows_not_yet_there,
}


def race(kind, make, seed: int, *, present: bool, workers: int = 2) -> list:
    """Run one race; returns the rows that came out wrong."""
    witness.clear()
    batches, expected = make(kind, random.Random(seed))
    if present:
        for batch in messages_of([change(kind, n, 0) for n in range(kind.rows)], 2):
            assert intake.take(batch).again is None
    Workers(batches).run(workers)
    settle()
    return wrong(kind, expected)


@pytest.mark.parametrize("kind", [Author, Ticket], ids=["sets", "hooks"])
@pytest.mark.parametrize("name", RACES)
def test_no_row_is_wrong(server, name, kind):
    present = name != "deletes of rows not yet there"
    for run in range(RUNS):
        assert race(kind, RACES[name], run, present=present) == []


@pytest.mark.parametrize("name", ["adjacent updates", "shuffled updates", "deletes among them"])
def test_no_row_is_wrong_where_none_was_there(server, name):
    """The same, with rows that the racing batches have to create."""
    for run in range(RUNS):
        assert race(Author, RACES[name], run, present=False, workers=3) == []


def parents_and_children_that_move(chance: random.Random):
    """Nodes under a parent each; all parents are deleted while their children move to the root."""

    def node(number: int, revision: int, parent: int | None, delete: bool = False) -> str:
        data = {"id": number, "name": f"{number}", "parent": parent, "cqrs_revision": revision}
        payload = TransportPayload(
            signal_type=SignalType.DELETE if delete else SignalType.SAVE, cqrs_id="node", instance_pk=number,
            instance_data={**data, "cqrs_updated": timezone.now().isoformat()},
        )  # fmt: skip
        return dumps(payload.to_dict())

    parents, children = range(1, 301), range(1001, 1301)
    before = [node(n, 0, None) for n in parents] + [node(n, 0, n - 1000) for n in children]
    deletes = [node(n, 1, None, delete=True) for n in parents]
    moves = [node(n, 1, None) for n in children]
    if chance.random() < 0.5:
        chance.shuffle(deletes)
        chance.shuffle(moves)
    pairs = zip(messages_of(deletes, 5), messages_of(moves, 5), strict=True)
    return messages_of(before, 2), [batch for pair in pairs for batch in pair]


def test_children_that_move_survive_the_delete_of_their_parents(server):
    for run in range(RUNS):
        witness.clear()
        before, batches = parents_and_children_that_move(random.Random(run))
        for batch in before:
            assert intake.take(batch).again is None
        Workers(batches).run()
        settle()
        found = set(replica.Node.objects.values_list("pk", "cqrs_revision", "parent"))
        assert found == {(n, 1, None) for n in range(1001, 1301)}


@pytest.mark.parametrize("kind", [Author, Ticket], ids=["sets", "hooks"])
def test_created_and_deleted_elsewhere_between_tombstone_and_insert(server, monkeypatch, kind):
    """The worker that is late has looked for tombstones; then the row comes and goes; then it inserts an old state."""
    witness.clear()
    # MariaDB's gate is a row: whoever is the first ever to need it makes it, and holds it alone.
    for first in (change(kind, 9, 0), change(kind, 9, 1, delete=True)):
        assert intake.take([encode_message([first])]).again is None
    looked, go_on = threading.Event(), threading.Event()
    revisions = TombstoneQuerySet.revisions

    def look_and_wait(self, cqrs_id, pks):
        found = revisions(self, cqrs_id, pks)
        if threading.current_thread().name == "late" and not looked.is_set():
            looked.set()
            assert go_on.wait(DEADLINE)
        return found

    monkeypatch.setattr(TombstoneQuerySet, "revisions", look_and_wait)

    def late() -> None:
        threading.current_thread().name = "late"
        assert intake.take([encode_message([change(kind, 0, 0)])]).again is None

    def others() -> None:
        assert looked.wait(DEADLINE)
        assert intake.take([encode_message([change(kind, 0, 1)])]).again is None
        assert intake.take([encode_message([change(kind, 0, 2, delete=True)])]).again is None
        go_on.set()

    run_together(late, others)
    assert not kind.table.objects.exists()
    assert not DeadLetter.objects.open().exists()


# --- the races must tell what is broken ----------------------------------------------------------------------------


def compare_without_locks(monkeypatch):
    """The revision is read, and the row written later: another worker comes between."""

    def read(model, pks, using):
        return dict(model._base_manager.using(using).filter(pk__in=pks).values_list("pk", "cqrs_revision"))

    monkeypatch.setattr(upserts, "lock", read)


def insert_without_condition(monkeypatch):
    """A new row overwrites whatever another worker has inserted meanwhile."""
    write = recordsets.write
    monkeypatch.setattr(recordsets, "write", lambda *args, conditional: write(*args, conditional=False))


def leave_the_gate_open(monkeypatch):
    """Creating a row and deleting one that is not there do not meet; nor does the insert look once more."""
    monkeypatch.setattr(upserts, "gate", lambda *args, **kwargs: None)


@pytest.mark.parametrize(
    ("engine_name", "breakage", "name", "present"),
    [
        ("postgresql", compare_without_locks, "adjacent updates", True),
        ("mariadb", compare_without_locks, "adjacent updates", True),
        ("postgresql", insert_without_condition, "adjacent updates", False),
        ("postgresql", leave_the_gate_open, "deletes of rows not yet there", False),
        ("mariadb", leave_the_gate_open, "deletes of rows not yet there", False),
    ],
)
def test_race_tells_what_is_broken(transactional_db, monkeypatch, engine_name, breakage, name, present):
    use_pair(engine_name, engine_name)
    breakage(monkeypatch)
    for run in range(20):
        if found := race(Author, RACES[name], run, present=present):
            logger.warning("%s rows are wrong after %s runs", len(found), run + 1)
            return
    pytest.fail("20 races, and every row was right")
