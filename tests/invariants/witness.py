"""What the two sides are seen to hold, and what must be true of it at every step."""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.db.models import Model

from django_cqrs_celery.constants import REVISION_FIELD, SignalType
from django_cqrs_celery.dataclasses import decode_message
from django_cqrs_celery.models import DeadLetter, OutboxMessage, Tombstone
from tests import routing
from tests.invariants.operations import MODELS
from tests.replica_app import models as replica_models

REPLICAS: dict[str, type[Model]] = {
    "author": replica_models.Author,
    "book": replica_models.Book,
    "node": replica_models.Node,
    "ticket": replica_models.Ticket,
    "cafe": replica_models.Cafe,
    "place": replica_models.Place,
}
REPLICAS = {name: model for name, model in REPLICAS.items() if name in MODELS}
#: A row: its model and the text of its primary key.
Key = tuple[str, str]
Row = dict[str, Any]


def rows_of(models: dict[str, Any]) -> dict[Key, Row]:
    """Every row of the models, field by field, as far as it travels."""
    found: dict[Key, Row] = {}
    for name, model in models.items():
        names = sorted(field.attname for field in REPLICAS[name]._meta.concrete_fields)
        for values in model._base_manager.values_list(*names):
            row = dict(zip(names, values, strict=True))
            found[(name, str(row[REPLICAS[name]._meta.pk.attname]))] = row
    return found


def clear() -> None:
    """Empty all tables of both sides; faster than a flush. Durability is not under test: SQLite need not sync."""
    for alias in routing.current.values():
        if connections[alias].vendor == "sqlite":
            with connections[alias].cursor() as cursor:
                cursor.execute("PRAGMA synchronous = OFF")
    for model in (MODELS["book"], REPLICAS["book"], *MODELS.values(), *REPLICAS.values()):
        rows = model._base_manager.all()
        if "parent" in {field.name for field in model._meta.fields}:
            rows.update(parent=None)
        rows._raw_delete(rows.db)
    for table in (OutboxMessage, Tombstone, DeadLetter):
        table.objects.all()._raw_delete(table.objects.all().db)


class Witness:
    """Remembers every state that the master has committed and every revision that the replica has shown."""

    def __init__(self) -> None:
        self.states: dict[tuple[Key, int], Row] = {}
        self.last: dict[Key, int] = {}
        self.gone: set[Key] = set()
        self.shown: dict[Key, int] = {}
        self.deleted: dict[Key, int] = {}

    def look_at_master(self) -> None:
        """A revision stands for one state only, and no later state has a lower one."""
        rows = rows_of(MODELS)
        for key, row in rows.items():
            revision = row[REVISION_FIELD]
            before = self.states.setdefault((key, revision), row)
            assert before == row, f"{key}: two states of revision {revision}: {before} and {row}"
            last = self.last.get(key, -1)
            assert revision >= last, f"{key}: revision {revision} after {last} on the master"
            assert revision > last or key not in self.gone, f"{key}: created again with revision {revision}"
            self.last[key] = revision
            self.gone.discard(key)
        self.gone |= set(self.last) - set(rows)

    def hear(self, bodies: list[bytes]) -> None:
        """Note the deletes among changes that the replica is given."""
        for body in bodies:
            for change in decode_message(body):
                if change["signal_type"] == SignalType.DELETE.value:
                    key = (change["cqrs_id"], str(change["instance_pk"]))
                    self.deleted[key] = max(self.deleted.get(key, -1), change["instance_data"][REVISION_FIELD])

    def look_at_replica(self) -> None:
        """Each row is a state that the master had, no older than what was shown before, newer than its last delete."""
        for key, row in rows_of(REPLICAS).items():
            revision = row[REVISION_FIELD]
            assert self.states.get((key, revision)) == row, f"{key}: {row} was never the master's"
            assert revision >= self.shown.get(key, -1), f"{key}: back from {self.shown[key]} to {revision}"
            assert revision > self.deleted.get(key, -1), f"{key}: back with {revision} after delete {self.deleted[key]}"
            self.shown[key] = revision


def differences() -> list[str]:
    """What is not equal on the two sides; empty where they have converged and nothing is left to do."""
    master, replica = rows_of(MODELS), rows_of(REPLICAS)
    found = [f"{key}: master {master.get(key)}, replica {replica.get(key)}"
             for key in sorted(set(master) | set(replica)) if master.get(key) != replica.get(key)]  # fmt: skip
    found += [f"open letter: {letter}" for letter in DeadLetter.objects.open()]
    found += [f"not published: {row}: {row.error}" for row in OutboxMessage.objects.exclude(status=1)]
    return found
