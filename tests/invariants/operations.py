"""Everything a project does to rows of a master, as values that Hypothesis can draw, shrink and print.

A *script* is what happens in one transaction, or one after the other without one: operations, and savepoints that are
kept or taken back. Each operation acts on a *slot*, a primary key from a small set, so that histories keep meeting.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db import IntegrityError, connections, models, transaction
from django.db.models import F
from hypothesis import strategies as st

from tests import routing, services
from tests.master_app.models import Author, Book, Cafe, Node, Place, Ticket

MODELS: dict[str, Any] = {"author": Author, "book": Book, "node": Node, "ticket": Ticket}
if services.BY_TRIGGER:
    # A café is a place: its row is in two tables, and the two share a revision.
    MODELS |= {"cafe": Cafe, "place": Place}
#: How many primary keys of each model the operations know; far from where the databases' sequences start.
SLOTS = 3
_FIRST = 900_001


class Undo(Exception):
    """Takes a transaction or a savepoint back."""


@dataclass(frozen=True)
class Op:
    """One thing done to rows: what, to which model and slots, with a number that the values are made of."""

    verb: str
    model: str
    slot: int
    number: int
    parent: int | None = None


@dataclass(frozen=True)
class Savepoint:
    """Steps in a savepoint that is kept, or taken back by an exception or by hand."""

    steps: tuple[Any, ...]
    end: str


@dataclass(frozen=True)
class Script:
    """Steps of one transaction, or (``auto``) without one around them."""

    steps: tuple[Any, ...]
    end: str


_slots = st.integers(0, SLOTS - 1)
_verbs = st.sampled_from([
    "put", "put", "put", "save", "save", "save_twice", "save_fields", "increment", "delete", "delete",
    "delete_and_create", "delete_many", "bulk_create", "bulk_update", "update_or_create", "create_auto", "hold",
    "save_held", "sync", "swap", "swap",
    # Past Django's capture, as other programs write.
    *(["raw_update", "raw_update", "raw_delete", "raw_upsert", "raw_upsert"] if services.BY_TRIGGER else []),
])  # fmt: skip
ops = st.builds(
    Op, verb=_verbs, model=st.sampled_from(sorted(MODELS)), slot=_slots, number=st.integers(0, 9),
    parent=st.none() | _slots,
)  # fmt: skip
_steps = st.recursive(
    st.lists(ops, min_size=1, max_size=3).map(tuple),
    lambda inner: st.lists(
        ops | st.builds(Savepoint, inner, st.sampled_from(["keep", "raise", "by hand"])), min_size=1, max_size=3
    ).map(tuple),
    max_leaves=3,
)


def _family(parent_model: str, child_model: str, parent: int, child: int, number: int) -> Script:
    steps = [("delete", parent_model, parent), ("put", parent_model, parent), ("put", child_model, child)]
    return Script(tuple(Op(verb, model, slot, number, parent) for verb, model, slot in steps), "auto")


#: A parent goes and comes back, and a child is put under it.
families = st.builds(
    lambda models, *rest: _family(*models, *rest), st.sampled_from([("author", "book"), ("node", "node")]),
    st.integers(0, 1), _slots, st.integers(0, 9),
)  # fmt: skip
scripts = st.builds(Script, _steps, st.sampled_from(["auto", "auto", "commit", "commit", "rollback"]))


def key_of(name: str, slot: int) -> Any:
    """Primary key of a slot."""
    return uuid.UUID(int=slot + 1) if name == "ticket" else _FIRST + slot


def _text_of(name: str) -> str:
    """A field of a model that holds a text."""
    return "name" if name in ("author", "node", "cafe", "place") else "title"


class Hand:
    """Carries out scripts; holds the instances that a process may have in memory for long."""

    def __init__(self) -> None:
        self.using = routing.current["master"]
        self.held: dict[tuple[str, int], models.Model] = {}

    def run(self, script: Script) -> None:
        """Carry out a script. What the master's database refuses undoes the whole script."""
        try:
            if script.end == "auto":
                self._steps(script.steps)
                return
            with transaction.atomic(using=self.using):
                self._steps(script.steps)
                if script.end == "rollback":
                    raise Undo
        except (Undo, IntegrityError):
            pass

    def _steps(self, steps: tuple[Any, ...]) -> None:
        for step in steps:
            if isinstance(step, Savepoint):
                self._savepoint(step)
            else:
                getattr(self, f"_{step.verb}")(step)

    def _savepoint(self, savepoint: Savepoint) -> None:
        if savepoint.end == "by hand":
            with transaction.atomic(using=self.using):
                point = transaction.savepoint(using=self.using)
                self._steps(savepoint.steps)
                transaction.savepoint_rollback(point, using=self.using)
            return
        try:
            with transaction.atomic(using=self.using):
                self._steps(savepoint.steps)
                if savepoint.end == "raise":
                    raise Undo
        except Undo:
            pass

    # -- rows --------------------------------------------------------------------------------------------------------

    def populate(self) -> None:
        """A row of each model to begin with."""
        for name in MODELS:
            self._put(Op("put", name, 0, 1))

    def _find(self, op: Op) -> Any:
        """The row of a slot; where that is empty, any other."""
        rows = MODELS[op.model].objects
        return rows.filter(pk=key_of(op.model, op.slot)).first() or rows.order_by("pk").first()

    def _values(self, op: Op, key: Any) -> dict[str, Any] | None:
        """Values of a row; None where its parent is not there."""
        name = f"{op.model} {op.number}"
        if op.model == "author":
            # Unique, from a few that rows take over from each other.
            email = f"{op.number % 3}@example.com" if op.number % 2 else None
            if Author.objects.filter(email=email).exclude(pk=key if isinstance(key, int) else None).exists():
                email = None
            born = datetime.date(1900 + op.number, 1, 2) if op.number % 3 else None
            return {"name": name, "rating": op.number, "email": email, "born": born}
        if op.model == "book":
            author = Author.objects.filter(pk=key_of("author", op.parent or 0)).first() or Author.objects.first()
            return author and {"title": name, "author": author, "price": Decimal(op.number) / 4}
        if op.model == "node":
            parent = None if op.parent is None else Node.objects.filter(pk=key_of("node", op.parent)).first()
            return {"name": name, "parent": parent}
        if op.model in ("cafe", "place"):
            return {"name": name} | ({"seats": op.number // 2} if op.model == "cafe" else {})
        return {"title": name}

    def _write(self, op: Op, write: Callable[[Any, dict[str, Any]], Any]) -> None:
        key = key_of(op.model, op.slot)
        values = self._values(op, key)
        if values:
            write(key, values)

    # -- operations --------------------------------------------------------------------------------------------------

    def _put(self, op: Op) -> None:
        """A new instance under a chosen key: an INSERT, or an UPDATE where the key is taken."""
        self._write(op, lambda key, values: MODELS[op.model](pk=key, **values).save(force_insert=False))

    def _create_auto(self, op: Op) -> None:
        values = self._values(op, f"auto-{uuid.uuid4()}")
        if values:
            MODELS[op.model].objects.create(**values)

    def _save(self, op: Op) -> None:
        row = self._find(op)
        if row is not None:
            self._change(row, op)
            row.save()

    def _change(self, row: Any, op: Op) -> None:
        for name, value in (self._values(op, row.pk) or {}).items():
            setattr(row, name, value)

    def _save_twice(self, op: Op) -> None:
        row = self._find(op)
        if row is not None:
            self._change(row, op)
            row.save()
            row.cqrs_revision = None if op.number % 2 else 0  # what Python remembers does not matter
            self._change(row, Op(op.verb, op.model, op.slot, op.number + 1, op.parent))
            row.save()

    def _save_fields(self, op: Op) -> None:
        row = self._find(op)
        if row is not None:
            field = _text_of(op.model)
            setattr(row, field, f"fields {op.number}")
            row.save(update_fields=[field], update_cqrs_fields=True)

    def _increment(self, op: Op) -> None:
        row = Author.objects.filter(pk=key_of("author", op.slot)).first()
        if row is not None:
            row.rating = F("rating") + 1
            row.save()

    def _delete(self, op: Op) -> None:
        row = self._find(op)
        if row is not None:
            row.delete()

    def _delete_and_create(self, op: Op) -> None:
        MODELS[op.model].objects.filter(pk=key_of(op.model, op.slot)).delete()
        self._write(op, lambda key, values: MODELS[op.model].objects.create(pk=key, **values))

    def _delete_many(self, op: Op) -> None:
        keys = [key_of(op.model, slot) for slot in range(op.slot, SLOTS)]
        MODELS[op.model].objects.filter(pk__in=keys).delete()

    def _bulk_create(self, op: Op) -> None:
        model = MODELS[op.model]
        if model._meta.parents:
            return  # Django cannot
        rows = []
        for slot in range(op.slot, SLOTS):
            key = key_of(op.model, slot)
            values = self._values(Op(op.verb, op.model, slot, op.number, op.parent), key)
            if values and not model.objects.filter(pk=key).exists():
                rows.append(model(pk=key, **values))
        model.cqrs.bulk_create(rows)

    def _bulk_update(self, op: Op) -> None:
        model = MODELS[op.model]
        field = _text_of(op.model)
        keys = [key_of(op.model, slot) for slot in range(op.slot + 1)]
        model.cqrs.bulk_update(model.objects.filter(pk__in=keys), **{field: f"bulk {op.number}"})

    def _update_or_create(self, op: Op) -> None:
        self._write(op, lambda key, values: MODELS[op.model].objects.update_or_create(pk=key, defaults=values))

    def _swap(self, op: Op) -> None:
        """Two authors swap their unique addresses, in as many steps as that takes; or two nodes their parents."""
        one, other = (MODELS[op.model].objects.filter(pk=key_of(op.model, slot)).first() for slot in (0, 1))
        if one is None or other is None:
            return
        if op.model == "author":
            one.email, other.email, taken = None, one.email, other.email
            one.save()
            other.save()
            one.email = taken
            one.save()
        elif op.model == "node":
            one.parent, other.parent = other, one
            one.save()
            other.save()

    def _raw_update(self, op: Op) -> None:
        values: dict[str, Any] = {_text_of(op.model): f"raw {op.number}"}
        if op.model == "cafe" and op.number % 3:
            values = {"seats": op.number} if op.number % 2 else {**values, "seats": op.number}
        self._raw(op).filter(pk=key_of(op.model, op.slot)).update(**values)

    def _raw_delete(self, op: Op) -> None:
        self._raw(op).filter(pk=key_of(op.model, op.slot))._raw_delete(self.using)

    def _raw_upsert(self, op: Op) -> None:
        """``INSERT … ON CONFLICT … DO UPDATE``."""
        rows, field = self._raw(op), _text_of(op.model)
        if rows.model._meta.parents:
            return
        target = ["pk"] if connections[self.using].features.supports_update_conflicts_with_target else None

        def write(key: Any, values: dict[str, Any]) -> None:
            rows.bulk_create(
                [rows.model(pk=key, **values)], update_conflicts=True, unique_fields=target, update_fields=[field]
            )

        self._write(op, write)

    def _raw(self, op: Op) -> models.QuerySet:
        """Rows of a model by a plain queryset, which nobody captures but the database."""
        return models.QuerySet(MODELS[op.model], using=self.using)

    def _hold(self, op: Op) -> None:
        row = self._find(op)
        if row is not None:
            self.held[(op.model, op.slot)] = row

    def _save_held(self, op: Op) -> None:
        """Save an instance from long ago, whatever has happened to its row since."""
        row: Any = self.held.get((op.model, op.slot))
        if row is not None:
            row.save()

    def _sync(self, op: Op) -> None:
        row = self._find(op)
        if row is not None:
            row.cqrs_sync()

